"""What the pages show is true as far as it can be told without running it: names, options, settings, links."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from student_clap.config.formats.yaml12 import load_yaml
from student_clap.config.load import load_config
from student_clap.config.schema import Config
from student_clap.export.sweep.points import read_sweep

from .commands import faults, student_clap, variants
from .reader import ROOT, Block, Page, pages, read_page
from .rules import IN_PLACE, NO_COMMANDS, NOT_RUN, PYTHON_ELSEWHERE, not_run, used

COMMANDS = [command for page in pages() for command in page.commands if command.text not in NO_COMMANDS]
# Files of other programs: a Kubernetes object, a compose file.
OF_OTHERS = {"apiVersion", "services", "volumes"}
OF_SWEEPS = {"grid", "points"}


def each(page: Page) -> str:
    return page.name


def test_the_reader_finds_what_a_page_shows() -> None:
    page = read_page(
        "a.md",
        "# A `b` [c](d.md)\n\nUse `student-clap\nrun` or:\n\n    make demo  # a comment\n"
        "    cp a b && \\\n      nano c\n\n"
        "1. A list:\n\n       $ student-clap train [--x]\n           [--y Z]\n       what it prints\n\n   more\n\n"
        "End.\n\n    not = a.command\n\n```yaml\na: 1\n```\n[e](x.md#f)\n",
    )
    assert [(c.line, c.text, c.inline) for c in page.commands] == [
        (6, "make demo", False),
        (7, "cp a b && nano c", False),
        (12, "student-clap train [--x] [--y Z]", False),
        (3, "student-clap run", True),
    ]
    assert [(b.language, b.text) for b in page.blocks][-2:] == [("", "not = a.command\n"), ("yaml", "a: 1\n")]
    assert page.anchors == {"a-b-c"}
    assert page.links == ["d.md", "x.md#f"]


def test_there_are_commands_on_many_pages() -> None:
    assert len(COMMANDS) > 100
    assert len({command.page for command in COMMANDS}) > 10


@pytest.mark.parametrize("page", pages(), ids=each)
def test_the_options_and_settings_of_a_page_exist(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no config.yaml
    found = [
        f"{command.place}\n  {fault}"
        for command in COMMANDS
        if command.page == page.name
        for call in student_clap(command)
        for variant in variants(call)
        for fault in faults(variant, only_named=command.inline)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("train --lr 1", "No such option"),
        ("train --set training.lrr=1", "unknown key"),
        ("train --set training.lr=fast", "fast"),
        ("export --quantize int9", "is not one of"),
        ("store lost", "no such command"),
        ("check", "model is missing"),
        ("check a b", "what is b"),
    ],
)
def test_a_wrong_command_is_seen(call: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in " ".join(faults(call))


def test_every_target_of_make_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in COMMANDS:
        if command.text.startswith("make "):
            named = [word for word in command.text.split()[1:] if "=" not in word]
            assert set(named) <= targets, command.place


def test_every_script_that_a_page_runs_has_the_options_that_it_gives() -> None:
    found = [c for c in COMMANDS if re.match(r"python3? [\w/]+\.py\b", c.text)]
    assert found
    for command in found:
        script, *words = shlex.split(command.text)[1:]
        source = (ROOT / script).read_text(encoding="utf-8")
        assert [w for w in words if w.startswith("--") and f'"{w.partition("=")[0]}"' not in source] == [], (
            command.place
        )


def test_every_extra_that_a_page_installs_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in COMMANDS:
        for extras in re.findall(r"(?:student-clap|\.)\[([\w,-]+)\]", command.text):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), command.place


def yaml_blocks() -> list[tuple[Page, Block]]:
    """The fenced ones, and those that are indented and begin with a section of the configuration."""
    sections = re.compile(rf"(?:{'|'.join(Config.model_fields)}): *(?:#.*)?\n")
    return [(p, b) for p in pages() for b in p.blocks if b.language in {"yaml", "yml"} or sections.match(b.text)]


@pytest.mark.parametrize(
    ("page", "block"), yaml_blocks(), ids=lambda one: one.name if isinstance(one, Page) else one.line
)
def test_settings_that_a_page_shows_are_taken(page: Page, block: Block, tmp_path: Path) -> None:
    for text in re.split(r"^---\n", block.text, flags=re.MULTILINE):
        tree = load_yaml(text)
        assert isinstance(tree, dict)
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        if tree.keys() & OF_SWEEPS:
            read_sweep(tmp_path / "config.yaml")
        elif not tree.keys() & OF_OTHERS:
            load_config(tmp_path / "config.yaml", environment={})


@pytest.mark.parametrize(("page", "runner"), PYTHON_ELSEWHERE.items())
def test_python_that_is_run_elsewhere_is(page: str, runner: str) -> None:
    assert any(p.scripts for p in pages() if p.name == page)
    text = (ROOT / runner).read_text(encoding="utf-8")
    assert page == "CONTRIBUTING.md" or Path(page).name in text  # a sketch: that test has the students themselves


@pytest.mark.parametrize("page", pages(), ids=each)
def test_the_links_of_a_page_lead_somewhere(page: Page) -> None:
    by_path = {(ROOT / other.name).resolve(): other for other in pages()}
    for link in page.links:
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = ((ROOT / page.name).parent / path).resolve() if path else (ROOT / page.name).resolve()
        assert target.exists(), link
        assert not anchor or anchor in by_path[target].anchors, link


def test_no_rule_is_left_over() -> None:
    """A pattern that nothing on the pages needs any more."""
    assert set(NOT_RUN) - {not_run(command) for command in COMMANDS} == set()
    assert (
        set(IN_PLACE) - {pattern for command in COMMANDS if not not_run(command) for pattern in used(command)} == set()
    )
    assert [text for text in NO_COMMANDS if text not in {c.text for p in pages() for c in p.commands}] == []
