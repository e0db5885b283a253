"""yolov7-d6 and e6e, the largest two against stored measurements."""

import pytest
from golden_model import GoldenModelTests

pytestmark = pytest.mark.slow


class TestD6(GoldenModelTests):
    name = "yolov7-d6"


class TestE6E(GoldenModelTests):
    name = "yolov7-e6e"
