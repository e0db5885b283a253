import numpy as np
import pytest
from data_sets import IMAGES, OBJECTS, faults_of, scan, voc_object, write_text, write_voc

from yolov7_jax.data.layouts import load_dataset
from yolov7_jax.errors import UserError


def annotate(folder, *objects, size="<size><width>40</width><height>20</height></size>"):
    """Rewrites the annotation of the first image, 40 x 20 pixels."""
    text = f"<annotation>\n{size}\n{''.join(objects)}</annotation>"
    write_text(folder / "Annotations/a.xml", text)


def test_corners_count_from_1_and_belong_to_the_box(tmp_path):
    write_voc(tmp_path)
    annotate(tmp_path, voc_object(0, (0, 0, 40, 20)), voc_object(1, (10, 5, 11, 6)))
    boxes = load_dataset(tmp_path, "train").objects_of(0).boxes_cxcywh
    wanted = [[20, 10, 40, 20], [10.5, 5.5, 1, 1]]
    np.testing.assert_allclose(boxes * [40, 20, 40, 20], wanted, rtol=1e-6)


def test_difficult_objects_are_neither_learnt_nor_counted_as_missed(tmp_path):
    write_voc(tmp_path, {**OBJECTS, "a": [(1, (4, 2, 24, 12), 1), (0, (0, 0, 40, 20), 0)]})
    dataset = load_dataset(tmp_path, "train")
    assert dataset.crowd.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("text", "difficult", "told"),
    [
        ("1", True, ""),
        ("True", True, ""),
        (" 0 ", False, ""),
        ("false", False, ""),
        ("", False, ""),
        ("Unspecified", False, ""),
        ("no", False, "difficult must be 0 or 1, got no; it is taken for 0"),
        ("2", False, "difficult must be 0 or 1, got 2; it is taken for 0"),
    ],
)
def test_only_1_and_true_mean_difficult_and_what_is_neither_is_named(
    tmp_path, text, difficult, told
):
    write_voc(tmp_path)
    annotate(tmp_path, voc_object(0, (0, 0, 9, 9), text))
    assert faults_of(tmp_path) == ([f"Annotations/a.xml:3: {told}"] if told else [])
    objects = load_dataset(tmp_path, "train").objects_of(0)
    assert objects.crowd.tolist() == [difficult]


def test_one_pixel_beyond_the_border_is_no_fault(tmp_path):
    write_voc(tmp_path)
    annotate(tmp_path, voc_object(0, (-1, -1, 41, 21)))
    assert not scan(tmp_path).faults
    boxes = load_dataset(tmp_path, "train").objects_of(0).boxes_cxcywh
    np.testing.assert_array_equal(boxes, [[0.5, 0.5, 1, 1]])


GOOD = voc_object(0, (0, 0, 9, 9))


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        ("<object/>", "the object has no name"),
        ("<object><name> </name></object>", "the object has no name"),
        ("<object><name>cat</name></object>", "cat: the object has no bndbox"),
        (
            GOOD.replace("<ymax>9</ymax>", "").replace("\n", ""),
            "cat: xmin ymin xmax ymax must be numbers, got ['1', '1', '9', '']",
        ),
        (
            GOOD.replace("<ymax>9</ymax>", "<ymax>NaN</ymax>").replace("\n", ""),
            "wanted a finite box, got",
        ),
        (
            voc_object(0, (9, 1, 3, 5)).replace("\n", ""),
            "box of -6 x 4 pixels at x 9, y 1 in an image of 40 x 20; wanted a box with an area",
        ),
    ],
)
def test_a_wrong_object_is_left_out_and_named_with_its_line(tmp_path, faulty, reason):
    write_voc(tmp_path)
    annotate(tmp_path, GOOD, "<!-- -->\n", faulty, voc_object(1, (2, 2, 9, 9)))
    (fault,) = faults_of(tmp_path)
    assert fault.startswith(f"Annotations/a.xml:9: {reason}")
    assert load_dataset(tmp_path, "train").objects_of(0).labels.tolist() == [0, 1]


def test_a_class_that_a_data_yaml_does_not_name_is_left_out_and_named(tmp_path):
    write_voc(tmp_path)
    data = write_text(tmp_path / "data.yaml", "train: .\nnames: [bird, cat]")
    found = scan(data)
    (fault,) = found.faults
    assert str(fault) == f"{tmp_path}/Annotations/a.xml:3: class 'dog' is not one of bird, cat"
    assert found.dataset.labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation>\n<object>", ":2: is not XML: Premature end of data in tag object"),
        ("", ":1: is not XML: Document is empty"),
        ("\0\1", ":1: is not XML: "),
        (
            '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
            ": declares entities, which are not allowed",
        ),
        ('<?xml version="1.0" encoding="klingon"?><a/>', ":1: is not XML: Unsupported encoding"),
        ("<a>" * 100_000, ":1: is not XML: Excessive depth in document"),
        (None, ": cannot be read: No such file or directory"),
        ("<annotation><x:object/></annotation>", ":1: is not XML: Namespace prefix x on object"),
        ("<html><body/></html>", ": has <html> outermost, wanted <annotation>"),
        ('<v:annotation xmlns:v="u"/>', ": has <v:annotation> outermost, wanted <annotation>"),
    ],
)
def test_a_image_whose_xml_cannot_be_read_is_left_out_and_named(tmp_path, text, reason):
    write_voc(tmp_path)
    path = tmp_path / "Annotations/a.xml"
    path.unlink() if text is None else path.write_text(text)
    (fault,) = faults_of(tmp_path)
    assert fault.startswith(f"Annotations/a.xml{reason}")
    assert fault.endswith("; its image is left out")
    assert len(load_dataset(tmp_path, "train")) == 2


