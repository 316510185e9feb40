"""Damage anywhere in the store is found or harmless: never is wrong data given without a word."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import numpy as np
import pytest

from student_clap.store import FeatureStore
from student_clap.store.arrays.metadata import CHECKSUM, read_document, set_attributes
from student_clap.store.arrays.tracks import STRING_COLUMNS
from student_clap.store.repair import repair_path
from student_clap.store.verify import verify_path

pytestmark = pytest.mark.slow

SECONDS = 48_000
N_FLIPS = 200


@pytest.fixture
def filled(store, recipe, make_codes) -> Path:
    """Rows 0 to 2 made, row 3 failed, segment vectors for rows 0 and 1; closed."""
    features = store.features(recipe)
    for row in range(3):
        features.write_strip(row, make_codes((11 + row) * SECONDS, row), (11 + row) * SECONDS)
    features.commit([0, 1, 2, 3], [*((11 + row) * SECONDS for row in range(3)), -1], ["", "", "", "no audio"])
    vectors = np.random.default_rng(0).standard_normal((2, 3, 512)).astype(np.float16)
    store.write_segment_teacher([0, 1], list(vectors))
    store.close()
    return store.path


def everything(path: Path, recipe) -> list[object]:
    """All that the store tells."""
    store = FeatureStore.open(path)
    features = store.features(recipe)
    told: list[object] = [store.uuid, store.teacher_name, store.n_tracks, store.recipes(), features.errors()]
    told += [store.strings(name) for name in STRING_COLUMNS]
    told += [store.states().tolist(), store.teacher().tobytes(), store.stored_fingerprint(recipe.name)]
    told += [store.n_segment_teacher().tolist(), *(store.segment_teacher(row).tobytes() for row in range(2))]
    told += [features.n_samples().tolist(), features.decoders().tolist()]
    told += [features.strip(row, n).tobytes() for row, n in enumerate(features.n_samples().tolist()) if n > 0]
    return told


def files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file())


def test_200_flipped_bits_are_found_or_harmless(filled, recipe):
    before = everything(filled, recipe)
    everywhere = files(filled)
    shards = [p for p in everywhere if "/mel/c/" in str(p)]
    rest = [p for p in everywhere if p not in shards]
    random = np.random.default_rng(2026)
    features = FeatureStore.open(filled).features(recipe)
    strips = [features.strip(row) for row in range(3)]
    found = harmless = 0
    for flip in range(N_FLIPS):
        victims = shards if flip % 3 == 0 else rest
        victim = victims[int(random.integers(len(victims)))]
        whole = victim.read_bytes()
        bit = int(random.integers(8 * len(whole)))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        victim.write_bytes(damaged)
        where = f"bit {bit} of {victim}"
        try:
            if victim in shards:
                row = int(victim.parts[-3])
                assert np.array_equal(features.strip(row, (11 + row) * SECONDS), strips[row]), where
            else:
                assert everything(filled, recipe) == before, where
            harmless += 1
        except click.ClickException:
            found += 1
            if flip % 5 == 0 or victim not in shards:
                assert verify_path(filled, deep=True)[0], where
        victim.write_bytes(whole)
    assert found + harmless == N_FLIPS
    assert harmless < 10  # white space of a zarr.json, the name of a checksum
    assert verify_path(filled, deep=True) == ([], 5)


def test_every_lost_file_is_found(filled, recipe):
    before = everything(filled, recipe)
    for victim in files(filled):
        whole = victim.read_bytes()
        for content in (None, whole[: len(whole) // 2]):
            victim.unlink()
            if content is not None:
                victim.write_bytes(content)
            faults, _ = verify_path(filled, deep=True)
            assert faults, f"{victim}: {content is None}"
            try:
                same = everything(filled, recipe) == before
            except click.ClickException:
                same = True
            assert same, victim
            victim.unlink(missing_ok=True)
            victim.write_bytes(whole)


@pytest.mark.parametrize(
    ("victim", "what"),
    [
        ("title/c/0", "1 damaged chunk of columns"),
        ("teacher/c/0/0", "1 damaged chunk of columns"),
        ("state/c/0", "1 damaged chunk of columns"),
        ("features/audiomuse/n_samples/c/0", "1 damaged chunk of columns"),
        ("n_segment_teacher/c/0", "1 damaged chunk of columns"),
        ("title/zarr.json", "1 zarr.json written again"),
        ("features/zarr.json", "1 fault left"),
        ("segment_teacher/zarr.json", "1 zarr.json written again"),
        ("features/audiomuse/mel/zarr.json", "1 zarr.json written again"),
        ("segment_teacher/c/1/0/0", "segment vectors of 1 track removed"),
        ("features/audiomuse/mel/c/1/0/0", "1 track set back"),
        ("track_id/c/0", "1 fault left"),
    ],
)
@pytest.mark.parametrize("lost", [False, True])
def test_repair_repairs_what_the_stages_can_make_again(filled, recipe, victim, what, lost):
    from click.testing import CliRunner

    from student_clap.config.cli import main

    path = filled / victim
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 16
    if lost:
        path.unlink()
    else:
        path.write_bytes(whole)
    done = CliRunner().invoke(main, ["store", "repair", "--deep", "--set", f"store.path={filled}"])
    assert done.exit_code == 0, done.output
    assert what in done.output
    faults = verify_path(filled, deep=True)[0]
    if "left" in what:
        assert faults
        return
    # What only a stage can make again is all that is left to say.
    assert {f.kind for f in faults} <= {"no vector"}
    opened = FeatureStore.open(filled)
    assert opened.strings("track_id") == [f"t{n}" for n in range(5)]
    if victim == "segment_teacher/c/1/0/0":
        assert opened.n_segment_teacher().tolist() == [3, 0, 0, 0, 0]
    if victim == "state/c/0":
        assert opened.states().tolist() == [1] * 5


@pytest.fixture
def first_codec(filled, recipe, make_codes, make_older_features) -> Path:
    """The store with strips as the first ones were made, by Blosc."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    with FeatureStore.open(filled, "r+") as opened:
        lengths = opened.features(recipe).n_samples()[:3].tolist()
        shutil.rmtree(filled / "features")
        make_older_features(opened, recipe).commit([0, 1, 2], lengths, [""] * 3)
    group = zarr.open_group(str(filled), mode="r+")["features/audiomuse"]
    group.create_array(
        "mel", shape=(5, 128, 65536), chunks=(1, 128, 4096), shards=(1, 128, 65536), dtype="uint8", fill_value=0,
        compressors=[BloscCodec(typesize=1, cname="zstd", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        overwrite=True,
    )  # fmt: skip
    codes = np.zeros((3, 128, 65536), np.uint8)
    for row in range(3):
        strip = make_codes((11 + row) * SECONDS, row)
        codes[row, :, : strip.shape[1]] = strip
    group["mel"][:3] = codes
    return filled


def test_metadata_of_the_first_codec_are_made_again_with_it(first_codec, recipe, make_codes):
    (first_codec / "features/audiomuse/mel/zarr.json").write_bytes(b"{")
    repair_path(first_codec, deep=True)
    assert verify_path(first_codec, deep=True) == ([], 5)
    assert np.array_equal(FeatureStore.open(first_codec).features(recipe).strip(2), make_codes(13 * SECONDS, 2))


@pytest.mark.parametrize("store_of", ["filled", "first_codec"])
@pytest.mark.parametrize("left", ["nothing", "half", "another's bytes"])
@pytest.mark.parametrize("rows", [[0], [0, 1], [2]])
def test_a_damaged_shard_costs_its_own_track_alone_where_the_metadata_are_damaged_too(
    request, recipe, make_codes, store_of, left, rows
):
    path = request.getfixturevalue(store_of)
    for row in rows:
        shard = path / f"features/audiomuse/mel/c/{row}/0/0"
        whole = shard.read_bytes()
        shard.write_bytes({"nothing": b"", "half": whole[: len(whole) // 2]}.get(left, bytes(len(whole))))
    (path / "features/audiomuse/mel/zarr.json").write_bytes(b"{")
    repaired = repair_path(path, deep=True)
    assert (repaired.metadata, repaired.tracks, repaired.left) == (1, len(rows), ())
    features = FeatureStore.open(path).features(recipe)
    assert np.flatnonzero(features.made()).tolist() == [row for row in range(3) if row not in rows]
    for row in set(range(3)) - set(rows):
        assert np.array_equal(features.strip(row), make_codes((11 + row) * SECONDS, row))


def test_where_no_shard_can_be_read_the_metadata_are_a_new_store_s(filled, recipe, make_codes):
    path = filled / "features/audiomuse/mel/zarr.json"
    before = path.read_bytes()
    for row in range(3):
        (filled / f"features/audiomuse/mel/c/{row}/0/0").write_bytes(b"")
    path.write_bytes(b"{")
    assert repair_path(filled, deep=True).tracks == 3
    assert path.read_bytes() == before
    with FeatureStore.open(filled, "r+") as store:
        features = store.features(recipe)
        features.write_strip(0, make_codes(11 * SECONDS), 11 * SECONDS)
        features.commit([0], [11 * SECONDS], [""])
        assert np.array_equal(features.strip(0), make_codes(11 * SECONDS))


def test_a_shard_that_the_system_does_not_give_is_no_sign_of_its_codecs(filled, recipe, make_codes):
    path = filled / "features/audiomuse/mel"
    before = (path / "zarr.json").read_bytes()
    shards = [path / f"c/{row}/0/0" for row in range(3)]
    for shard in shards[:2]:
        shard.rename(shard.with_name("whole"))
        shard.mkdir()  # a folder in its place
    (path / "zarr.json").write_bytes(b"{")
    aside = shards[2].read_bytes()
    shards[2].write_bytes(b"")
    with pytest.raises(click.ClickException, match="/c/0/0/0"):
        repair_path(filled, deep=True)
    assert (path / "zarr.json").read_bytes() == b"{"
    shards[2].write_bytes(aside)
    repair_path(filled, deep=True)
    assert (path / "zarr.json").read_bytes() == before


@pytest.mark.parametrize("older", [False, True])
def test_metadata_of_strips_are_made_again_with_their_chunks(filled, recipe, make_codes, make_older_features, older):
    if older:
        with FeatureStore.open(filled, "r+") as opened:
            shutil.rmtree(filled / "features")
            features = make_older_features(opened, recipe)
            features.write_strip(0, make_codes(11 * SECONDS), 11 * SECONDS)
            features.commit([0], [11 * SECONDS], [""])
    path = filled / "features/audiomuse/mel/zarr.json"
    before = path.read_bytes()
    path.write_bytes(b"{")
    repair_path(filled, deep=False)
    assert path.read_bytes() == before
    assert np.array_equal(FeatureStore.open(filled).features(recipe).strip(0), make_codes(11 * SECONDS))


def test_a_store_without_checksums_stays_readable(filled, recipe):
    import json

    before = everything(filled, recipe)
    for path in filled.rglob("zarr.json"):
        document = json.loads(path.read_text())
        del document["attributes"][CHECKSUM]
        document["attributes"].pop("tracks", None)
        path.write_text(json.dumps(document))
    assert everything(filled, recipe) == before
    with FeatureStore.open(filled, "r+") as opened:
        assert opened.features(recipe).made().sum() == 3
    set_attributes(filled, {"teacher_name": "test-teacher"})
    assert read_document(filled)
    assert everything(filled, recipe) == before


def test_a_checksum_that_was_taken_away_is_noticed(filled):
    import json

    path = filled / "features" / "audiomuse" / "mel" / "zarr.json"
    document = json.loads(path.read_text())
    del document["attributes"][CHECKSUM]
    document["attributes"]["scale_factor"] = 1.0
    path.write_text(json.dumps(document))
    with pytest.raises(click.ClickException, match="its checksum zarr_json_crc32c is gone"):
        FeatureStore.open(filled)
