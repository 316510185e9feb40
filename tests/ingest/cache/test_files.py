"""What the audio cache keeps of earlier runs."""

from __future__ import annotations

import json
from pathlib import Path

from student_clap.config.runtime.files import PARTIAL
from student_clap.ingest.cache.files import AudioCache


def test_the_cache_keeps_what_a_run_may_continue(tmp_path: Path) -> None:
    note = json.dumps({"asked": "x", "validator": '"v"', "n_bytes": 9})
    with AudioCache(tmp_path, "main") as cache:
        stems = {name: cache.stem(name) for name in ("wanted", "gone", "no note", "no data")}
    for name, stem in stems.items():
        stem.parent.mkdir(parents=True, exist_ok=True)
        if name != "no data":
            stem.with_name(stem.name + ".part").write_bytes(b"half")
        if name != "no note":
            stem.with_name(stem.name + ".part.json").write_text(note)
    folder = stems["wanted"].parent
    killed = f".{stems['wanted'].name}.part.json.0123{PARTIAL}"  # of a note whose writer was killed
    for name in ("song.flac.x1.part", ".x.flac.abc.part", f".{stems['wanted'].name}.part.json.q.part", killed):
        (folder / name).write_bytes(b"half")
    (folder / "not-ours.txt").write_bytes(b"kept")
    with AudioCache(tmp_path, "main") as cache:
        assert cache.find("wanted") is None
        cache.sweep(stem for name, stem in stems.items() if name != "gone")
    left = {p.name for p in tmp_path.rglob("*") if p.is_file()} - {"ingest.lock"}
    wanted = stems["wanted"].name
    assert left == {f"{wanted}.part", f"{wanted}.part.json", "not-ours.txt"}
