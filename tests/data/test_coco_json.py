import json

import numpy as np
import pytest
from data_sets import (
    IMAGES,
    coco_content,
    error_of,
    scan,
    scan_coco,
    write_coco,
    write_image,
    write_text,
)

from yolov7_jax.data import json_stream
from yolov7_jax.data.faults import summarize
from yolov7_jax.data.json_stream import iterate_lists
from yolov7_jax.data.layouts import load_dataset

SQUARE = [4, 2, 24, 2, 24, 12, 4, 12]
INSIDE, NO_AREA = "in an image of 40 x 20", "wanted a box with an area"


def reasons(found):
    return [fault.reason for fault in found.faults]


def test_ids_are_mapped_to_rows_and_classes_and_kept_for_the_way_back(tmp_path):
    dataset = load_dataset(write_coco(tmp_path), "train")
    assert dataset.category_ids.tolist() == [3, 18]
    assert dataset.image_ids.tolist() == [100, 101, 102]
    assert dataset.category_ids[dataset.labels].tolist() == [18, 3, 3]


def test_annotations_of_a_image_need_not_stand_together(tmp_path):
    def shuffle(content):
        content["annotations"].append({**content["annotations"][0], "bbox": [1, 1, 5, 6]})
        content["annotations"][1]["segmentation"] = [SQUARE]

    dataset = scan_coco(tmp_path, shuffle).dataset
    assert dataset.offsets.tolist() == [0, 3, 3, 4]
    assert dataset.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(dataset.boxes[2] * [40, 20, 40, 20], [3.5, 4, 5, 6], rtol=1e-6)
    assert np.diff(dataset.polygons.part_offsets).tolist() == [0, 1, 0, 0]


def test_objects_of_several_parts_keep_all_of_them(tmp_path):
    def cut(content):
        content["annotations"][0]["segmentation"] = [SQUARE, [5, 5, 6, 5, 6, 9]]
        content["annotations"][2]["segmentation"] = [[1, 3, 9, 3, 9, 23]]

    polygons = scan_coco(tmp_path, cut).dataset.objects_of(0).polygons
    assert polygons.part_offsets.tolist() == [0, 2, 2]
    assert polygons.point_offsets.tolist() == [0, 4, 7]
    wanted = np.reshape([*SQUARE, 5, 5, 6, 5, 6, 9], (-1, 2))
    np.testing.assert_allclose(polygons.points * [40, 20], wanted, rtol=1e-6)


def test_ids_written_as_floats_of_whole_value_are_those_ids(tmp_path):
    def to_floats(content):
        for annotation in content["annotations"]:
            annotation["image_id"] = float(annotation["image_id"])
            annotation["category_id"] = float(annotation["category_id"])
        for category in content["categories"]:
            category["id"] = float(category["id"])
        for image in content["images"]:
            image["id"], image["width"] = float(image["id"]), float(image["width"])

    found = scan_coco(tmp_path, to_floats)
    assert not found.faults
    assert found.dataset.image_ids.tolist() == [100, 101, 102]
    assert found.dataset.category_ids[found.dataset.labels].tolist() == [18, 3, 3]


def test_a_crowd_region_may_have_the_box_of_an_object(tmp_path):
    def repeat(content):
        content["annotations"] += [
            {**content["annotations"][0], "iscrowd": 1},
            {**content["annotations"][0], "id": 9},
        ]

    found = scan_coco(tmp_path, repeat)
    assert reasons(found) == ["annotation 9: the same class and box as annotation 1"]
    assert found.dataset.crowd.tolist() == [False, False, True, False]


