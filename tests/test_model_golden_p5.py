"""yolov7-tiny, yolov7 and yolov7x against stored measurements."""

from golden_model import GoldenModelTests


class TestTiny(GoldenModelTests):
    name = "yolov7-tiny"


class TestYolov7(GoldenModelTests):
    name = "yolov7"


class TestYolov7X(GoldenModelTests):
    name = "yolov7x"
