"""Every batch system against commands that answer as the real ones do: scripts, states, refusals, workers that come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from loopback.batch.base import FakeBatch
from student_clap.config.schema import FeaturizeConfig
from student_clap.featurize.cluster.batch.sge import GridEngine
from student_clap.featurize.cluster.connection import ClusterError, local_cluster
from student_clap.featurize.cluster.jobs import BatchSystem
from student_clap.featurize.cluster.registry import batch_system, batch_systems


@dataclass(frozen=True)
class Words:
    """What a system says, and what is made of it."""

    waits: tuple[str, str]  # why a job waits; the state that `look` gives
    held: tuple[str, str]
    releases: str  # the command that lets it go
    lists: str  # the command that `look` asks
    never: tuple[str, str] = ("", "")  # where the system accepts what can never start
    cores: int = 4


ASKS = "Insufficient amount of resource: ncpus"
WORDS = {
    "slurm": Words(
        waits=("Resources", "PENDING (Resources)"),
        held=("JobHeldUser", "PENDING (JobHeldUser)"),
        releases="scontrol release",
        lists="squeue",
        never=("PartitionConfig", "PENDING (PartitionConfig)"),
    ),
    "pbs": Words(
        waits=(f"Not Running: {ASKS}", f"QUEUED (Not Running: {ASKS})"),
        held=("job held, too many failed attempts to run", "HELD (job held, too many failed attempts to run)"),
        releases="qrls",
        lists="qstat",
        # longer than a line of qstat's
        never=(
            f"Can Never Run: {ASKS} (R: 4 A: 2 T: 2), {ASKS}",
            f"QUEUED (Can Never Run: {ASKS} (R: 4 A: 2 T: 2), {ASKS})",
        ),
    ),
    "lsf": Words(
        waits=("Job slot limit reached: 2 hosts", "PEND (Job slot limit reached: 2 hosts)"),
        held=("The job was suspended by its owner", "PSUSP (The job was suspended by its owner)"),
        releases="bresume",
        lists="bjobs",
    ),
    "sge": Words(
        waits=("queue instance is full", "QUEUED"),
        held=("Job is in hold state", "HELD"),
        releases="qrls",
        lists="qstat",
        never=("cannot run in PE 'smp'", "QUEUED (no suitable queues: cannot run in PE 'smp')"),
    ),
    "htcondor": Words(
        waits=("no slot is free", "IDLE"),
        held=("held by its owner", "HELD (held by its owner)"),
        releases="condor_release",
        lists="condor_q",
        never=("no machine is large enough", "IDLE"),
        cores=17,
    ),
    "oar": Words(
        waits=("R=4,W=2:0:0,J=B (Karma=0.1)", "Waiting (R=4,W=2:0:0,J=B (Karma=0.1))"),
        held=("on hold", "Hold (on hold)"),
        releases="oarresume",
        lists="oarstat",
    ),
}


@dataclass
class Bench:
    """A system and its make-believe commands."""

    name: str
    system: BatchSystem
    fake: FakeBatch
    config: FeaturizeConfig
    words: Words

    def submit(self, config: FeaturizeConfig | None = None) -> str:
        return self.system.submit(self.system.script(config or self.config, "tcp://127.0.0.1:9", "job-0"))


Make = Callable[[str], Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Builds a bench, whose commands are the first on PATH until another is built."""
    made: list[FakeBatch] = []

    def build(name: str) -> Bench:
        fake = FakeBatch(tmp_path / name, name)
        made.append(fake)
        monkeypatch.setenv("PATH", fake.path)
        config = FeaturizeConfig(cluster=name, interface="lo", cores_per_job=1, job_logs=tmp_path / "logs")
        return Bench(name, batch_system(name), fake, config, WORDS[name])

    monkeypatch.setenv("PATH", os.environ["PATH"])
    yield build
    for fake in made:
        fake.close()


@pytest.fixture(params=batch_systems())
def bench(request: pytest.FixtureRequest, make: Make) -> Bench:
    return make(request.param)


def test_a_job_that_waits_is_there_until_it_is_cancelled(bench: Bench) -> None:
    waits, shown = bench.words.waits
    bench.fake.pend(waits)
    first, second = bench.submit(), bench.submit()
    assert bench.system.look((first, second)) == {first: shown, second: shown}
    assert bench.system.obstacle(bench.config, shown) == ""
    bench.system.cancel((first,))
    assert bench.system.look((first, second)) == {second: shown}
    bench.system.cancel((second,))
    assert bench.system.look((first, second)) == {}


def test_a_held_job_says_how_it_is_let_go(bench: Bench) -> None:
    reason, shown = bench.words.held
    bench.fake.pend(reason)
    job = bench.submit()
    assert bench.system.look((job,)) == {job: shown}
    assert f"`{bench.words.releases} JOB` lets it go" in bench.system.obstacle(bench.config, shown)


@pytest.mark.parametrize("bench", [name for name, words in WORDS.items() if words.never[0]], indirect=True)
def test_a_job_that_can_never_start_says_what_it_asks_for(bench: Bench) -> None:
    reason, shown = bench.words.never
    bench.fake.pend(reason)
    job = bench.submit()
    assert bench.system.look((job,)) == {job: shown}
    large = bench.config.model_copy(update={"cores_per_job": bench.words.cores})
    why = bench.system.obstacle(large, shown)
    assert f"a job asks for {bench.words.cores} cores" in why
    assert "change featurize.cores_per_job" in why


