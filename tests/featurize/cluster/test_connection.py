"""The cluster of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from student_clap.featurize.cluster.connection import local_cluster

pytestmark = pytest.mark.slow


def test_workers_put_aside_what_they_must_where_they_are_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_OF_NODE", str(tmp_path))
    with local_cluster(1, local_directory="$SCRATCH_OF_NODE/dask") as cluster:
        cluster.client.wait_for_workers(1, timeout=100)
        assert list((tmp_path / "dask" / "dask-scratch-space").glob("worker-*"))
