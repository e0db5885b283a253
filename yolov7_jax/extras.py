"""Packages that come with an extra of this one."""

import contextlib
import importlib
from collections.abc import Iterator


@contextlib.contextmanager
def from_extra(extra: str) -> Iterator[None]:
    """Makes failing imports in its body say which command installs what is missing.

    Args:
      extra: that has the packages.

    Raises:
      ImportError: names the package and the command.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise ImportError(f"{package} is missing: pip install 'yolov7-jax[{extra}]'") from error


def check_installed(extra: str, *packages: str) -> None:
    """Imports packages that modules of a whole package need; fails as `from_extra` does."""
    with from_extra(extra):
        for package in packages:
            importlib.import_module(package)
