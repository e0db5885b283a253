"""Names of a package that are loaded when they are first asked for, as PEP 562 has it."""

import importlib
import types
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, modules: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a package.

    Args:
      package: its full name.
      modules: the public names by the module of the package that defines them.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{module_of[name]}")
        return getattr(module, name, module)

    return get, lambda: sorted(module_of)


class Package(types.ModuleType):
    """A package in which a function stays what its name means when its module is imported.

    Python sets `yolov7_jax.nms` to the module of this name once that is imported.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType):
            value = getattr(value, name, value)
        super().__setattr__(name, value)
