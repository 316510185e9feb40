"""The options of `student-clap featurize`: what they refuse before anything begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.schema import Config
from student_clap.featurize import driver


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that the stage was called with; it does nothing. The working directory is empty."""
    found: list[Config] = []

    def stage(config: Config, *_: Any) -> driver.Ended:
        found.append(config)
        return driver.Ended("done")

    monkeypatch.setattr(driver, "featurize_store", stage)
    monkeypatch.chdir(tmp_path)
    return found


def featurize(*arguments: str, settings: str = "") -> Any:
    Path("config.yaml").write_text(settings)
    return CliRunner().invoke(main, ["featurize", *arguments])


ELSEWHERE = {
    "cluster: slurm": "{cluster: slurm}",
    "scheduler: tcp://10.0.0.2:8786": "{scheduler: 'tcp://10.0.0.2:8786'}",
    "scheduler_file: s.json": "{scheduler_file: s.json}",
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_workers_of_this_machine_are_refused_where_they_are_elsewhere(asked: list[Config], place: str) -> None:
    refused = featurize("--workers", "3", settings=f"featurize: {ELSEWHERE[place]}")
    assert (refused.exit_code, asked) == (2, [])
    assert "--workers counts processes of this machine, and the workers are elsewhere" in refused.output
    assert f"featurize.{place}" in refused.output.replace("\n", " ")
    here = featurize("--workers", "3", "--cluster", "local", settings=f"featurize: {ELSEWHERE[place]}")
    assert (here.exit_code, asked[0].featurize.workers) == (0, 3), here.output
    assert (asked[0].featurize.cluster, asked[0].featurize.scheduler) == ("local", None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workers", "3", "--scheduler", "tcp://10.0.0.2:8786"),
        ("--workers", "3", "--cluster", "slurm"),
        ("--jobs", "3", "--scheduler", "tcp://10.0.0.2:8786"),
        ("--jobs", "3", "--cluster", "local"),
    ],
)
def test_counts_that_belong_to_another_place_are_refused(asked: list[Config], arguments: tuple[str, ...]) -> None:
    refused = featurize(*arguments, settings="featurize: {cluster: slurm}")
    assert (refused.exit_code, asked) == (2, [])
    assert f"{arguments[0]} counts " in refused.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--teacher", "t.onnx", "--teacher-hop", "inf"), "--teacher-hop inf: input should be a finite number"),
        (("--teacher", "t.onnx", "--teacher-hop", "nan"), "--teacher-hop nan: input should be a finite number"),
        (("--teacher", "t.onnx", "--teacher-hop", "1e12"), "--teacher-hop 1000000000000.0: input should be less than"),
        (("--workers", "99999999999"), "--workers 99999999999: input should be less than or equal to 1000000000"),
    ],
)
def test_a_value_that_no_setting_may_have_is_refused(asked: list[Config], arguments: Any, says: str) -> None:
    refused = featurize(*arguments)
    assert (refused.exit_code, asked) == (2, [])
    assert says in " ".join(refused.output.split())
    assert not isinstance(refused.exception, OverflowError)


def test_what_the_user_set_stays_set(asked: list[Config]) -> None:
    """`teacher.hop_length_stft` counts where it was set; else the model's file may say."""
    done = featurize("--teacher", "t.onnx", "--teacher-hop", "2.5", settings="teacher: {hop_length_stft: 320, name: a}")
    assert done.exit_code == 0, done.output
    teacher = asked[0].teacher
    assert (teacher.declared_hop, teacher.name, teacher.hop_s, teacher.model) == (320, "a", 2.5, Path("t.onnx"))
    featurize("--teacher", "t.onnx")
    assert asked[1].teacher.declared_hop is None


def test_views_are_of_a_teacher_and_at_most_sixteen(asked: list[Config]) -> None:
    refused = featurize("--views", "1")
    assert (refused.exit_code, asked) == (2, [])
    assert "--views is about the teacher; name its model with --teacher ONNX" in " ".join(refused.output.split())
    refused = featurize("--views", "1", "--no-teacher", settings="teacher: {model: clap.onnx}")
    assert (refused.exit_code, asked) == (2, [])
    assert "--no-teacher and --views exclude one another" in refused.output
    for number in ("17", "-1"):
        refused = featurize("--views", number, "--teacher", "clap.onnx")
        assert (refused.exit_code, asked) == (2, [])
        assert "--views" in refused.output
    assert featurize("--views", "16", "--teacher", "clap.onnx", settings="teacher: {views: 3}").exit_code == 0
    assert featurize(settings="teacher: {model: clap.onnx, views: 3}").exit_code == 0
    assert featurize("--views", "0", settings="teacher: {model: clap.onnx, views: 3}").exit_code == 0
    assert featurize(settings="teacher: {views: 3}").exit_code == 0  # without a teacher there are none
    assert [config.teacher.views for config in asked] == [16, 3, 0, 3]


@pytest.mark.parametrize(
    "option",
    [
        "--again-teacher",
        "--again 5",
        "--again-old-decoder",
        "--retry-failed",
        "--cluster slurm",
        "--jobs 3",
        "--workers 2",
        "--scheduler tcp://a:1",
        "--teacher-hop 2.5",
        "--views 1",
        "--json",
        "--no-teacher",
    ],
)
def test_what_a_probe_would_ignore_is_refused(asked: list[Config], option: str) -> None:
    teacher = () if option == "--no-teacher" else ("--teacher", "t.onnx")
    refused = featurize("--probe", "3", *teacher, *option.split())
    assert (refused.exit_code, asked) == (2, [])
    assert f"leave {option.split(maxsplit=1)[0]} out" in " ".join(refused.output.split())


def test_the_command_that_fetches_audio_again_is_of_the_same_store_and_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def stage(_: Config, __: Any, fetch: str) -> driver.Ended:
        commands.append(fetch)
        return driver.Ended("done")

    monkeypatch.setattr(driver, "featurize_store", stage)
    monkeypatch.chdir(tmp_path)
    featurize("--teacher", "t.onnx")
    featurize("--teacher", "t.onnx", "--set", "teacher.name=other's", "--set", "featurize.workers=2")
    featurize("--again", "4", "--recipe", "audiomuse", "--set", "store.path=other.zarr")
    assert commands == [
        "student-clap ingest",
        """student-clap ingest --set 'teacher.name=other'"'"'s'""",
        "student-clap ingest --recipe audiomuse --set store.path=other.zarr --refetch 4",
    ]
