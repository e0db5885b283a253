"""yolov7-w6 and e6 against stored measurements."""

from golden_model import HASTILY, GoldenModelTests


class TestW6(GoldenModelTests):
    name = "yolov7-w6"
    compiler_options = HASTILY


class TestE6(GoldenModelTests):
    name = "yolov7-e6"
    compiler_options = HASTILY
