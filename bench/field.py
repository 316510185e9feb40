"""What real files, stores, servers and configurations do to the product: four tables of things that go wrong.

    formats   healthy files in whatever can be written here, and damaged ones, beside AudioMuse-AI's own front end
    damages   every file of a store lost, cut, flipped or exchanged: `store verify --deep` finds it, or nothing differs
    answers   odd HTTP answers of a media server: no wrong file, no traceback, never a whole library marked as failed
    configs   hostile config.yaml: one clear line, soon

Prints the tables and what is not as it should be, and writes results/field.json. `--music` names a folder of real music
(`make corpus` makes one), `--inputs` one with more files to try, in `audio/` and `config/`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from student_clap.config.runtime.files import write_text_atomically
from trials.music import Music
from trials.trial import KNOWN_LIMIT, Trial, in_words, summary

HERE = Path(__file__).resolve().parent
_FOLDER = re.compile(r"[^\s\"']*/sc-bench-field-\w+/")
_MOST_CHARACTERS = 160
RECORD = HERE / "results" / "field.json"


def main() -> int:
    """Try and print. Returns the exit status: 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="formats, damages, answers, configs  [default: all]")
    parser.add_argument("--music", type=Path, metavar="DIR", help="real music; without it tones")
    parser.add_argument("--inputs", type=Path, metavar="DIR", help="further files: audio/*, config/*.yaml")
    parser.add_argument("--only", default="", metavar="TEXT", help="of formats: those whose name holds TEXT, once more")
    options = parser.parse_args()
    asked = ["formats"] if options.only else options.tables
    tables = {n: t for n, t in TABLES.items() if not asked or n in asked}
    if len(tables) < len(set(asked)):
        print(f"error: the tables are {', '.join(TABLES)}", file=sys.stderr)
        return 1
    record: dict[str, Any] = {}
    lines = []
    for name, table in tables.items():
        begin = time.process_time()
        with tempfile.TemporaryDirectory(prefix="sc-bench-field-") as folder:
            trials = [_shown(trial) for trial in table(Path(folder), options)]
        record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        if options.only:
            again = {trial.name: trial for trial in trials}
            trials = [again.get(t["name"], Trial(**t)) for t in record[name]["trials"]]
        record[name] = summary(trials)
        lines.append(in_words(name, trials))
        print(f"{name}: {time.process_time() - begin:.0f} s of CPU in this process")
        write_text_atomically(RECORD, _as_json(record))
    print("\n| table | tried | as it should be | outcomes |\n|---|--:|--:|---|\n" + "\n".join(lines))
    return int(any(t["fault"] not in ("", KNOWN_LIMIT) for name in tables for t in record[name]["trials"]))


def _as_json(record: dict[str, Any]) -> str:
    """A line for each trial, without the names of temporary folders, long texts cut."""
    tables = []
    for name, table in record.items():
        head = json.dumps({k: v for k, v in table.items() if k != "trials"})
        lines = [json.dumps(_short(trial)) for trial in table["trials"]]
        tables.append(f'{json.dumps(name)}: {head[:-1]}, "trials": [\n' + ",\n".join(lines) + "\n]}")
    return "{\n" + ",\n".join(tables) + "\n}\n"


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return _FOLDER.sub("", value)[:_MOST_CHARACTERS] if isinstance(value, str) else value


def _shown(trial: Trial) -> Trial:
    if trial.fault:
        print(f"FAULT {trial.name}: {trial.fault}", flush=True)
    return trial


def _formats(folder: Path, options: argparse.Namespace) -> Iterable[Trial]:
    from trials.formats import formats_table

    return formats_table(folder, Music(options.music), options.inputs and options.inputs / "audio", options.only)


def _damages(folder: Path, options: argparse.Namespace) -> Iterable[Trial]:
    from trials.damages import damages_table

    return damages_table(folder, Music(options.music))


def _answers(folder: Path, options: argparse.Namespace) -> Iterable[Trial]:
    from trials.answers import answers_table

    return answers_table(folder, Music(options.music))


def _configs(folder: Path, options: argparse.Namespace) -> Iterable[Trial]:
    from trials.configs import configs_table

    return configs_table(folder, options.inputs and options.inputs / "config")


TABLES: dict[str, Callable[[Path, argparse.Namespace], Iterable[Trial]]] = {
    "formats": _formats,
    "damages": _damages,
    "answers": _answers,
    "configs": _configs,
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
