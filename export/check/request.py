"""What a trial is asked for, as it goes through the pipe from `limited` to `trial`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from student_clap.config.formats.json_text import parse_json
from student_clap.store import Recipe


@dataclass(frozen=True)
class Request:
    """What is to be tried."""

    model: Path
    configured: Recipe  # stands in for what a file does not tell of its mel
    audio: Path | None = None
    reference: Path | None = None
    providers: tuple[str, ...] = ()  # short names, or "all"

    def as_json(self) -> str:
        """For the pipe."""
        return json.dumps(
            {
                "model": str(self.model),
                "configured": self.configured.as_attributes(),
                "audio": None if self.audio is None else str(self.audio),
                "reference": None if self.reference is None else str(self.reference),
                "providers": self.providers,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Back again."""
        found = parse_json(text)
        audio, reference = (None if found[name] is None else Path(found[name]) for name in ("audio", "reference"))
        configured = Recipe.from_attributes(found["configured"])
        return cls(Path(found["model"]), configured, audio, reference, tuple(found["providers"]))
