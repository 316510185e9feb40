"""The tables of the docs name everything that the registries have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from student_clap.config.servers import MEDIA_SERVERS
from student_clap.export.doctor.examine import all_checks
from student_clap.export.evaluate.figures import FIGURES
from student_clap.export.model.app_settings import APP_CHECKS
from student_clap.export.model.file_checks import FILE_CHECKS
from student_clap.export.model.run_checks import LOADS, RUN_CHECKS
from student_clap.featurize.cluster.registry import batch_systems
from student_clap.ingest.vectors import open as vectors
from student_clap.train.loop.loss import TERMS
from student_clap.train.students import registry as students

DOCS = Path(__file__).resolve().parent.parent / "docs"
CLAUSES = [check.name for checks in (FILE_CHECKS, LOADS, RUN_CHECKS, APP_CHECKS) for check in checks]
FIGURE_KEYS = sorted({figure.key.partition("@")[0] for figure in FIGURES})  # `overlap@k` stands for overlap@10
# page -> patterns of the names that stand on it
NAMED = {
    "cluster.md": [rf"--cluster {name}\b" for name in batch_systems()],
    "doctor.md": [f"`{check.name}`" for check in all_checks()],
    "evaluate.md": [rf"`(means\.)?{key}(@\w+)?`" for key in FIGURE_KEYS],
    "export.md": [f"`{name}`" for name in CLAUSES],
    "ingest.md": [f"`{name}`" for name in (*MEDIA_SERVERS, *vectors.names())],
    "students.md": [f"`{name}`" for name in (*students.names(), *students.patterns())],
    "train.md": [f"`{name}`" for name in TERMS],
}


@pytest.mark.parametrize("page", NAMED)
def test_a_page_names_all_that_there_is(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [name for name in NAMED[page] if not re.search(name, text)] == []
