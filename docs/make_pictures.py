"""The pictures of docs/images, as a Chromium that is installed shows them.

    python docs/make_pictures.py report REPORT.html
    python docs/make_pictures.py runs RUNS_DIR
    python docs/make_pictures.py commands PROJECT

The first is a report's figures and curves, the second the page of `student-clap runs --html`, sorted by the cosine. The
third runs `status` and `doctor` in the folder PROJECT on a terminal of their own, and draws what stands on it.
"""

from __future__ import annotations

import argparse
import html
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from student_clap.train.comparison.page import runs_page
from student_clap.train.comparison.row import read_runs
from student_clap.train.comparison.table import sort_runs

IMAGES = Path(__file__).resolve().parent / "images"
PROGRAM = Path(sys.executable).with_name("student-clap")
# The first words of a line of status, and the first two columns of one of doctor.
NAMES = re.compile(r"\S+(?: \S+)*\s{2,}(?:\S+(?: \S+)*\s{2,})?")
SGR = re.compile(r"\x1b\[([\d;]*)m")
COLOURS = {"31": "#ff8f8a", "32": "#58cdb0", "33": "#e2c04d"}
TERMINAL = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0; background: #12161a; width: max-content; }}
pre {{ margin: 0; padding: 14px 18px; width: 132ch; white-space: pre-wrap; color: #e9ecee; }}
pre {{ font: 13px/1.45 "DejaVu Sans Mono", monospace; }} b {{ font-weight: 400; }}</style><pre>{}</pre>"""


def main() -> int:
    """Draw. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("report", "runs", "commands"))
    parser.add_argument("source", type=Path)
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("no Chromium is installed")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 664})
        if options.which == "report":
            page = browser.new_page(viewport={"width": 1240, "height": 664}, device_scale_factor=0.8)
            page.goto(options.source.resolve().as_uri())
            top = page.locator(".tiles").bounding_box()["y"] - 20
            clip = {"x": 40, "y": top, "width": 1160, "height": 764}
            page.screenshot(path=IMAGES / "report.png", full_page=True, clip=clip)
        elif options.which == "runs":
            show(page, folder, runs_page(sort_runs(read_runs(options.source), "cosine"), options.source.name))
            page.locator("#runs tbody th").first.click()
            page.screenshot(path=IMAGES / "runs.png")
        else:
            for command in ("status", "doctor"):
                show(
                    page,
                    folder,
                    TERMINAL.format(as_html(f"$ student-clap {command}\n" + screen(command, options.source))),
                )
                page.locator("pre").screenshot(path=IMAGES / f"{command}.png")
        browser.close()
    return 0


def show(page: Page, folder: str, text: str) -> None:
    """Open a page."""
    file = Path(folder) / "page.html"
    file.write_text(text, encoding="utf-8")
    page.goto(file.as_uri())


def screen(command: str, project: Path) -> str:
    """What a command prints on a terminal."""
    reader, terminal = pty.openpty()
    os.set_blocking(reader, True)
    environment = os.environ | {"COLUMNS": "132", "TERM": "xterm-256color"}
    running = subprocess.Popen([PROGRAM, command], cwd=project, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    printed = b""
    while True:
        try:
            some = os.read(reader, 65536)
        except OSError:  # Linux's word for the end of a terminal
            some = b""
        if not some:
            break
        printed += some
    running.wait()
    os.close(reader)
    # Where the folder lies here, and where the demo's database has its socket, is nobody's concern.
    shown = printed.decode().replace("\r\n", "\n").replace(str(project.resolve()), "~/demo/tunes")
    return re.sub(r"/\S*sc-pg-\w+/data", "localhost", shown)


def as_html(text: str) -> str:
    """Coloured lines as HTML; what does not fit a line goes on below what the line says."""
    lines = []
    for line in text.splitlines():
        names = NAMES.match(SGR.sub("", line))
        indent = len(names[0]) if names else 2
        coloured, last = [], 0
        for match in SGR.finditer(line):
            colour = COLOURS.get(match[1])
            coloured += [html.escape(line[last : match.start()]), f'<b style="color:{colour}">' if colour else "</b>"]
            last = match.end()
        coloured.append(html.escape(line[last:]) or "&nbsp;")
        lines.append(f'<div style="padding-left:{indent}ch; text-indent:-{indent}ch">{"".join(coloured)}</div>')
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