def test_areas_are_those_of_the_source_and_else_of_the_box(tmp_path):
    def measure(content):
        for annotation, area in zip(content["annotations"], (55.5, float("nan"), 0), strict=True):
            annotation["area"] = area

    np.testing.assert_allclose(scan_coco(tmp_path, measure).dataset.areas, [55.5, 800, 160])


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("image_id", 7, "there is no image with the id 7"),
        ("image_id", "100", "image_id must be an integer, got '100'"),
        ("image_id", 100.5, "image_id must be an integer, got 100.5"),
        ("image_id", 1e17, "image_id must be an integer, got 1e+17"),
        ("category_id", "3", "category_id must be an integer, got '3'"),
        ("category_id", 0.0, "there is no category with the id 0"),
        ("image_id", 2**70, f"image_id must be an integer, got {2**70}"),
        ("category_id", 7, "there is no category with the id 7"),
        ("category_id", None, "category_id must be an integer, got None"),
        ("category_id", True, "category_id must be an integer, got True"),
        ("bbox", None, "bbox must be 4 numbers, x y width height; got None"),
        ("bbox", "1", "bbox must be 4 numbers, x y width height; got '1'"),
        ("bbox", [1, 2, 3], "bbox must be 4 numbers, x y width height; got [1, 2, 3]"),
        ("bbox", [1, 2, 3, "4"], "bbox must be 4 numbers, x y width height; got [1, 2, 3, '4']"),
        ("bbox", [1, 2, float("nan"), 4], "wanted a finite box, got [nan 0.2 nan 0.2]"),
        ("bbox", [1, 2, 3, 0], f"box of 3 x 0 pixels at x 1, y 2 {INSIDE}; {NO_AREA}"),
        ("bbox", [1, 2, -3, 4], f"box of -3 x 4 pixels at x 1, y 2 {INSIDE}; {NO_AREA}"),
        ("bbox", [40, 2, 3, 4], f"box of 3 x 4 pixels at x 40, y 2 {INSIDE}; it lies outside"),
    ],
)
def test_a_wrong_annotation_is_left_out_and_named_by_its_id(tmp_path, field, value, reason):
    def spoil(content):
        content["annotations"][0][field] = value

    found = scan_coco(tmp_path, spoil)
    if "finite" in reason:
        assert reasons(found)[0].startswith("annotation 1: wanted a finite box, got [")
    else:
        assert reasons(found) == [f"annotation 1: {reason}"]
    assert found.dataset.labels.tolist() == [0, 0]
    assert found.dataset.offsets.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], "a polygon must be x1 y1 x2 y2 x3 y3 ..., got 4 numbers"),
        ([SQUARE, [1] * 7], "a polygon must be x1 y1 x2 y2 x3 y3 ..., got 7 numbers"),
        (SQUARE, "a polygon must be x1 y1 x2 y2 x3 y3 ..., got 4"),
        ([SQUARE, [1, 2, 3, 4, 5, "6"]], "a polygon must have numbers alone"),
        ([SQUARE, [1, 2, 3, 4, 5, float("inf")]], "a polygon must have finite numbers"),
        ("x", "segmentation must be a list of polygons, got 'x'"),
    ],
)
def test_a_wrong_polygon_costs_the_outline_and_not_the_box(tmp_path, segmentation, reason):
    def spoil(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = [SQUARE]
        content["annotations"][1]["segmentation"] = segmentation

    found = scan_coco(tmp_path, spoil)
    assert reasons(found) == [f"annotation 2: {reason}"]
    assert found.dataset.labels.tolist() == [1, 0, 0]
    polygons = found.dataset.polygons
    assert polygons.part_offsets.tolist() == [0, 1, 1, 2]
    assert polygons.point_offsets.tolist() == [0, 4, 8]
    np.testing.assert_allclose(polygons.points[0], [0.1, 0.1])


def test_lines_are_told_where_the_file_has_lines(tmp_path):
    content = coco_content()
    content["annotations"][1]["bbox"] = [0, 0, 0, 0]
    write_coco(tmp_path)
    text = json.dumps(content, indent=1)
    path = write_text(tmp_path / "instances.json", text)
    (fault,) = scan(path).faults
    lines = text.split("\n")
    assert '"id": 2' in lines[fault.line]
    assert lines[fault.line - 1].strip() == "{"


def test_wrong_images_are_left_out_and_named(tmp_path):
    def spoil(content):
        images = content["images"]
        images += [
            {"id": 100, "file_name": "b2.jpg"},
            {"id": 7, "file_name": "a.jpg"},
            {"id": 8, "file_name": "gone.jpg"},
            {"id": None, "file_name": "x.jpg"},
            {"id": 9, "file_name": "x\0y.jpg"},
            3,
        ]
        images[1]["width"], images[1]["height"] = 31, 30
        images[2]["width"], images[2]["height"] = images[2]["height"], images[2]["width"]

    found = scan_coco(tmp_path, spoil)
    told = sorted(str(fault).replace(f"{tmp_path}/", "") for fault in found.faults)
    assert told == [
        "images/b.jpg: is 30 x 30 pixels, but annotated as 31 x 30",
        "images/c.jpg: is 16 x 24 pixels, but annotated as 24 x 16 "
        "(annotated before it was turned upright?)",
        "images/gone.jpg: cannot be read: No such file or directory",
        "instances.json:1: image 100: another image has the id 100",
        "instances.json:1: image 7: image 100 has the same file_name a.jpg",
        "instances.json:1: image: wanted an integer as id and a file_name, got 3",
        "instances.json:1: image: wanted an integer as id and a file_name, "
        "got {'id': 9, 'file_name': 'x\\x00y.jpg'}",
        "instances.json:1: image: wanted an integer as id and a file_name, "
        "got {'id': None, 'file_name': 'x.jpg'}",
    ]
    assert found.dataset.image_ids.tolist() == [100]
    assert found.dataset.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "'train': no image has a label: no annotation in"),
        (lambda c: c.pop("images"), "is not COCO JSON: it has no images"),
        (lambda c: c.update(images=3), ":1: is not JSON as wanted: 'images' must be a list"),
        (lambda c: c.update(images=[]), "names no images"),
        (lambda c: c.update(categories=[]), "has no categories"),
        (lambda c: c["categories"].append({"id": 3}), "two categories have the id 3"),
        (
            lambda c: c["categories"].append({"id": 4, "name": "cat"}),
            "two categories have the name 'cat'",
        ),
        (
            lambda c: c["categories"].append({"name": "cat"}),
            "a category must have an integer as id, got {'name': 'cat'}",
        ),
    ],
)
def test_a_file_that_is_not_cocos_is_refused_in_one_line(tmp_path, change, message):
    content = coco_content()
    change(content)
    told = error_of(write_coco(tmp_path, content))
    assert told.startswith("instances.json")
    assert message in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted a JSON object with images, annotations, categories"),
        ("[]", "wanted a JSON object with images, annotations, categories"),
        ('{"images": [\n{"id": 1}\n{"id": 2}]}', ":3: is not JSON as wanted: wanted ']'"),
        ('{"images": [{"id": 1},\n{"id": }]}', ":2: is not JSON as wanted: Expecting value"),
        ('{"images": [{"id": 1}, {"id": 2', "is not JSON as wanted: it ends too early"),
        ('{"images": []', "is not JSON as wanted: it ends too early"),
        ('{"images": [], ', "is not JSON as wanted: it ends too early"),
        ('{"images": []} 3', "nothing may follow the outermost object"),
        ("{3: []}", "a key must be a text"),
        ('{"images": [' + "[" * 100_000, "is not JSON as wanted:"),
        ('{"x": ' + "9" * 10_000 + "}", "is not JSON as wanted:"),
    ],
)
def test_what_is_not_json_is_refused_with_its_line(tmp_path, text, message):
    told = error_of(write_text(tmp_path / "a.json", text))
    assert told.startswith("a.json")
    assert message in told


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"images": "\xff\xfe"}')
    assert error_of(tmp_path / "a.json") == "a.json: is not a text file in UTF-8"


