"""Memory and time of `student-clap ingest` over AudioMuse-AI databases of 10 000 and of 100 000 tracks.

A PostgreSQL of its own (generation B, random unit vectors), and the real command with `--vectors-only`, three times: a
first run, a run to which nothing has changed, and one after 1 % of the vectors changed and 1 % of the tracks vanished.
Peak RSS is that of the whole process, as the operating system counts it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.runtime.files import write_text_atomically
from student_clap.export.demo.postgres import Database, running_postgres
from student_clap.export.demo.schema import MAIN_SERVER, create_schema
from student_clap.store import FeatureStore, State

HERE = Path(__file__).resolve().parent
BLOCK_ROWS = 5000
CHANGED = GONE = 0.01  # of the tracks
# Starts the command from a small process: a child inherits the peak of the process that it was forked from.
LAUNCHER = """
import json, resource, subprocess, sys, time
begin = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "status": done.returncode, "output": done.stdout, "wall_s": time.monotonic() - begin,
    "cpu_s": used.ru_utime + used.ru_stime, "peak_rss_mb": used.ru_maxrss * 1024 / 1e6,
}))
"""


def main() -> int:
    """Measure and print. Returns the exit status: 1 if memory grows by more than 10 % from first size to last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="[default: 10000 100000]")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="sc-bench-ingest-"))
    try:
        with running_postgres() as server:
            records = [measure(server.create_database(), home / str(n), n) for n in options.rows]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    record = {"sizes": records, "peak_growth": peak_growth(records[0]["runs"], records[-1]["runs"])}
    write_text_atomically(HERE / "results" / "ingest.json", json.dumps(record, indent=1) + "\n")
    print(as_markdown(record))
    return 0 if record["peak_growth"] <= 1.1 else 1


def peak_growth(first: dict[str, Any], last: dict[str, Any]) -> float:
    """Peak RSS of the last size over that of the first, of the kind of run in which it grew most."""
    return max(float(last[name]["peak_rss_mb"] / first[name]["peak_rss_mb"]) for name in first)


def measure(database: Database, home: Path, n_tracks: int) -> dict[str, Any]:
    """Fill `database` with `n_tracks` and run the command three times on it."""
    home.mkdir()
    create_schema(database, "B")
    fill(database, n_tracks)
    config = home / "config.yaml"
    config.write_text(
        dump_yaml(
            {
                "database": database.section(),
                "store": {"path": str(home / "store.zarr")},
                "ingest": {"cache_dir": str(home / "audio")},
                "teacher": {"name": "bench"},
            }
        ),
        encoding="utf-8",
    )
    changed, gone = int(n_tracks * CHANGED), int(n_tracks * GONE)
    runs = {
        "first": run(config, f"ingest: {n_tracks} tracks ({n_tracks} new, 0 updated, 0 gone)"),
        "nothing changed": run(config, f"ingest: {n_tracks} tracks (0 new, 0 updated, 0 gone)"),
    }
    change(database, n_tracks, changed, gone)
    runs["1 % changed, 1 % gone"] = run(
        config,
        f"ingest: {n_tracks - gone} tracks (0 new, {changed} updated, {changed} with another vector, {gone} gone)",
    )
    store = FeatureStore.open(home / "store.zarr")
    if store.n_tracks != n_tracks or int(np.count_nonzero(store.states() == State.GONE)) != gone:
        raise RuntimeError("the store does not hold what the database had")
    size = sum(p.stat().st_size for p in (home / "store.zarr").rglob("*") if p.is_file())
    return {"rows": n_tracks, "store_mb": size / 1e6, "runs": runs}


def run(config: Path, expected: str) -> dict[str, float]:
    """Run the command once; its closing line must begin as `expected`."""
    program = Path(sys.executable).with_name("student-clap")
    command = [program, "ingest", "--config", config, "--vectors-only"]
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *command], check=True, capture_output=True, text=True)
    record: dict[str, Any] = json.loads(done.stdout)
    output = record.pop("output")
    if record.pop("status") or expected not in output:
        raise RuntimeError(f"expected {expected!r}, got:\n{output}")
    return record


# --- the database