def test_a_refusal_is_passed_on(bench: Bench) -> None:
    bench.fake.refuse("there is no project of that name")
    with pytest.raises(ClusterError, match=r"^\w+ refuses the job: there is no project of that name$"):
        bench.submit()


def test_a_server_that_is_away_says_nothing_of_the_jobs(bench: Bench) -> None:
    (bench.fake.bin / bench.words.lists).write_text("#!/bin/sh\necho 'cannot connect to server' >&2\nexit 2\n")
    assert bench.system.look(("1",)) is None


def test_a_machine_without_the_commands_is_no_login_node(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench.system.script(bench.config, "tcp://127.0.0.1:9", "job-0")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match=r"there is no \w+ on PATH; .* on a login node"):
        bench.system.submit(script)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("pbs", ["#PBS -l select=1:ncpus=8:mem=12398mb", "#PBS -l walltime=36:00:30", "#PBS -A music", "#PBS -q long"]),
        ("lsf", ["#BSUB -n 8", "#BSUB -W 36:01", '#BSUB -P "music"', "#BSUB -q long", '#BSUB -R "span[hosts=1]"']),
        ("sge", ["#$ -pe smp 8", "#$ -l h_rt=36:00:30", "#$ -P music", "#$ -q long", "#$ -S /bin/bash"]),
        ("htcondor", ["RequestMemory = 12398", "MY.DaskWorkerCores = 8", "Accounting_Group = music", "Hold = False"]),
        ("oar", ["#OAR -l /nodes=1/core=8,walltime=36:00:30", "#OAR --project music", "#OAR -q long"]),
    ],
)
def test_the_script_asks_for_what_was_configured(make: Make, name: str, lines: list[str]) -> None:
    config = make(name).config.model_copy(
        update={
            "cores_per_job": 8, "memory_limit": "1.5GB", "walltime": "1-12:00:30", "account": "music",
            "queue": None if name == "htcondor" else "long", "job_extra": ("Hold = False",),
            "job_prologue": ("module load python",), "local_directory": "~/tmp/$USER",
        }
    )  # fmt: skip
    script = batch_system(name).script(config, "tcp://10.0.0.1:1234", "job-0")
    assert set(lines) <= set(script.splitlines())
    assert any(line.endswith("Hold = False") for line in script.splitlines())
    for words in (
        "module load python", "OMP_NUM_THREADS=1", "tcp://10.0.0.1:1234", "--nthreads 1", "--nworkers 8", "--nanny",
        "--memory-limit 1.40GiB", "--death-timeout 60", "--lifetime 129450s --lifetime-stagger 60s", "--interface lo",
        "--no-dashboard --dashboard-address 127.0.0.1:0", '"$HOME/tmp/$USER"',
    ):  # fmt: skip
        assert words in script


def test_what_a_system_does_not_know_is_told(make: Make) -> None:
    condor = make("htcondor")
    with pytest.raises(click.ClickException, match="HTCondor has no queues"):
        condor.system.script(condor.config.model_copy(update={"queue": "long"}), "tcp://x:1", "n")
    sge = make("sge")
    (sge.fake.bin / "qconf").write_text("#!/bin/sh\n[ $1 = -spl ] && echo mpi || echo 'allocation_rule $round_robin'\n")
    several = sge.config.model_copy(update={"cores_per_job": 4})
    with pytest.raises(click.ClickException, match=r"no parallel environment .* there are: mpi.*\[\"-pe NAME 4\"\]"):
        sge.system.script(several, "tcp://x:1", "n")
    named = several.model_copy(update={"job_extra": ("-pe mine 4",)})
    assert "#$ -pe mine 4" in sge.system.script(named, "tcp://x:1", "n")


def test_a_start_of_grid_engines_that_failed_is_told(make: Make) -> None:
    sge = make("sge")
    sge.fake.pend('error: can\'t open output file "/nosuch/": No such file or directory')
    job = sge.submit()
    found = GridEngine().look((job,))
    assert found == {job: 'ERROR (error: can\'t open output file "/nosuch/": No such file or directory)'}
    assert "`qmod -cj JOB` tries again" in sge.system.obstacle(sge.config, found[job])


@pytest.mark.slow
def test_workers_come_from_the_jobs_of_every_system_and_go_with_them(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_OF_NODE", str(tmp_path / "scratch with a space"))
    others = [name for name in batch_systems() if name != "slurm"]  # whole runs in test_slurm.py
    with local_cluster(0, interface="lo") as cluster:
        started: dict[str, tuple[Bench, str]] = {}
        for name in others:
            bench = make(name)
            config = bench.config.model_copy(update={"local_directory": f"$SCRATCH_OF_NODE/{name}"})
            started[name] = (bench, bench.system.submit(bench.system.script(config, cluster.address, name)))
        cluster.client.wait_for_workers(len(others), timeout=200)
        for name, (bench, job) in started.items():
            monkeypatch.setenv("PATH", bench.fake.path)
            variables = cluster.client.run(os.getenv, bench.system.job_variable)
            assert job in variables.values()
            assert (tmp_path / "scratch with a space" / name / "dask-scratch-space").is_dir()
            assert list((tmp_path / "logs").glob(bench.system.logs_of(job)))
            assert "RUN" in (bench.system.look((job,)) or {})[job].upper()
        for bench, job in started.values():  # all are asked before the first one goes
            monkeypatch.setenv("PATH", bench.fake.path)
            bench.system.cancel((job,))
        deadline = time.monotonic() + 100
        while cluster.client.nthreads():
            assert time.monotonic() < deadline
            time.sleep(0.1)
