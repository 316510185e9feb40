"""The JSON schema of config.yaml, for editors and for docs/config.md: types, limits, units, defaults, descriptions.

Guarantee: the schema for editors knows every key that is read, and accepts every file that `load` accepts. The checks
of combinations of keys are in the sections' classes alone.
"""

from __future__ import annotations

from typing import Any

from student_clap.config.schema import Config
from student_clap.config.section import Section

Schema = dict[str, Any]
_VARIABLE: Schema = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}


def sections() -> dict[str, type[Section]]:
    """The class of every section of config.yaml, in the file's order."""
    models = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: model for name, model in models.items() if isinstance(model, type) and issubclass(model, Section)}


def other_names(section: type[Section]) -> dict[str, str]:
    """The keys that are read under a second name too, such as `lr` -> `learning_rate`: second name -> key."""
    return {field.alias: name for name, field in section.model_fields.items() if field.alias}


def section_schema(section: type[Section]) -> Schema:
    """The schema of one section; a property per key, with `description`, `default` and where there is one, `unit`."""
    schema = section.model_json_schema(by_alias=False)
    for key in schema["properties"].values():
        del key["title"]
        if "description" in key:
            key["description"] = " ".join(key["description"].split())
    return schema


def editor_schema() -> Schema:
    """The schema of the whole file, draft 2020-12, as an editor needs it.

    Every value may be a `${VARIABLE}`, a section may be empty, and second names of keys are known.
    """
    properties = {}
    for name, model in sections().items():
        section = section_schema(model)
        keys = {key: _or_variable(value) for key, value in section["properties"].items()}
        for other, key in other_names(model).items():
            keys[other] = {**keys[key], "description": f"Another name of `{key}`."}
        properties[name] = {
            "description": section["description"],
            "type": ["object", "null"],
            "properties": keys,
            "additionalProperties": False,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config.yaml of student-clap",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _or_variable(key: Schema) -> Schema:
    """`key`, or a variable in its place; what is said about the key stays outside."""
    options = key.get("anyOf", [key])
    if any(option.get("type") == "string" and not option.keys() & {"enum", "pattern", "anyOf"} for option in options):
        return key
    about = {name: value for name, value in key.items() if name in ("description", "default", "unit")}
    value = {name: value for name, value in key.items() if name not in about}
    return {**about, "anyOf": [*value.get("anyOf", [value]), _VARIABLE]}
