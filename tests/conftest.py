"""Eight simulated CPU devices, repeatable property tests, and Ctrl-C for the whole suite."""

import os
import shutil
import signal
import tempfile

import hypothesis
import pytest
from compiling import QUICK_FLAGS

# JAX reads these when it is first used; what the user chose stays.
CHOSEN = os.environ.get("XLA_FLAGS", "")
WANTED = [*QUICK_FLAGS.split(), "--xla_force_host_platform_device_count=8"]
ADDED = [flag for flag in WANTED if flag.partition("=")[0] not in CHOSEN]
os.environ["XLA_FLAGS"] = " ".join([CHOSEN, *ADDED]).strip()

# Shells start what runs in the background with SIGINT ignored, which tests of Ctrl-C would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# All workers, and the programs that tests start, share what one of them has compiled.
COMPILED = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory):
    """A folder for what would else be left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_unconfigure():
    if COMPILED is not None:
        shutil.rmtree(COMPILED, ignore_errors=True)


hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=20
)
hypothesis.settings.load_profile("repeatable")
