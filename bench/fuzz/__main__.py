"""Fuzz a target, guided by coverage: `PYTHONPATH=bench python -m fuzz tables --seconds 600 --out findings`.

Needs `pip install atheris`, which has wheels for some Pythons on Linux only. Each finding is written once per place in
the code, and the fuzzing goes on; libFuzzer ends the process where an input takes more than a minute or 4 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris

from fuzz.registry import NAMES
from fuzz.target import Target, work_folder

_FROM_A_SEED = 0.3  # of the target's own mutations


def mutator(target: Target) -> Callable[[bytes, int, int], bytes]:
    """Half of the mutations are the target's own, half are libFuzzer's."""
    seeds = list(target.seeds())

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        # libFuzzer drops a valid input where another has the same coverage; what it says would be lost with it.
        begin = chance.choice(seeds) if chance.random() < _FROM_A_SEED else bytes(data)
        own = target.mutate(begin, chance) if seed % 2 and target.mutate else None
        return own if own is not None and len(own) <= most else bytes(atheris.Mutate(data, most))

    return mutate


def main() -> None:
    """Fuzz, and print what was done at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--out", type=Path, required=True, help="folder of the findings and of the corpus")
    options = parser.parse_args()
    with atheris.instrument_imports(include=["student_clap"], enable_loader_override=False):
        target = importlib.import_module(f"fuzz.{options.target}").TARGET
    corpus, findings = options.out / f"corpus-{target.name}", options.out / f"findings-{target.name}"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for content in (*target.seeds(), *(file.read_bytes() for file in target.kept())):
        (corpus / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    work = Path(tempfile.mkdtemp(prefix="student-clap-fuzz-", dir=work_folder()))
    counts = {"runs": 0, "read": 0, "findings": 0}
    places: set[str] = set()
    over: list[bool] = []
    end = time.monotonic() + options.seconds

    def once(data: bytes) -> None:
        counts["runs"] += 1
        try:
            counts["read"] += target.test(data, work)
        except Exception as error:  # noqa: BLE001  a finding
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{type(error).__name__} {' '.join(f'{Path(f.filename).name}:{f.lineno}' for f in frames[-3:])}"
            counts["findings"] += 1
            if place not in places:
                places.add(place)
                name = hashlib.sha256(place.encode()).hexdigest()[:12]
                (findings / f"{name}.bin").write_bytes(data)
                (findings / f"{name}.txt").write_text("".join(traceback.format_exception(error)))
                print(f"FINDING {place}: {str(error)[:200]!r}", flush=True)
        if counts["runs"] % 500 == 0 or (time.monotonic() > end and not over):
            over.extend([True] * (time.monotonic() > end))
            print(f"RUNS {counts} places {len(places)}", flush=True)

    libfuzzer = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        "-timeout=60",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    libfuzzer += [f"-artifact_prefix={findings}/", "-max_len=20000", str(corpus)]
    atheris.Setup(libfuzzer, once, **({"custom_mutator": mutator(target)} if target.mutate else {}))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
