"""Write docs/config.md, the page of all settings, from the schema: `make page`.

A test fails while the page and the schema differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from student_clap.config.json_schema import other_names, section_schema, sections
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.screen import echo, table
from student_clap.config.section import LARGEST

PAGE = Path(__file__).with_name("config.md")
_HEAD = """# Settings

Every key of config.yaml, made from the schema by `make page`. All keys have a default, so a file
holds only the keys that differ. `student-clap config` prints the settings as they are resolved. `--set
section.key=value` replaces one key for one run.

`${VAR}` and `${VAR:-default}` in a value are taken from the environment, else from the `.env` next to config.yaml; the
default also stands for a variable that is empty, as in a shell. `$${` is `${` itself, such as in a line for a shell
(`featurize.job_prologue`). A variable that is not set is an error. In the sections of sources (database, audiomuse,
table, folder and the media servers) it is one only for the stages that ask that source, so that a machine which only
trains needs no password. Where a variable may be unset, `${VAR:-default}` says what stands for it; `${VAR:-}` is null
for a key that may be null.

`student-clap config --schema > config.schema.json` writes the JSON schema for editors. VS Code's YAML extension finds
it by the line `# yaml-language-server: $schema=config.schema.json` at the top of config.yaml.

The file is YAML 1.2: `1e-4`, `0x1f` and `0o17` are numbers; `yes`, `12:30` and `2024-01-01` are text. A key that stands
twice is an error. Numbers are finite, and at most 1000000000 where no other limit is given. In every path `~` is the
home folder.
"""
_UNITS = {"_s": "s", "_db": "dB", "_semitones": "semitones", "_epochs": "epochs", "_steps": "steps"}
_LIMITS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_KINDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_PLURALS = {"integer": "whole numbers", "number": "numbers"}
_FORMATS = {"path": "path", "password": "secret"}


def page() -> str:
    """The text of the page."""
    parts = [_HEAD]
    for name, model in sections().items():
        schema = section_schema(model)
        second = {key: other for other, key in other_names(model).items()}
        rows = [
            [f"`{key}`", _kind(value), _unit(key, value), _default(value), _meaning(value, second.get(key))]
            for key, value in schema["properties"].items()
        ]
        text = table(
            [[cell.replace("|", "\\|") for cell in row] for row in rows],
            ["key", "type", "unit", "default", "meaning"],
            style="github",
        )
        parts.append(f"## {name}\n\n{schema['description']}\n\n{text}\n")
    return "\n".join(parts)


def _kind(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_kind(option) for option in value["anyOf"]))
    if "enum" in value:
        return ", ".join(f"`{name}`" for name in value["enum"])
    if "pattern" in value and "type" not in value:
        return f"`{value['title']}`"
    if value["type"] == "array":
        items = value["items"]["type"]
        return f"list of {_PLURALS.get(items, _KINDS[items])}"
    limits = [f"{sign} {_limit(value[name])}" for name, sign in _LIMITS.items() if value.get(name, LARGEST) != LARGEST]
    return " ".join([_FORMATS.get(value.get("format", ""), _KINDS[value["type"]]), ", ".join(limits)]).strip()


def _limit(number: float) -> str:
    # Some versions of pydantic write a whole limit of a float with its .0, others without.
    return str(int(number) if number == int(number) else number)


def _unit(key: str, value: dict[str, Any]) -> str:
    return str(value.get("unit") or next((unit for end, unit in _UNITS.items() if key.endswith(end)), ""))


def _default(value: dict[str, Any]) -> str:
    return "" if "secret" in _kind(value) else f"`{json.dumps(value['default'])}`"


def _meaning(value: dict[str, Any], second: str | None) -> str:
    return value.get("description", "") + (f" Also read as `{second}`." if second else "")


def main() -> None:
    """Write the page."""
    write_text_atomically(PAGE, page())
    echo(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
