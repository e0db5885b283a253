"""yolov7-d6 and e6e, the largest two against stored measurements."""

import pytest
from golden_model import HASTILY, GoldenModelTests

pytestmark = pytest.mark.slow


class TestD6(GoldenModelTests):
    name = "yolov7-d6"
    compiler_options = HASTILY


class TestE6E(GoldenModelTests):
    name = "yolov7-e6e"
    compiler_options = HASTILY
