"""yolov7-w6 and e6 against stored measurements."""

from golden_model import GoldenModelTests


class TestW6(GoldenModelTests):
    name = "yolov7-w6"


class TestE6(GoldenModelTests):
    name = "yolov7-e6"
