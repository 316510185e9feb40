"""docs/cluster.md's line for a job in a container: the job's script starts again inside, once."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from student_clap.config.load import load_config
from student_clap.featurize.cluster.script import job_script

PAGE = Path(__file__).resolve().parents[4] / "docs" / "cluster.md"
APPTAINER = """#!/bin/sh
echo started >> "$STARTS"
[ "$(wc -l < "$STARTS")" -lt 3 ] || exit 1
while [ "$1" != bash ]; do shift; done
APPTAINER_CONTAINER=/image.sif exec "$@"
"""


def test_the_script_starts_again_inside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = re.findall(r"^ +# (job_prologue: \[.*apptainer.*\])$", PAGE.read_text(), re.MULTILINE)
    (tmp_path / "config.yaml").write_text(f"featurize:\n  {line}\n")
    config = load_config(tmp_path / "config.yaml").featurize
    script = job_script("slurm:SLURMJob", config, "tcp://10.0.0.1:8786", "job-0")
    worker = next(text for text in script.splitlines() if "distributed.cli.dask_worker" in text)
    job, starts = tmp_path / "job.sh", tmp_path / "starts"
    job.write_text(script.replace(worker, 'echo "worker in $APPTAINER_CONTAINER"'))
    apptainer = tmp_path / "apptainer"
    apptainer.write_text(APPTAINER)
    apptainer.chmod(0o755)
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STARTS": str(starts)}
    done = subprocess.run(
        ["/bin/bash", str(job)], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "worker in /image.sif\n"), done.stderr
    assert starts.read_text() == "started\n"