def test_every_cut_of_a_file_is_refused_and_nothing_else_is_raised(tmp_path):
    path = write_coco(tmp_path)
    whole = path.read_text()
    for length in range(0, len(whole), 7):
        path.write_text(whole[:length])
        error_of(path)


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_elements_are_the_same_however_the_file_is_cut(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    monkeypatch.setattr(json_stream, "_LONGEST_WORD", 16)
    rng = np.random.default_rng(0)
    content = coco_content()
    content["number"] = 12345.678
    content["annotations"] += [
        {"id": -1.5e-30, "x": [True, None, 'é\\"\n', *rng.uniform(-9, 9, 5).tolist()]},
        3,
        14,
        "a",
    ]
    for indent in (None, 1):
        path = write_text(tmp_path / "a.json", json.dumps(content, indent=indent))
        read = {"images": [], "annotations": []}
        for key, value, _ in iterate_lists(path, list(read)):
            read[key].append(value)
        assert read == {key: content[key] for key in read}


def test_names_of_a_data_yaml_must_fit_the_categories(tmp_path):
    write_coco(tmp_path)
    # By position they would be swapped where the ids are in another order.
    yaml = write_text(tmp_path / "d.yaml", "train: instances.json\nnames: [Cat, Dog]\n")
    assert "is not among the 2 'names'" in error_of(yaml)
    write_text(yaml, "train: instances.json\nnames: [cat, bird, fish]\n")
    assert "category 'dog' is not among the 3 'names'" in error_of(yaml)
    write_text(yaml, "train: instances.json\nnames: [fish, dog, cat]\n")
    dataset = load_dataset(yaml, "train")
    assert dataset.labels.tolist() == [1, 2, 2]
    assert dataset.category_ids.tolist() == [-1, 18, 3]


def test_a_file_name_tells_a_split_by_whole_words_only(tmp_path):
    for name in ("latest.json", "interval.json", "constrain.json"):
        write_coco(tmp_path).rename(tmp_path / name)
        assert len(load_dataset(tmp_path / name, "train"))


@pytest.mark.parametrize(("iscrowd", "crowd"), [(0, False), (1, True), ("0", False), ("1", True)])
def test_crowds_are_told_by_a_number_also_in_quotes(tmp_path, iscrowd, crowd):
    content = coco_content()
    content["annotations"][0]["iscrowd"] = iscrowd
    write_coco(tmp_path, content)
    assert crowd == load_dataset(tmp_path / "instances.json", "train").crowd.any()


def test_file_names_may_have_folders(tmp_path):
    content = coco_content()
    for image in content["images"]:
        image["file_name"] = f"deep/{image['file_name']}"
    for name, size in IMAGES.items():
        write_image(tmp_path / f"deep/{name}.jpg", *size)
    path = write_text(tmp_path / "a.json", json.dumps(content))
    assert load_dataset(path, "train").paths[0] == str(tmp_path / "deep/a.jpg")


@pytest.mark.parametrize("first", [True, False])
def test_nulls_among_images_and_annotations_are_named(tmp_path, first):
    def spoil(content):
        for key in ("images", "annotations"):
            nulls = [None, None]
            content[key] = nulls + content[key] if first else content[key] + nulls

    found = scan_coco(tmp_path, spoil)
    image = "image: wanted an integer as id and a file_name, got None"
    annotation = "annotation: wanted an object, got None"
    assert sorted(reasons(found)) == [annotation] * 2 + [image] * 2
    assert len(found.dataset.labels) == 3


def test_a_list_without_elements_is_no_null(tmp_path):
    found = scan_coco(tmp_path, lambda content: content.update(annotations=[]))
    assert not found.faults


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_a_null_that_is_alone_is_named_too(tmp_path, key):
    content = coco_content()
    content[key] = [None]
    path = write_coco(tmp_path, content)
    if key == "images":
        told = "names no images; instances.json:1: image: wanted an integer as id and a file"
        assert told in error_of(path)
    else:
        assert reasons(scan(path)) == ["annotation: wanted an object, got None"]


@pytest.mark.parametrize(
    ("outline", "told"),
    [
        ([0.1, 0.1, 0.6, 0.1, 0.6, 0.6], "0.5 x 0.5 pixels at x 0.1, y 0.1"),  # not in pixels
        ([50, 30, 60, 30, 60, 40], "0 x 0 pixels at x 40, y 20"),  # outside
        ([30, 1, 39, 1, 39, 9], "9 x 8 pixels at x 30, y 1"),  # elsewhere
        ([4, 2, 4, 12, 4, 7], "0 x 10 pixels at x 4, y 2"),  # without an area
    ],
)
def test_an_outline_that_does_not_fit_its_box_is_left_out_and_the_box_kept(tmp_path, outline, told):
    def spoil(content):
        for annotation in content["annotations"]:
            annotation["segmentation"] = [SQUARE]
        content["annotations"][0]["segmentation"] = [outline]
        content["annotations"][2]["segmentation"] = [[1, 3, 9, 3, 9, 23], [2, 3, 9, 3, 9, 9]]

    found = scan_coco(tmp_path, spoil)
    assert reasons(found) == [
        f"annotation 1: the outline is {told}, cut off at the image's border; "
        "it does not fit the box of 20 x 10 pixels at x 4, y 2 in an image of 40 x 20"
    ]
    assert summarize(found.faults) == "1 outline left out, box kept"
    assert found.dataset.labels.tolist() == [1, 0, 0]
    polygons = found.dataset.polygons
    assert polygons.part_offsets.tolist() == [0, 0, 1, 3]
    assert polygons.point_offsets.tolist() == [0, 4, 7, 10]
    np.testing.assert_allclose(polygons.points[0], [0.1, 0.1])


def test_an_outline_of_the_visible_part_of_an_object_is_kept(tmp_path):
    def cover(content):
        content["annotations"][0]["segmentation"] = [[4, 2, 10, 2, 10, 6, 4, 6]]

    found = scan_coco(tmp_path, cover)
    assert not found.faults
    assert found.dataset.polygons.part_offsets.tolist() == [0, 1, 1, 1]
