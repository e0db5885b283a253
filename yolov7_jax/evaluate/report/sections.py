"""The parts of a page that tell how accurate detections are."""

from yolov7_jax.evaluate.coco_ap import CocoAp
from yolov7_jax.evaluate.report.accuracy import (
    accuracy_charts,
    class_table,
    confusion_parts,
    fault_tables,
)
from yolov7_jax.evaluate.report.html import Element, faint, node, number, section
from yolov7_jax.evaluate.report.results import Results


def accuracy_sections(results: Results, accuracy: CocoAp) -> list[Element]:
    """Returns accuracy by class, curves, faults and confusions, each as a section."""
    names, best_score = results.dataset.names, f"{results.curves.best_score:.3f}"
    charts = accuracy_charts(names, accuracy, results.curves)
    return [
        section(
            "classes",
            "Accuracy by class",
            faint(
                "AP over the IoUs 0.50 to 0.95 and at 0.50, by COCO's rules; precision, recall and "
                f"F1 of detections with a score of at least {best_score}, the threshold with the "
                "highest mean F1, at IoU 0.50."
            ),
            class_table(names, accuracy, results.curves),
        ),
        section(
            "curves",
            "Precision and recall",
            node("div", {"class": "grid wide"}, *charts)
            if charts
            else faint("There is no object to find, so neither is defined."),
        ),
        section(
            "faults",
            "Faults",
            faint(
                f"From a score of {best_score}. Duplicate: on an object that a better detection "
                "has found. Wrong class: on an object of another class. Badly placed: at an IoU "
                "from 0.1 to below 0.5. False: nothing of the kind there."
            ),
            fault_tables(results),
        ),
        section(
            "confusion",
            "Confusion",
            faint(
                "Rows: what objects are; columns: what they were detected as, from a score of "
                f"{best_score}. Last column: missed objects; last row: detections that found no "
                "object. Colours show shares of a row."
            ),
            *confusion_parts(names, results.confusion()),
        ),
    ]


def accuracy_cards(results: Results, accuracy: CocoAp) -> list[tuple[str, str]]:
    """Returns the headline numbers, each with its name."""
    curves = results.curves
    return [
        ("AP", number(accuracy.ap)),
        ("AP50", number(accuracy.ap50)),
        ("AP75", number(accuracy.ap75)),
        ("AP small", number(accuracy.ap_small)),
        ("AP medium", number(accuracy.ap_medium)),
        ("AP large", number(accuracy.ap_large)),
        ("best mean F1", number(curves.mean_at_best(curves.f1))),
        ("at score", number(curves.best_score)),
    ]


def page_head(
    title: str, summary: str, cards: list[tuple[str, str]], sections: list[Element]
) -> list[Element]:
    """Returns what stands above the sections.

    Args:
      title: of the page.
      summary: a line about what was measured.
      cards: the headline numbers, each with its name.
      sections: what the page has links to.
    """
    links = [node("a", {"href": f"#{part.get('id')}"}, part[0].text or "") for part in sections]
    numbers = [
        node("div", {"class": "card"}, node("b", {}, value), node("span", {}, name))
        for name, value in cards
    ]
    return [
        node("h1", {}, title),
        node("p", {"class": "faint"}, summary),
        node("nav", {}, *links),
        node("div", {"class": "cards"}, *numbers),
    ]
