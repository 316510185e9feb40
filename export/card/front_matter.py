"""The head of a model card: YAML that Hugging Face's hub and any YAML reader take for the same values.

Every text is written in double quotes with JSON's escapes, which YAML 1.1 and 1.2 share; so neither a name that looks
like a number, a date or a truth value, nor one with colons, quotes or line breaks can become anything else.
"""

from __future__ import annotations

import json
import re
from typing import Any

from student_clap.export.card.facts import Facts

UNKNOWN_LICENCE = "unknown"  # the hub's own word
_TAGS = ("audio", "clap", "music", "onnx", "knowledge-distillation", "audiomuse-ai", "student-clap")
_KEY = re.compile(r"[a-z_0-9-]+")


def front_matter(facts: Facts) -> str:
    """The block with its two lines of dashes."""
    tree: dict[str, Any] = {"license": facts.terms.licence or UNKNOWN_LICENCE}
    if facts.teacher:
        tree["base_model"] = facts.teacher
    tree |= {
        "library_name": "onnx",
        "pipeline_tag": "feature-extraction",
        "tags": [*_TAGS, *(["int8"] if facts.quantisation.get("kind") == "int8" else [])],
    }
    metrics = _metrics(facts)
    if metrics:
        result = {
            "task": {"type": "feature-extraction", "name": "Audio embedding"},
            "dataset": {"type": "private", "name": f"A music library, {facts.side} tracks", "split": facts.side},
            "metrics": metrics,
        }
        tree["model-index"] = [{"name": facts.file, "results": [result]}]
    return f"---\n{''.join(f'{line}{chr(10)}' for line in _block(tree))}---\n"


def _metrics(facts: Facts) -> list[dict[str, Any]]:
    if facts.evaluation is not None:
        seen = facts.evaluation
        counts = {"tracks": seen.n_tracks, "artists": seen.n_artists} if facts.terms.library_facts else {}
        return [
            {
                "type": figure.key,
                "name": figure.name,
                "value": round(figure.student, 4),
                "args": {
                    **({"confidence_interval_95": [round(v, 4) for v in figure.interval]} if figure.interval else {}),
                    **counts,
                },
            }
            for figure in seen.figures
            if figure.student is not None
        ]
    return [{"type": key, "name": name, "value": round(value, 4)} for key, name, value in facts.trained_figures]


def _block(tree: Any, indent: int = 0) -> list[str]:
    """Lines of a YAML block; empty maps are left out."""
    space, lines = " " * indent, []
    if isinstance(tree, dict):
        for key, value in tree.items():
            name = key if _KEY.fullmatch(key) else json.dumps(key)
            if isinstance(value, dict) and not value:
                continue
            if isinstance(value, dict | list):
                lines += [f"{space}{name}:", *_block(value, indent + 2)]
            else:
                lines.append(f"{space}{name}: {_scalar(value)}")
        return lines
    for value in tree:
        if isinstance(value, dict):
            first, *rest = _block(value, indent + 2)
            lines += [f"{space}- {first.strip()}", *rest]
        else:
            lines.append(f"{space}- {_scalar(value)}")
    return lines


def _scalar(value: str | float) -> str:
    """One value; a number has no exponent, which YAML 1.1 would read as text."""
    if isinstance(value, float):
        return f"{value:.4f}"
    # DEL and what lies behind it must be escaped in YAML, and are not in JSON; `one_line` has taken them away.
    return json.dumps(value, ensure_ascii=False)
