"""docs/images/runs.png: the page of `student-clap runs --html`, as a Chromium that is installed shows it.

    python docs/make_runs_picture.py RUNS_DIR

The page of the runs in RUNS_DIR, sorted by the cosine, the best run set off.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from student_clap.train.comparison.page import runs_page
from student_clap.train.comparison.row import read_runs
from student_clap.train.comparison.table import sort_runs

PICTURE = Path(__file__).resolve().parent / "images" / "runs.png"


def main() -> int:
    """Draw it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs_dir", type=Path)
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("no Chromium is installed")
    rows = sort_runs(read_runs(options.runs_dir), "cosine")
    PICTURE.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        page_file = Path(folder) / "runs.html"
        page_file.write_text(runs_page(rows, options.runs_dir.name), encoding="utf-8")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 664})
        page.goto(page_file.as_uri())
        page.locator("#runs tbody th").first.click()
        page.screenshot(path=PICTURE)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