def test_a_image_of_another_size_is_left_out_and_named(tmp_path):
    write_voc(tmp_path)
    annotate(tmp_path, GOOD, size="<size><width>20</width><height>40</height></size>")
    reason = "is 40 x 20 pixels, but its XML file says 20 x 40"
    assert faults_of(tmp_path) == [f"JPEGImages/a.jpg: {reason}"]


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_that_of_the_image(tmp_path, size):
    write_voc(tmp_path)
    annotate(tmp_path, GOOD, size=size)
    assert not scan(tmp_path).faults


def test_missing_and_repeated_images_are_named(tmp_path):
    write_voc(tmp_path)
    (tmp_path / "JPEGImages/b.jpg").unlink()
    (tmp_path / "ImageSets/Main/train.txt").write_text("a 1\nb -1\nc\na\n")
    assert faults_of(tmp_path) == [
        "ImageSets/Main/train.txt:4: a is listed more than once",
        "JPEGImages/b.jpg: cannot be read: No such file or directory",
    ]
    assert len(load_dataset(tmp_path, "train")) == 2


def test_a_folder_without_any_named_object_needs_names(tmp_path):
    write_voc(tmp_path, {name: [] for name in IMAGES})
    with pytest.raises(UserError, match="no XML file has an object with a name"):
        load_dataset(tmp_path, "train")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("my image 1", "my image 1"),
        ("my image 1 -1", "my image 1"),
        ("my image  1", "my image"),
        ("my image", "my image"),
        ("a 1", "a"),
        ("a\t-1", "a"),
        ("  a  0 ", "a"),
        ("7", "7"),
        ("7 7", "7"),
    ],
)
def test_a_list_may_have_names_with_spaces_and_marks_of_a_class(tmp_path, line, name):
    write_voc(tmp_path)
    for other in ("my image 1", "my image", "7"):
        for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
            content = (tmp_path / folder / f"a{suffix}").read_bytes()
            (tmp_path / folder / f"{other}{suffix}").write_bytes(content)
    write_text(tmp_path / "ImageSets/Main/train.txt", line + "\n")
    assert load_dataset(tmp_path, "train").paths == (str(tmp_path / f"JPEGImages/{name}.jpg"),)


def test_a_name_that_exists_nowhere_is_told_without_its_mark(tmp_path):
    write_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Main/train.txt", "a\ngone away 1\n")
    (fault,) = faults_of(tmp_path)
    assert fault.startswith("JPEGImages/gone away.jpg: cannot be read: No such file")
    assert fault.endswith(
        "nor can its labels be read: Annotations/gone away.xml: cannot be read: No such file or "
        "directory; its image is left out"
    )


@pytest.mark.parametrize(
    ("plain", "strange", "line"),
    [
        ("object>", "x:object>", 4),
        ("object>", "Object>", 4),
        ("size>", "voc:size>", 3),
        ("bndbox>", "x:bndbox>", 6),
        ("xmin>", "x:xmin>", 6),
        ("difficult>", "Difficult>", 5),
    ],
)
def test_elements_with_a_prefix_or_capitals_are_named_and_not_passed_over(
    tmp_path, plain, strange, line
):
    write_voc(tmp_path)
    text = f"<size><width>40</width><height>20</height></size>\n{GOOD}".replace(
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>\n", ""
    )
    annotate(tmp_path, text.replace(plain, strange), size='<y:creator xmlns:y="u"/>')
    path = tmp_path / "Annotations/a.xml"
    path.write_text(
        path.read_text().replace("<annotation>", '<annotation xmlns:x="u" xmlns:voc="v">')
    )
    told = f"has <{strange}, wanted <{plain}; its image is left out"
    assert faults_of(tmp_path) == [f"Annotations/a.xml:{line}: {told}"]
    assert len(load_dataset(tmp_path, "train")) == 2


def test_a_image_beside_one_of_the_same_name_is_noted_and_not_used(tmp_path):
    write_voc(tmp_path)
    assert not scan(tmp_path).notes
    for name in ("c.webp", "a.png", "a.JPG"):
        (tmp_path / "JPEGImages" / name).write_bytes(b"")
    found = scan(tmp_path)
    assert not found.faults
    assert [path.rsplit("/", 1)[1] for path in found.looked_at] == ["a.jpg", "b.jpg", "c.jpg"]
    assert found.notes == (
        "3 images not used, because one of the same name and another type is: "
        f"{tmp_path}/JPEGImages/a.png, the first",
    )
    for name in ("c.webp", "a.JPG"):
        (tmp_path / "JPEGImages" / name).unlink()
    told = "1 image not used, because one of the same name and another type is: "
    assert scan(tmp_path).notes == (f"{told}{tmp_path}/JPEGImages/a.png",)
