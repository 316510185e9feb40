"""`student-clap runs --html`: one file, whole without its script, safe against what a run's files may hold."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loopback.browser import needs_chromium, running_chromium

from .test_table import ask, make_run

EVIL = "<img src=x onerror=alert(1)>\"'&"


class Text(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.cells.append(data.strip())


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    make_run(runs, "plain", (0.1, 0.5, 0.3, 0.4))
    make_run(runs, EVIL.replace("/", ""), (0.2, 0.3), model={"architecture": EVIL}, training={"seed": 2})
    make_run(runs, "none", (), loss={"bank": 1.0})
    for number in range(9):
        make_run(runs, f"r{number}", (0.01 * number, 0.02 * number))
    (runs / "damaged").mkdir()
    (runs / "damaged" / "run.json").write_text("{", encoding="utf-8")
    page = tmp_path / "page.html"
    result = ask(runs, "--html", str(page))
    assert result.exit_code == 0, result.output
    assert "runs: 13 in" in result.stderr
    assert "plain" in result.stdout  # the table is printed as ever
    return page


def test_the_page_has_all_runs_their_curves_and_settings(page_file: Path) -> None:
    page = page_file.read_text(encoding="utf-8")
    text = Text(page)
    assert {"plain", "none", "r8", "damaged", EVIL, "0.5000", "training.seed", "Validation cosine"} <= set(text.cells)
    curves = re.findall(r'<path class="line run (r\d+ c\d+ d\d+)" d="M[\d. ]+L', page)
    assert len(curves) == 11  # a line for each run with two epochs
    assert len(set(curves)) == 11  # and no two alike
    assert len({name.partition(" ")[2] for name in curves}) == 11


def test_nothing_foreign_runs_and_nothing_is_loaded(page_file: Path) -> None:
    text = Text(page_file.read_text(encoding="utf-8"))
    assert "img" not in text.tags
    assert text.tags.count("script") == 1
    assert not [name for name, _ in text.attributes if name.startswith("on") or name in ("src", "href")]
    policy = next(value for name, value in text.attributes if name == "content" and "default-src" in str(value))
    assert "default-src 'none'" in str(policy)


def test_no_runs_are_a_page_too(tmp_path: Path) -> None:
    result = ask(tmp_path / "nowhere", "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 0
    assert "0 runs" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
@needs_chromium
def test_a_heading_sorts_and_a_name_sets_a_run_off(page_file: Path) -> None:
    with running_chromium() as browser:
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(page_file.as_uri())

        def names() -> list[str]:
            return [name.strip() for name in page.locator("#runs tbody th").all_inner_texts()]

        def sort() -> list[str]:
            page.get_by_role("button", name="cosine", exact=True).click()
            return names()

        best_first, worst_first = sort(), sort()
        assert best_first[:2] == ["plain", EVIL]
        assert worst_first[0] == "r0"
        assert set(best_first[-2:]) == set(worst_first[-2:]) == {"none", "damaged"}  # what is not known comes last
        page.get_by_text("plain", exact=True).first.click()
        assert page.locator("#runs tr.picked").count() == 1
        assert page.locator(".charts .line.picked").count() == 1
    assert faults == []


def test_numbers_that_no_axis_has_room_for_and_names_of_any_bytes(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs, "plain", (0.1, 0.5))
    odd = make_run(runs, "odd\udce9", (0.2, 0.3), model={"architecture": "\ud800"})
    history = odd / "metrics.jsonl"
    lines = [{**json.loads(line), "train_loss": loss} for line, loss in zip(
        history.read_text(encoding="utf-8").splitlines(), (1.7e308, -1.7e308), strict=True
    )]  # fmt: skip
    history.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    result = ask(runs, "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    assert "nan" not in (tmp_path / "page.html").read_text(encoding="utf-8").partition("<svg")[2]
