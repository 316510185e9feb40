"""Every command of every page is run as the page has it, or stands in `rules.NOT_RUN` with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from student_clap.export.demo.postgres import PostgresServer

from .commands import is_complete
from .reader import Command, Page, pages
from .rules import NO_COMMANDS, PYTHON_ELSEWHERE, not_run, runnable
from .world import SHELL_S, PagesWorld, pages_world

# The first page waits for the world and for each state before its own; a shell ends before pytest does.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5 * SHELL_S)]


def to_run() -> dict[str, list[Command]]:
    """By page: the commands and scripts of its blocks, and those of its sentences that no earlier page or block has."""
    found: dict[str, list[Command]] = {}
    seen: set[str] = set()
    for page in pages():
        scripts = [] if page.name in PYTHON_ELSEWHERE else page.scripts
        for command in sorted([*page.commands, *scripts], key=lambda c: (c.inline, c.line)):
            if not_run(command) or command.text in NO_COMMANDS:
                continue
            if command.inline and (runnable(command) in seen or not is_complete(command)):
                continue
            found.setdefault(page.name, []).append(command)
            seen.add(runnable(command))
    return found


TO_RUN = to_run()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[PagesWorld]:
    with pages_world(tmp_path_factory.mktemp("pages"), postgres_server) as running:
        yield running


@pytest.mark.parametrize("page", [page for page in pages() if page.name in TO_RUN], ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_it_says(world: PagesWorld, page: Page) -> None:
    ran = world.run(page, TO_RUN[page.name])
    failed = [
        f"{one.command.place}\n  run as: {one.line}\n  status {one.status}:\n{one.output}" for one in ran if one.failed
    ]
    assert not failed, "\n\n".join(failed)
