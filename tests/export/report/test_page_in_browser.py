"""report.html in a real browser: what a click changes, on a desk, on a phone and on paper; no network, no errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopback.browser import needs_chromium, running_chromium
from student_clap.export.report.page import render_report

from .test_page import EPOCHS, EVIL, evaluation

pytestmark = pytest.mark.slow  # a second and more each


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose titles try to break it."""
    done = evaluation()
    for number, track in enumerate(done.record["tracks"]):
        track["title"] = f"{EVIL} {number}" if number % 2 else f"Donaudampfschifffahrtsgesellschaft{'x' * 60}{number}"
        track["artist"] = "An artist with a name that goes on for longer than a phone is wide " * 2
    done.record["text"]["queries"][1]["name"] = EVIL
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(done, EPOCHS), encoding="utf-8")
    return path


COLOURS = """() => [getComputedStyle(document.body).backgroundColor,
    ...['h1', 'h2', 'p', 'td', 'li'].map(name => getComputedStyle(document.querySelector(name)).color)]"""


OVERLAPS = """() => [...document.querySelectorAll('svg.chart')].flatMap(chart => {
    const texts = [...chart.querySelectorAll('text')].map(text => [text, text.getBoundingClientRect()]);
    return texts.filter(([text]) => text.classList.contains('axis')).flatMap(([title, a]) => texts
        .filter(([text, b]) => text !== title)
        .filter(([text, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
        .map(([text]) => title.textContent + ' / ' + text.textContent));
})"""


def luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`, as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


class Opened:
    """A page and all that went wrong in it."""

    def __init__(self, browser: Any, path: Path, width: int, **settings: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, **settings)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def close(self) -> None:
        """Nothing but the file itself was asked for, and nothing went wrong."""
        self.context.close()
        assert self.faults == []
        assert len(self.requests) == 1


@needs_chromium
def test_a_click_on_a_query_shows_both_its_rankings(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file, 1200)
    page = opened.page
    assert page.locator(".query:visible").count() == 1
    assert page.locator(".query:visible h3").inner_text() == "“query 0”"
    page.get_by_role("button", name="query 2").click()
    assert page.locator(".query:visible").count() == 1
    assert page.locator(".query:visible h3").inner_text() == "“query 2”"
    assert page.locator(".query:visible ol").count() == 2
    assert page.locator(".query:visible ol").first.locator("li").count() == 10
    assert page.locator('button[aria-pressed="true"]').inner_text() == "query 2"

    first = page.locator(".query:visible ol").first.locator("li").first
    track = first.get_attribute("data-track")
    first.click()
    picked = page.locator(".query:visible li.picked")
    assert picked.count() == page.locator(f'.query:visible li[data-track="{track}"]').count() == 2
    first.click()
    assert page.locator(".query:visible li.picked").count() == 0
    opened.close()


@needs_chromium
def test_a_tap_on_the_map_names_the_pair(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file, 390, has_touch=True)
    page = opened.page
    assert page.locator("#map-title").inner_text() == ""
    pair = page.locator("#map .pair").nth(7)
    pair.locator("circle").scroll_into_view_if_needed()
    box = pair.locator("circle").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    title = page.locator("#map .pair.picked title").text_content()
    assert page.locator("#map .pair.picked").count() == 1
    assert " ".join(page.locator("#map-title").inner_text().split()) == " ".join(title.split())
    assert "cosine" in title
    opened.close()


@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (390, "light"), (820, "dark"), (1280, "light")])
def test_no_width_needs_sideways_scrolling(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, page_file, width, color_scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # Nor does any table scroll within itself, as the figures of a library of this size fit.
    boxes = page.locator(".scroll").evaluate_all("boxes => boxes.filter(b => b.scrollWidth > b.clientWidth).length")
    assert boxes == 0
    # No title of an axis lies on another text of its chart.
    assert page.evaluate(OVERLAPS) == []
    # The verdict is what one sees first.
    assert page.locator("h1").bounding_box()["y"] < 200
    # Light letters on a dark page or dark ones on a light page, with the contrast that WCAG asks for (4.5).
    page_colour, *letters = map(luminance, page.evaluate(COLOURS))
    assert (page_colour < 0.05) == (scheme == "dark")
    for letter in letters:
        assert (max(letter, page_colour) + 0.05) / (min(letter, page_colour) + 0.05) >= 4.5
    opened.close()


@needs_chromium
def test_on_a_desk_no_table_scrolls_beside_another_model(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "beside.html"
    page.write_text(render_report(evaluation(other_noise=0.2), EPOCHS), encoding="utf-8")
    opened = Opened(browser, page, 1280)
    boxes = opened.page.locator(".scroll")
    assert boxes.count() > 3
    assert boxes.evaluate_all("boxes => boxes.filter(b => b.scrollWidth > b.clientWidth).length") == 0
    opened.close()


@needs_chromium
def test_it_prints_and_works_without_its_script(browser: Any, page_file: Path, tmp_path: Path) -> None:
    opened = Opened(browser, page_file, 1000, java_script_enabled=False)
    assert opened.page.locator(".query:visible").count() == 4
    opened.page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    opened.close()


@needs_chromium
def test_no_script_but_the_pages_own_may_run(browser: Any, page_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.html"
    text = page_file.read_text(encoding="utf-8")
    path.write_text(text.replace("</main>", '<script>document.title = "taken"</script></main>'), encoding="utf-8")
    opened = Opened(browser, path, 1000)
    assert opened.page.title() != "taken"
    opened.context.close()
    assert any("Content Security Policy" in fault for fault in opened.faults)
