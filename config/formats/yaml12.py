"""YAML 1.2 of plain values, read and written by ruamel.yaml.

Plain scalars follow the core schema of YAML 1.2: `1e-4`, `0x1f` and `0o17` are numbers; `yes`, `12:30` and
`2024-01-01` are text, since no setting is a date. Beyond it ruamel.yaml reads `1_000` and `0b11` as whole numbers.

Guarantee: a file is read or refused within about a second, whatever it holds, and a refusal names the place and no
value. Refused are keys that stand twice or are not text, tags beyond the core schema, values that refer to themselves,
and more than `MAX_CHARACTERS`, `MAX_DEPTH` or `MAX_VALUES`, the last two also counted along the aliases.
"""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import MappingEndEvent, MappingStartEvent, NodeEvent, SequenceEndEvent, SequenceStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver

from student_clap.config.runtime.text import one_line

MAX_CHARACTERS = 100_000
MAX_DEPTH = 32  # of lists and sections in one another
MAX_VALUES = 5000
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    _TAG + "str": "text",
    _TAG + "int": "a whole number",
    _TAG + "float": "a number",
    _TAG + "bool": "true or false",
    _TAG + "null": "null",
}
_TAGS = frozenset({*_SCALARS, _TAG + "seq", _TAG + "map"})
_MAX_BITS = 1024  # of a whole number: Python refuses to print much longer ones
_NAMED = 60  # characters of a key or a value in a message


class InvalidYamlError(ValueError):
    """The text cannot be read. The message names the place, and no value."""


class _Resolver(VersionedResolver):
    """The core schema: what ruamel.yaml would take for a date, a merge key or a default value is text."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        return tag if str(tag) in _TAGS else self.DEFAULT_SCALAR_TAG


class _Constructor(SafeConstructor):
    """SafeConstructor whose refusals name the line and show no value."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002  ruamel's signature
        tag = str(node.tag)
        if tag not in _TAGS:
            shown = _named(tag.replace(_TAG, "!!"))
            raise ConstructorError(None, None, f"the tag {shown} is not known; remove it", node.start_mark)
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, LookupError, TypeError, OverflowError):
            kind = _SCALARS.get(tag, "a value")
            raise ConstructorError(None, None, f"the value is not {kind}", node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise ConstructorError(None, None, "the number has too many digits", node.start_mark)
        return value

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        seen = set()
        for key, _ in node.value if isinstance(node, MappingNode) else ():
            if not isinstance(key, ScalarNode):
                raise ConstructorError(None, None, "a list or a section stands as a key; use text", key.start_mark)
            if str(key.tag) != _TAG + "str":
                raise ConstructorError(None, None, f"the key {_named(key.value)} is not text", key.start_mark)
            if key.value in seen:
                problem = f"the key {_named(key.value)} stands twice; keep one"
                raise ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The value of one YAML document.

    Raises:
        InvalidYamlError: naming the line, or where there is none, the keys that lead to the place.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidYamlError(f"there are more than {MAX_CHARACTERS} characters")
    try:
        _check_extent(text)
        value = _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise InvalidYamlError(f"{line}{one_line(error.problem or error.context or 'not valid YAML')}") from None
    except ReaderError as error:
        above = text.count("\n", 0, error.position)
        character = f"U+{error.character:04X}"
        raise InvalidYamlError(f"line {above + 1}: the control character {character} may not stand there") from None
    except (YAMLError, ValueError) as error:
        raise InvalidYamlError(one_line(error)) from None
    _check_aliases(value)
    return value


def parse_scalar(text: str) -> Any:
    """`text` as one plain scalar.

    >>> parse_scalar("1e-4"), parse_scalar("8096"), parse_scalar("a: b"), parse_scalar("")
    (0.0001, 8096, 'a: b', None)

    Raises:
        InvalidYamlError: a number of more digits than Python reads.
    """
    yaml = _yaml()
    tag = yaml.resolver.resolve(ScalarNode, text, (True, False))
    try:
        return yaml.constructor.construct_object(ScalarNode(tag, text))
    except MarkedYAMLError as error:
        raise InvalidYamlError(str(error.problem)) from None


_NO_FOLDING = 1 << 31  # columns: a text stays on its line, wherever that line is put


def dump_yaml(tree: dict[str, Any]) -> str:
    """YAML text of plain values, keys in their order; `load_yaml` reads back the same."""
    stream = io.StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True, plug_ins=[])
    yaml.Resolver = _Resolver
    yaml.Constructor = _Constructor
    yaml.default_flow_style = False
    yaml.width = _NO_FOLDING
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.representer.ignore_aliases = lambda _: True
    return yaml


def _check_extent(text: str) -> None:
    """Raise where there is too much for what reads it recursively, or the nesting is too deep."""
    depth, n_values = 0, 0
    for event in _yaml().parse(text):
        n_values += isinstance(event, NodeEvent)
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            depth += 1
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"nested more than {MAX_DEPTH} deep", event.start_mark)
        if n_values > 2 * MAX_VALUES:  # keys count here
            raise ConstructorError(None, None, f"more than {MAX_VALUES} values", event.start_mark)


def _check_aliases(value: Any) -> None:
    """Raise where following the aliases would never end, lead too deep, or take too long."""
    n_values = 0

    def walk(value: Any, keys: tuple[str, ...], around: tuple[int, ...]) -> None:
        nonlocal n_values
        n_values += 1
        at = ".".join(_plain(key) for key in keys) or "the file"
        if id(value) in around:
            raise InvalidYamlError(f"{at}: the value refers to itself")
        if n_values > MAX_VALUES or len(around) > MAX_DEPTH:
            raise InvalidYamlError(
                f"{at}: more than {MAX_VALUES} values, or {MAX_DEPTH} in one another, once the aliases are followed"
            )
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, (*keys[-2:], str(key)), (*around, id(value)))
        elif isinstance(value, list):
            for inner in value:
                walk(inner, keys, (*around, id(value)))

    walk(value, (), ())


def _plain(text: str) -> str:
    return one_line(text, _NAMED)


def _named(text: str) -> str:
    return repr(_plain(text))