def item_id(row: int) -> str:
    """A content id as AudioMuse-AI v3 makes them."""
    return "fp_4" + hashlib.sha256(f"item {row}".encode()).hexdigest()[:50]


def track_id(row: int) -> str:
    """An id as Jellyfin makes them."""
    return hashlib.md5(f"track {row}".encode(), usedforsecurity=False).hexdigest()


def unit_vectors(seed: int, n_rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """[row, 512] random unit vectors."""
    vectors = np.random.default_rng(seed).standard_normal((n_rows, 512), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def fill(database: Database, n_tracks: int) -> None:
    """Put `n_tracks` into the four tables, by COPY."""
    artists = max(1, n_tracks // 12)
    with closing(database.connect()) as connection, connection.cursor() as cursor:

        def copy(table: str, columns: str, row_of: Callable[[int], Iterable[str | bytes]]) -> None:
            rows = (row_of(row) for row in range(n_tracks))
            cursor.copy_expert(f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)", BinaryCopy(rows))

        vectors = BlockOfVectors()
        copy(
            "score",
            "item_id, title, author, album",
            lambda r: (item_id(r), f"Song number {r}", f"Artist {r % artists}", f"Album {r // 12}"),
        )
        copy("clap_embedding", "item_id, embedding", lambda r: (item_id(r), vectors[r]))
        copy(
            "track_server_map",
            "item_id, server_id, provider_track_id, match_tier, file_path",
            lambda r: (item_id(r), MAIN_SERVER.server_id, track_id(r), "fingerprint", f"/music/{r // 12}/{r}.flac"),
        )
        cursor.execute("ANALYZE")


def change(database: Database, n_tracks: int, changed: int, gone: int) -> None:
    """Give the first `changed` tracks other vectors, and delete the last `gone`."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        for row, vector in enumerate(unit_vectors(1_000_003, changed)):
            cursor.execute(
                "UPDATE clap_embedding SET embedding = %s WHERE item_id = %s", (vector.tobytes(), item_id(row))
            )
        last = [item_id(row) for row in range(n_tracks - gone, n_tracks)]
        cursor.execute("DELETE FROM score WHERE item_id = ANY(%s)", (last,))


class BlockOfVectors:
    """The vector of any row, made a block at a time."""

    def __init__(self) -> None:
        self._seed = -1
        self._vectors = unit_vectors(0, 0)

    def __getitem__(self, row: int) -> bytes:
        if self._seed != row // BLOCK_ROWS:
            self._seed = row // BLOCK_ROWS
            self._vectors = unit_vectors(self._seed, BLOCK_ROWS)
        return self._vectors[row % BLOCK_ROWS].tobytes()


class BinaryCopy:
    """Rows as a file in PostgreSQL's binary COPY format."""

    def __init__(self, rows: Iterable[Iterable[str | bytes]]) -> None:
        self._pieces = self._encoded(rows)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end."""
        pieces, length = [self._rest], len(self._rest)
        while length < size and (piece := next(self._pieces, None)) is not None:
            pieces.append(piece)
            length += len(piece)
        data = b"".join(pieces)
        self._rest = data[size:]
        return data[:size]

    @staticmethod
    def _encoded(rows: Iterable[Iterable[str | bytes]]) -> Iterator[bytes]:
        yield b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
        for row in rows:
            values = [value.encode() if isinstance(value, str) else value for value in row]
            yield struct.pack("!h", len(values)) + b"".join(struct.pack("!i", len(v)) + v for v in values)
        yield struct.pack("!h", -1)


def as_markdown(record: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    lines = [
        "| tracks | run | peak RSS, MB | wall, s | CPU, s | tracks per s |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    for size in record["sizes"]:
        for name, run in size["runs"].items():
            lines.append(
                f"| {size['rows']} | {name} | {run['peak_rss_mb']:.0f} | {run['wall_s']:.1f} | {run['cpu_s']:.1f}"
                f" | {size['rows'] / run['wall_s']:.0f} |"
            )
    last = record["sizes"][-1]
    sizes = f"at {last['rows']} tracks / at {record['sizes'][0]['rows']}"
    growth = f"Peak RSS {sizes}, of the run that grew most: {record['peak_growth']:.3f}."
    lines += ["", f"{growth} The larger store has {last['store_mb']:.0f} MB."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
