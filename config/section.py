"""The base of every section of config.yaml: frozen, strict, no unknown keys.

Values that come from the environment or from ``--set`` are text, parsed by the type of the field they land in.
"""

from __future__ import annotations

import re
import types
import typing
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SecretStr,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from student_clap.config.formats.yaml12 import InvalidYamlError, load_yaml, parse_scalar

# Above this a whole number counts nothing and a number of seconds is no wait: a slip of the finger.
LARGEST = 10**9
PositiveInt = Annotated[int, Field(gt=0, le=LARGEST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=LARGEST)]
PositiveFloat = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = NonNegativeFloat


def _http_url(value: str) -> str:
    if value and not re.match(r"https?://[^/\s]+", value):
        raise ValueError("must start with http:// or https:// and name a host")
    if "@" in value:  # in the path too: a password may have a slash
        raise ValueError("must not carry a user or a password; use the keys made for them")
    if "?" in value or "#" in value:
        raise ValueError("must end with the path; secrets go into the keys made for them")
    return value.rstrip("/")


HttpUrl = Annotated[str, AfterValidator(_http_url)]


@dataclass(frozen=True)
class Unit:
    """``Annotated[int, Unit("samples")]``: the unit of a setting whose name does not end in it, for the JSON schema."""

    name: str

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "unit": self.name}


class Text(str):
    """A value given as text (environment, ``--set``), still to be parsed by the type of its field."""

    __slots__ = ()


def allowed_types(annotation: Any) -> set[type]:
    """The types that a field of this annotation may have, whatever they are wrapped in."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return allowed_types(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*(allowed_types(a) for a in typing.get_args(annotation)))
    if origin is Literal:
        return {type(a) for a in typing.get_args(annotation)}
    if origin is not None:
        return {origin}
    return {annotation} if isinstance(annotation, type) else set()


def _as_field(value: Any, field: FieldInfo) -> Any:
    """Parse `value` for `field` if it is Text; leave everything else to pydantic."""
    wanted = allowed_types(field.annotation)
    if isinstance(value, Text):
        if wanted & {str, SecretStr, Path} and not (value == "" and type(None) in wanted):
            value = str(value)
        else:
            with suppress(InvalidYamlError):  # it stays text, which pydantic refuses by the key's name
                value = load_yaml(value) if value.lstrip()[:1] in "[{" else parse_scalar(value)
    if Path in wanted and value == "" and type(None) in wanted:
        return None
    if SecretStr in wanted and isinstance(value, str):
        return SecretStr(value) if value else (None if type(None) in wanted else SecretStr(value))
    if wanted & {tuple} and isinstance(value, list):
        return tuple(value)
    return value


class Section(BaseModel):
    """Base of every section: frozen, strict, no unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _parse_text(cls, data: Any) -> Any:
        if data is None:
            return {}
        if not isinstance(data, dict):
            return data
        names = {str(field.alias): name for name, field in cls.model_fields.items() if field.alias}
        for alias, name in names.items():
            if name in data and alias in data:
                raise ValueError(f"{name} and {alias} are the same setting; remove one of them")
        parsed = {}
        for key, value in data.items():
            field = cls.model_fields.get(names.get(key) or key)
            parsed[key] = _as_field(value, field) if field is not None else value
        return parsed


class Source(Section):
    """Base of the sections about what vectors and audio come from, which not every machine can ask.

    A ``${VAR}`` in them that is not set is an error of the stages alone that ask that source.
    """
