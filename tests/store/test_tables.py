"""store export: what other programs read is what the store holds."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.store import State, tables
from student_clap.store.layout.segments import segment_starts

SECONDS = 48_000


@pytest.fixture
def filled(store, recipe, make_codes, make_track):
    features = store.features(recipe)
    features.write_strip(1, make_codes(21 * SECONDS), 21 * SECONDS)
    store.append_tracks(
        [make_track(9, server_id="second", track_id="t1", teacher=None, state=State.FAILED, error="bad\nfile")]
    )
    features = store.features(recipe)
    features.commit([1, 4], [21 * SECONDS, -1], ["", 'no "audio", none'])
    store.write_segment_teacher([1], [np.ones((3, 512), np.float16)])
    store.close()
    return store


def run(store, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["store", "export", *map(str, arguments), "--set", f"store.path={store.path}"])


def test_rows_as_parquet(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH_ROWS", 4)
    done = run(filled, "--out", tmp_path / "rows.parquet")
    assert done.exit_code == 0, done.output
    assert "rows.parquet, 6 rows" in done.output
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table["title"].to_pylist() == filled.strings("title")
    assert table["state"].to_pylist() == ["fetched"] * 5 + ["failed"]
    assert table["row"].to_pylist() == list(range(6))
    vectors = table["teacher"].to_pylist()
    assert vectors[5] is None
    assert np.array_equal(np.array(vectors[:5], np.float32), filled.teacher()[:5])
    assert table["n_samples_audiomuse"].to_pylist() == [0, 21 * SECONDS, 0, 0, -1, 0]
    assert table["error_audiomuse"].to_pylist()[4] == 'no "audio", none'
    assert table["n_segment_teacher"].to_pylist() == [0, 3, 0, 0, 0, 0]
    assert table.schema.metadata[b"store_uuid"].decode() == filled.uuid


def test_a_tracks_segments_as_npz(filled, recipe, tmp_path):
    done = run(filled, "--track", "t1", "--out", tmp_path / "t.npz")
    assert done.exit_code == 1
    assert "is there on several servers (default, second); say which with --server" in done.output
    done = run(filled, "--track", "t1", "--server", "default", "--out", tmp_path / "t.npz")
    assert done.exit_code == 0, done.output
    assert "4 segments of 128 mels x 1001 frames" in done.output
    with np.load(tmp_path / "t.npz") as track:
        assert np.array_equal(track["segments"], filled.features(recipe).segments(1))
        assert track["segments"].dtype == np.float32
        assert track["starts"].tolist() == segment_starts(21 * SECONDS, recipe).tolist()
        assert np.array_equal(track["teacher"], filled.teacher()[1])
        assert track["segment_teacher"].shape == (3, 512)
        assert (str(track["track_id"]), str(track["title"])) == ("t1", "Täst 1")
        assert json.loads(str(track["recipe"])) == recipe.as_attributes()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_failures_as_a_table(filled, tmp_path, ending):
    out = tmp_path / f"failures.{ending}"
    done = run(filled, "--failures", out)
    assert done.exit_code == 0, done.output
    assert "2 failures" in done.output
    if ending == "csv":
        with out.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    else:
        lines = pq.read_table(out).to_pylist()
    assert [(str(f["row"]), f["stage"], f["error"], f["state"]) for f in lines] == [
        ("4", "featurize audiomuse", 'no "audio", none', "fetched"), ("5", "ingest", "bad\nfile", "failed"),
    ]  # fmt: skip


def test_no_failures_is_an_empty_table(store, tmp_path):
    assert tables.write_failures(store, tmp_path / "f.parquet") == 0
    assert pq.read_table(tmp_path / "f.parquet").num_rows == 0
    assert tables.write_failures(store, tmp_path / "f.csv") == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "nothing to write"),
        (("--track", "t1"), 2, "--track needs --out"),
        (("--out", "x.txt"), 1, "x.txt has to end in .parquet"),
        (("--track", "t1", "--server", "default", "--out", "x.parquet"), 1, "x.parquet has to end in .npz"),
        (("--failures", "x.tsv"), 1, "x.tsv has to end in .csv or .parquet"),
        (("--track", "nobody", "--out", "x.npz"), 1, "has no track 'nobody'"),
        (("--track", "t1", "--server", "third", "--out", "x.npz"), 1, "has no track 't1' of server 'third'"),
        (("--track", "t2", "--out", "x.npz"), 1, "row 2 has no audiomuse features"),
        (("--out", "/proc/nothing/x.parquet"), 1, "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_said(filled, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    done = run(filled, *arguments)
    assert done.exit_code == status, done.output
    assert message in done.output
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".x", "x"))]
