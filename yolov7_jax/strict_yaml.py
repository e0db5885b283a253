"""Reads YAML in which no mapping may have a key twice."""

import re
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"  # `<<`, which stands for the keys of another mapping


class RepeatedKeyError(yaml.MarkedYAMLError):
    """A mapping has a key twice; `problem_mark` tells where the second one is."""

    def __str__(self) -> str:
        line = f"line {self.problem_mark.line + 1}: " if self.problem_mark else ""
        return f"{line}{self.problem}"


def load_strictly(text: str) -> Any:
    """Parses YAML of plain values.

    Raises:
      yaml.YAMLError: it is not YAML, or a mapping has a key twice (`RepeatedKeyError`).
    """
    return yaml.load(text, Loader=_StrictLoader)


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice; YAML's own loader silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            # 1 and 01 are the same key.
            value = key.value if key.tag == _MERGE else self.construct_object(key)
            if value in seen:
                raise RepeatedKeyError(
                    problem=f"{key.value} is set again", problem_mark=key.start_mark
                )
            seen.add(value)
        return super().construct_mapping(node, deep)


# YAML 1.1, which the library reads, takes 1e-3 for text.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
