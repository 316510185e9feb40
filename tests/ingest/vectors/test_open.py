"""The registry of the places that vectors come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from student_clap.config.schema import Config
from student_clap.ingest.vectors.base import VectorSourceError
from student_clap.ingest.vectors.open import KINDS, names, open_vector_source


@pytest.mark.parametrize("kind", names())
def test_every_place_is_a_setting_and_says_what_it_lacks(kind: str, tmp_path: Path) -> None:
    tree = {"ingest": {"vectors": kind}, "database": {"host": str(tmp_path)}}
    config = Config.model_validate(tree)
    assert (KINDS[kind].section or config.ingest.source) in Config.model_fields
    with pytest.raises(VectorSourceError) as caught, open_vector_source(config, None):
        pass
    assert "\n" not in caught.value.message


def test_another_setting_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ValidationError, match=f"expected one of {', '.join(names())}, teacher, got 'tape'"):
        Config.model_validate({"ingest": {"vectors": "tape"}})


def test_the_names_are_there_without_the_libraries_of_any_place() -> None:
    program = (
        "import sys; from student_clap.ingest.vectors.open import names; names();"
        "print([m for m in ('psycopg2', 'zarr', 'av', 'onnxruntime', 'requests', 'numpy') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"
