"""Fill in a config.yaml as a user does with an editor: comments and order stay.

A two-level YAML file as `student-clap init` writes it, `section:` at the margin and `  key: value` below it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SECTION = re.compile(r"^(\w+):\s*(?:#.*)?$")
_KEY = re.compile(r"^  (\w+):(\s*)([^#\n]*?)(\s*#.*)?$")


def filled(text: str, settings: Mapping[str, object]) -> str:
    """`text` with ``section.key`` set to plain YAML values.

    A key that is missing is put at the end of its section, a section that is missing at the end of the file.
    """
    todo: dict[str, dict[str, object]] = {}
    for path, value in settings.items():
        section, key = path.split(".")
        todo.setdefault(section, {})[key] = value
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if match := _SECTION.match(line):
            _append_rest(lines, todo.pop(section, {}))
            section = match[1]
        elif (match := _KEY.match(line)) and match[1] in todo.get(section, {}):
            value = todo[section].pop(match[1])
            line = f"  {match[1]}: {value}{match[4] or ''}"
        lines.append(line)
    _append_rest(lines, todo.pop(section, {}))
    for name, values in todo.items():
        if values:
            lines += ["", f"{name}:", *(f"  {k}: {v}" for k, v in values.items())]
    return "\n".join(lines) + "\n"


def _append_rest(lines: list[str], values: Mapping[str, object]) -> None:
    """Put what a section lacks behind its last key: before the blank lines and the next section's comments."""
    end = len(lines)
    while end and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    lines[end:end] = [f"  {k}: {v}" for k, v in values.items()]


def without(text: str, section: str) -> str:
    """`text` without a section and the comment above it: the paragraph that it stands in."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p for p in paragraphs if not re.search(rf"^{section}:", p, re.MULTILINE))
