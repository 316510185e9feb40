"""The driver with a worker in this thread: files that cannot be read, workers that are lost, stops in between."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.featurize.light_run import Done, HereClient

from student_clap.config.runtime.signals import Stopped
from student_clap.config.schema import AudioConfig
from student_clap.featurize import driver
from student_clap.featurize.audio.decode import DecodeError, decode_with_remark
from student_clap.featurize.cluster.connection import Cluster, ClusterError
from student_clap.featurize.cluster.preflight import preflight
from student_clap.featurize.cluster.task import Job, Outcome
from student_clap.featurize.cluster.workers import result_of
from student_clap.store import FeatureStore, Recipe, State, Track

RECIPE = Recipe.from_config(AudioConfig())


class Rotten:
    """An open file that gives its first block, and then an error."""

    def __init__(self, file: Any) -> None:
        self._file, self._reads = file, 0

    def __enter__(self) -> Rotten:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        self._reads += 1
        if self._reads > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return bytes(self._file.read(size))


class Run:
    """One run of the driver."""

    def __init__(self, folder: Path, client: HereClient | None = None) -> None:
        self._folder, self._client = folder, client or HereClient()
        self.totals, self.outcomes, self.said = driver.Totals(), list[Outcome](), list[str]()

    def report(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def make(self, files: list[Path], per_task: int = 1) -> None:
        with FeatureStore.create(self._folder / "features.zarr", "t") as store:
            store.append_tracks(
                [Track("d", str(n), audio=str(file), state=State.FETCHED) for n, file in enumerate(files)]
            )
            store.features(RECIPE)
            jobs = [Job(row, str(file)) for row, file in enumerate(files)]
            cluster = Cluster(self._client, "here", workers=1)  # type: ignore[arg-type]
            driver.run(cluster, store, RECIPE, jobs, per_task, self.totals, self.report, self.said.append)


@pytest.fixture(autouse=True)
def _worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(address="here"))


def change_open(monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Any], Any]) -> None:
    """What `Path.open` gives for files of this name."""
    real = Path.open

    def changed(path: Path, *args: Any, **kwargs: Any) -> Any:
        file = real(path, *args, **kwargs)
        return change(file) if path.name == name else file

    monkeypatch.setattr(Path, "open", changed)


def refuse(file: Any) -> Any:
    file.close()
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_file_that_fails_further_on_is_one_that_cannot_be_read(
    tmp_path: Path, write_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = write_audio("good.wav"), write_audio("bad.wav", 8.0)
    assert bad.stat().st_size > 1 << 20

    def decode(path: Path, *arguments: Any) -> Any:
        if path == bad:
            raise DecodeError("damaged audio")
        return decode_with_remark(path, *arguments)

    monkeypatch.setattr("student_clap.featurize.cluster.task.decode_with_remark", decode)
    change_open(monkeypatch, bad.name, Rotten)
    run = Run(tmp_path)
    run.make([bad, good])
    assert (run.totals.made, run.totals.unreadable, run.totals.failed) == (1, 1, 0)
    assert [o.error for o in run.outcomes if o.error] == [f"{bad} cannot be read: Input/output error"]
    assert run.said == []


def test_a_file_that_cannot_be_read_here_does_not_speak_against_a_worker(
    tmp_path: Path, write_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    files = [write_audio("a/bad.wav"), write_audio("b/good.wav")]
    change_open(monkeypatch, "bad.wav", refuse)
    run = Run(tmp_path)
    run.make(files)
    assert (run.totals.made, run.totals.unreadable) == (1, 1)


def test_where_no_file_can_be_read_the_run_ends_with_the_reason(
    tmp_path: Path, write_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_audio("bad.wav")
    change_open(monkeypatch, file.name, refuse)
    with pytest.raises(ClusterError, match=r"bad\.wav cannot be read: Permission denied"):
        Run(tmp_path).make([file])


class Lost(Done):
    """A future that was done, and is lost with the worker that held it."""

    def __init__(self, status: str) -> None:
        super().__init__(None)
        self.status, self.released = status, False

    def result(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "it would wait for ever"
        raise TimeoutError

    def exception(self, timeout: float | None = None) -> Any:
        return self.result(timeout)

    def release(self) -> None:
        self.released = True


class LosingClient(HereClient):
    """Loses the first preflight checks."""

    def __init__(self, *lost: Lost) -> None:
        self.left = list(lost)

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Done:
        if function is preflight and self.left:
            return self.left.pop()
        return super().submit(function, *arguments, **options)


@pytest.mark.parametrize("status", ["lost", "pending", "finished", "error"])
def test_a_preflight_check_that_is_lost_is_made_again(
    tmp_path: Path, write_audio: Callable[..., Path], status: str
) -> None:
    lost = Lost(status)
    run = Run(tmp_path, LosingClient(lost))
    run.make([write_audio("a.wav")])
    assert run.totals.made == 1
    assert lost.released


def test_preflight_checks_that_are_lost_again_and_again_end_the_run(
    tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    client = LosingClient(*(Lost("lost") for _ in range(20)))
    with pytest.raises(ClusterError, match="8 workers in a row died"):
        Run(tmp_path, client).make([write_audio("a.wav")])


def test_a_stop_while_outcomes_are_counted_counts_none_twice(
    tmp_path: Path, write_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MARK_EVERY_S", 0.0)
    file = write_audio("a.wav", 0.5)

    class Stopping(Run):
        def report(self, outcome: Outcome) -> None:
            super().report(outcome)
            if len(self.outcomes) == 1:
                raise Stopped(signal.SIGTERM)

    run = Stopping(tmp_path)
    with pytest.raises(Stopped):
        run.make([file] * 10, per_task=2)
    rows = [outcome.row for outcome in run.outcomes]
    assert len(rows) == len(set(rows)) > 1
    assert run.totals.made == run.totals.done == len(rows)


class Slow:
    """A future that was done, whose result does not come at once."""

    def __init__(self, lost: bool) -> None:
        self.status, self.lost = "finished", lost
        self.waits: list[float] = []

    def result(self, timeout: float) -> str:
        self.waits.append(timeout)
        if len(self.waits) == 3:
            return "here"
        if self.lost:
            self.status = "pending"  # Dask cannot find it and would have it made again
        raise TimeoutError


def test_a_result_is_waited_for_unless_it_is_lost_with_its_worker():
    late, lost = Slow(lost=False), Slow(lost=True)
    assert result_of(late) == "here"
    with pytest.raises(TimeoutError):
        result_of(lost)
    assert lost.waits == late.waits[:1]
    assert late.waits == sorted(late.waits)
