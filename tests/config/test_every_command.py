"""One look: what holds for every command and every option of the program."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from student_clap.config.cli import main

SHOWN_AS_DEFAULT = re.compile(r"\[default: .+\]")
REPORTING = {
    *("config", "ingest", "featurize", "runs", "evaluate", "check", "embed", "bench", "status", "doctor", "sweep"),
    *("store info", "store list", "store verify"),
}
# Processes whose stdout a command reads.
PROBES = {"export/doctor/torch_probe.py", "export/bench/subject.py", "export/check/trial.py"}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"


def commands(group: click.Group = main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


COMMANDS = dict(commands())


def options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option) and not option.hidden]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_its_unit_and_its_default(name: str) -> None:
    for option in options(COMMANDS[name]):
        where = f"{name} {option.opts[0]}"
        assert option.help, where
        assert option.help.rstrip().endswith((".", "]", "npz")), f"{where}: {option.help!r} is not a sentence"
        if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
            counted = option.make_metavar(click.Context(COMMANDS[name])) + option.help
            assert re.search(r"[A-Z]{4,}|each|per|time|runs|Jobs|jobs|Processes|row", counted), f"{where}: no unit"
        if option.default is not None and not option.is_flag and not option.multiple and not callable(option.default):
            shown = option.show_default or SHOWN_AS_DEFAULT.search(option.help)
            assert shown or repr(option.default) == "Sentinel.UNSET", f"{where}: the default is not shown"


def test_an_option_means_the_same_in_every_command() -> None:
    kinds: dict[str, dict[tuple[str, bool], list[str]]] = {}
    for name, command in COMMANDS.items():
        for option in options(command):
            kind = (type(option.type).__name__.removeprefix("User"), option.is_flag)
            for spelling in (*option.opts, *option.secondary_opts):
                kinds.setdefault(spelling, {}).setdefault(kind, []).append(name)
    assert [spelling for spelling, found in kinds.items() if len(found) > 1] == []
    assert not {"--output", "--to-file", "--dest"} & {
        option.opts[0] for c in COMMANDS.values() for option in options(c)
    }
    short = {spelling for spelling in kinds if re.fullmatch("-[a-zA-Z]", spelling)}
    assert short == {"-q", "-v"}
    assert [spelling for spelling in kinds if not re.fullmatch(r"-[a-z]|--[a-z]+(-[a-z]+)*", spelling)] == []


def test_the_page_names_every_command_that_reports_as_json() -> None:
    rows = re.findall(r"(?m)^\| `([a-z ]+)` \|", PAGE.read_text(encoding="utf-8"))
    assert set(rows) == REPORTING


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_options_of_messages(name: str) -> None:
    spelt = {spelling for option in options(COMMANDS[name]) for spelling in option.opts}
    if name != "completion":
        assert {"-q", "--quiet", "-v", "--verbose", "--log-file"} <= spelt
    assert ("--json" in spelt) == (name in REPORTING)


def test_nothing_prints_beside_the_screen() -> None:
    """Every bar and every table is made by `runtime.screen`: no other module imports what draws them."""
    root = Path(__file__).resolve().parents[2]
    found = []
    for folder in ("config", "store", "ingest", "featurize", "train", "export"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
                if called == "print" or {name.partition(".")[0] for name in names} & {"tqdm", "tabulate", "rich"}:
                    found.append(str(path.relative_to(root)))
    assert set(found) == {"config/runtime/screen.py", *PROBES}


def test_json_stands_alone_on_stdout_and_all_else_on_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["config", "--json", "--set", "jellyfin.token=abc"])
    assert json.loads(done.stdout)["jellyfin"]["token"] == "***"
    assert "WARNING: jellyfin.token was given with --set" in done.stderr
    again = CliRunner().invoke(main, ["config", "--set", "training.lr=1e-3"])
    assert "learning_rate: 0.001" in again.stdout  # the manner is that of one command


def test_quiet_verbose_and_the_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(main, ["config", "-q", "-v"])
    assert (refused.exit_code, "exclude one another" in refused.stderr) == (2, True)
    log = tmp_path / "run.log"
    CliRunner().invoke(main, ["config", "--log-file", str(log), "--json"])
    failed = CliRunner().invoke(main, ["config", "--log-file", str(log), "--set", "nothing"])
    assert failed.exit_code == 1
    lines = log.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines)
    assert lines[0].endswith(" using the defaults; --config names another")
    assert any("Error: --set:" in line for line in lines)
    nowhere = CliRunner().invoke(main, ["config", "--log-file", str(tmp_path / "none" / "x.log")])
    assert (nowhere.exit_code, "name another file" in nowhere.stderr) == (2, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_our_command(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0, done.output
    assert "_STUDENT_CLAP_COMPLETE" in done.output


@pytest.mark.slow
def test_a_shell_is_told_commands_and_options_without_what_is_heavy() -> None:
    def complete(*words: str) -> list[str]:
        code = (
            "import sys\nfrom student_clap.config.cli import main\n"
            "try:\n    main(prog_name='student-clap')\nfinally:\n"
            "    assert not {'torch', 'onnxruntime', 'distributed', 'zarr'} & set(sys.modules)\n"
        )
        environment = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        environment |= {"_STUDENT_CLAP_COMPLETE": "bash_complete", "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("student-clap", "do") == ["doctor"]
    assert complete("student-clap", "ingest", "--ma") == ["--map", "--max-cache"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["nothing"], 2), (["train", "--nothing"], 2), (["config", "--set", "nothing"], 1)],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == code
