"""YAML with the scalars of version 1.2: `1e-4` is a number, `yes` and `12:30` are text.

PyYAML reads YAML 1.1, where `1e-4` (as the original README writes it) is a string.
"""

from __future__ import annotations

import re
from typing import IO, Any

import yaml


class CoreLoader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core schema's rules for plain scalars, and no duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Refuse a key that stands twice: YAML would keep the last one silently."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice; keep one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", [*"~nN", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
        list("-+.0123456789"),
    ),
):
    CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
# YAML 1.1 reads a leading zero as octal; 1.2 does not.
CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def load_yaml(stream: str | IO[str]) -> Any:
    """Parse one YAML document. Raises yaml.YAMLError with the line."""
    return yaml.load(stream, CoreLoader)  # noqa: S506  CoreLoader is a SafeLoader


def parse_scalar(text: str) -> Any:
    """Parse `text` as one plain scalar.

    >>> parse_scalar("1e-4"), parse_scalar("8096"), parse_scalar("a: b"), parse_scalar("")
    (0.0001, 8096, 'a: b', None)
    """
    resolver = CoreLoader("")
    tag = resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return resolver.construct_object(yaml.ScalarNode(tag, text))


class CoreDumper(yaml.SafeDumper):
    """SafeDumper that quotes what CoreLoader would read as something else than text."""


CoreDumper.yaml_implicit_resolvers = CoreLoader.yaml_implicit_resolvers


def dump_yaml(tree: dict[str, Any]) -> str:
    """YAML text of plain values, keys in their order; `load_yaml` reads back the same."""
    return yaml.dump(tree, Dumper=CoreDumper, sort_keys=False, allow_unicode=True)
