// The browser of images in report.html: filters, thumbnails, and a larger view with all boxes.
// It reads #browser-data, written by browser.html, and refers to nothing outside of the page.
"use strict";

(() => {
  const MISSED = "missed";
  const AT_ONCE = 48; // thumbnails that are added at a time
  const MOST_CAPTIONS = 14; // more hide the image

  const data = JSON.parse(document.getElementById("browser-data").textContent);
  const byId = (id) => document.getElementById(id);
  const kindBoxes = [...document.querySelectorAll("#browser-filters [name=kind]")];
  const viewer = byId("viewer");
  const stage = byId("viewer-stage");

  let matching = []; // indices of the images that the filters leave, most faults first
  let shown = AT_ONCE; // how many of them have a thumbnail on the page
  let current = -1; // the place in `matching` of the image in the viewer
  const thumbs = new Map(); // image -> its button, made when first shown

  function html(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function svg(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function filters() {
    const label = byId("browser-class").value;
    return {
      label: label === "" ? null : Number(label),
      score: Number(byId("browser-score").value),
      kinds: new Set(kindBoxes.filter((box) => box.checked).map((box) => box.value)),
      faultless: byId("browser-faultless").checked,
    };
  }

  // What is drawn in an image from a score on: objects first, then detections.
  function boxesOf(image, { label, score }) {
    const boxes = [];
    for (const [of, finder, crowd, ...corners] of image.objects) {
      const found = finder >= score;
      const kind = crowd ? "crowd" : found ? "truth" : MISSED;
      const what = crowd ? "crowd region" : found ? "object" : MISSED;
      boxes.push({
        kind,
        corners,
        name: data.names[of],
        text: `${data.names[of]}: ${what}`,
        what,
        fault: kind === MISSED,
        wanted: label === null || label === of,
      });
    }
    for (const [of, own, kindIndex, object, iou, ...corners] of image.detections) {
      if (own < score) continue;
      const kind = data.kinds[kindIndex];
      const about = object < 0 ? null : image.objects[object][0];
      const what = kind.replace("_", " ");
      const instead = kind === "wrong_class" ? ` for ${data.names[about]}` : "";
      const overlap = object < 0 ? "" : `, IoU ${iou.toFixed(2)}`;
      const name = `${data.names[of]} ${own.toFixed(2)}`;
      boxes.push({
        kind,
        corners,
        name,
        text: `${name}: ${what}${instead}${overlap}`,
        what: what + instead + overlap,
        fault: kind !== "correct",
        wanted: label === null || label === of || label === about,
      });
    }
    return boxes;
  }

  function rect(box) {
    const [x0, y0, x1, y1] = box.corners;
    const place = { x: x0, y: y0, width: Math.max(x1 - x0, 0.5), height: Math.max(y1 - y0, 0.5) };
    const classes = `box ${box.kind}${box.wanted ? "" : " other"}`;
    return svg("rect", { class: classes, ...place }, svg("title", {}, box.text));
  }

  const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);

  // Smaller boxes above larger ones, so that the pointer reaches all.
  const bySize = (boxes) => [...boxes].sort((a, b) => area(b.corners) - area(a.corners));

  function frame(image) {
    const box = `0 0 ${image.width} ${image.height}`;
    const place = { width: image.width, height: image.height };
    return [box, svg("image", { href: image.jpeg, ...place, preserveAspectRatio: "none" })];
  }

  function thumb(index) {
    if (!thumbs.has(index)) {
      const image = data.images[index];
      const [viewBox, pixels] = frame(image);
      const drawn = svg("svg", { viewBox, "aria-hidden": "true" }, pixels, svg("g", {}));
      const caption = html("span", {});
      const button = html("button", { type: "button", class: "thumb" }, drawn, caption);
      button.addEventListener("click", () => open(matching.indexOf(index)));
      thumbs.set(index, button);
    }
    return thumbs.get(index);
  }

  function update() {
    const chosen = filters();
    byId("browser-score-shown").textContent = chosen.score.toFixed(3);
    const totals = Object.fromEntries(kindBoxes.map((box) => [box.value, 0]));
    const images = data.images.map((image, index) => {
      const faults = boxesOf(image, chosen).filter((box) => box.fault && box.wanted);
      for (const box of faults) totals[box.kind] += 1;
      return { index, all: faults.length, faults: faults.filter((b) => chosen.kinds.has(b.kind)) };
    });
    const left = images.filter(
      ({ index, all, faults }) =>
        faults.length > 0 || (chosen.faultless && all === 0 && concerns(index, chosen))
    );
    left.sort((a, b) => b.faults.length - a.faults.length || a.index - b.index);
    matching = left.map(({ index }) => index);
    for (const box of kindBoxes) byId(`count-${box.value}`).textContent = totals[box.value];
    const count = left.reduce((sum, { faults }) => sum + faults.length, 0);
    const of = chosen.label === null ? "" : ` of ${data.names[chosen.label]}`;
    byId("browser-count").textContent =
      `${plural(left.length, "image")} with ${plural(count, "such fault")}${of}, ` +
      `from a score of ${chosen.score.toFixed(3)}`;
    const buttons = left.slice(0, shown).map(({ index, faults }) => {
      const button = thumb(index);
      const image = data.images[index];
      const text = faults.length ? plural(faults.length, "fault") : "no fault";
      button.querySelector("span").textContent = `${image.name}: ${text}`;
      button.querySelector("g").replaceChildren(...bySize(faults).map(rect));
      return button;
    });
    byId("browser-thumbs").replaceChildren(...buttons);
    byId("browser-more").hidden = left.length <= shown;
  }

  // Whether an image has to do with the chosen class at all.
  function concerns(index, chosen) {
    return chosen.label === null || boxesOf(data.images[index], chosen).some((b) => b.wanted);
  }

  function plural(count, noun) {
    return `${count} ${noun}${count === 1 ? "" : "s"}`;
  }

  function open(place) {
    if (place < 0 || place >= matching.length) return;
    current = place;
    const image = data.images[matching[place]];
    const boxes = boxesOf(image, filters());
    const [viewBox, pixels] = frame(image);
    stage.setAttribute("viewBox", viewBox);
    stage.setAttribute("aria-label", image.name);
    // As large as the window allows at the image's own proportions.
    stage.style.setProperty("--ratio", image.width / image.height);
    const rects = new Map(boxes.map((box) => [box, rect(box)]));
    const entries = new Map(boxes.map((box) => [box, entry(box)]));
    const captions = svg("g", {});
    const labelled = boxes.filter((box) => box.fault && box.wanted);
    const usual = labelled.length > MOST_CAPTIONS ? [] : labelled;
    const point = (active) => {
      for (const box of boxes) {
        rects.get(box).classList.toggle("active", box === active);
        entries.get(box).classList.toggle("active", box === active);
      }
      const captioned = active === null ? usual : [active];
      captions.replaceChildren(...captioned.map((box) => caption(box, image)));
      byId("viewer-hint").textContent =
        active === null ? "Point at a box for its class and score." : active.text;
    };
    for (const box of boxes) {
      for (const element of [rects.get(box), entries.get(box)]) {
        element.addEventListener("pointerenter", () => point(box));
        element.addEventListener("pointerleave", () => point(null));
      }
      entries.get(box).addEventListener("focus", () => point(box));
      entries.get(box).addEventListener("blur", () => point(null));
    }
    stage.replaceChildren(pixels, ...bySize(boxes).map((box) => rects.get(box)), captions);
    const faultsFirst = [...boxes].sort((a, b) => b.fault - a.fault);
    byId("viewer-boxes").replaceChildren(
      ...faultsFirst.map((box) => html("li", {}, entries.get(box)))
    );
    point(null);
    byId("viewer-name").textContent = image.name;
    byId("viewer-place").textContent = `${place + 1} of ${matching.length}`;
    byId("viewer-previous").disabled = place === 0;
    byId("viewer-next").disabled = place === matching.length - 1;
    if (!viewer.open) {
      viewer.showModal();
      viewer.focus();
    }
    // A button that is disabled or gone loses the focus, and keys would no longer arrive.
    if (!viewer.contains(document.activeElement) || document.activeElement.disabled) viewer.focus();
  }

  function close() {
    viewer.close();
    focusThumb();
  }

  // Goes on where the viewer was left.
  function focusThumb() {
    if (current >= shown) {
      shown = current + 1;
      update();
    }
    thumb(matching[current]).focus();
  }

  function entry(box) {
    const swatch = html("i", { class: `swatch ${box.kind}`, "aria-hidden": "true" });
    const classes = `entry${box.wanted ? "" : " other"}`;
    return html("button", { type: "button", class: classes }, swatch, `${box.name}: ${box.what}`);
  }

  function caption(box, image) {
    const size = Math.max(image.width, image.height) / 45;
    const text = box.kind === MISSED ? `${box.name} missed` : box.name;
    // Letters are two thirds as wide as high, at most.
    const x = Math.max(0, Math.min(box.corners[0], image.width - 0.67 * size * text.length));
    const above = Math.max(box.corners[1] - 0.25 * size, size);
    const below = Math.min(box.corners[3] + size, image.height - 0.25 * size);
    const place = { x, y: box.kind === MISSED ? below : above, "font-size": size };
    return svg("text", { class: "caption", ...place }, text);
  }

  function refilter() {
    shown = AT_ONCE;
    update();
  }

  byId("browser-filters").addEventListener("submit", (event) => event.preventDefault());
  byId("browser-filters").addEventListener("change", refilter);
  byId("browser-filters").addEventListener("reset", () => setTimeout(refilter));
  let waiting = false;
  byId("browser-score").addEventListener("input", () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      refilter();
    }, 30);
  });
  byId("browser-more").addEventListener("click", () => {
    const first = shown;
    shown += AT_ONCE;
    update();
    thumb(matching[first]).focus();
  });
  byId("viewer-previous").addEventListener("click", () => open(current - 1));
  byId("viewer-next").addEventListener("click", () => open(current + 1));
  byId("viewer-close").addEventListener("click", close);
  viewer.addEventListener("keydown", (event) => {
    const places = {
      ArrowLeft: current - 1,
      ArrowRight: current + 1,
      Home: 0,
      End: matching.length - 1,
    };
    if (event.altKey || event.ctrlKey || event.metaKey || !(event.key in places)) return;
    event.preventDefault();
    open(places[event.key]);
  });
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) close(); // beside the image
  });
  viewer.addEventListener("close", focusThumb); // by the Escape key

  byId("browser").classList.add("running");
  update();
})();
