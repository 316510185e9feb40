"""Features that an older rule of decoding made can be told from others, and be made again, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from student_clap.config.cli import main
from student_clap.config.schema import AudioConfig
from student_clap.featurize.plan import Selection, plan
from student_clap.store import FeatureStore, Recipe, State, Track
from student_clap.store.arrays.feature_arrays import DECODER
from student_clap.store.layout.strip import strip_frames
from student_clap.store.verify import verify_path

RECIPE = Recipe.from_config(AudioConfig())
N_SAMPLES = 11 * 48_000
VECTOR = np.full(512, 512**-0.5, np.float32)


def make(store: FeatureStore, rows: list[int]) -> None:
    features = store.features(RECIPE)
    for row in rows:
        features.write_strip(row, np.full((128, strip_frames(N_SAMPLES, RECIPE)), 7, np.uint8), N_SAMPLES)
    features.commit(rows, [N_SAMPLES] * len(rows), [""] * len(rows))


@pytest.fixture
def old_store(tmp_path: Path) -> Path:
    """Rows 0 and 1 of four are made, in a store that knows no versions of the decoder."""
    path = tmp_path / "features.zarr"
    with FeatureStore.create(path, "test") as store:
        tracks = [Track("d", f"t{n}", audio=f"{n}.wav", state=State.FETCHED, teacher=VECTOR) for n in range(4)]
        store.append_tracks(tracks)
        make(store, [0, 1])
    for n in range(4):
        (tmp_path / f"{n}.wav").write_bytes(b"audio")
    shutil.rmtree(path / "features" / "audiomuse" / "decoder")
    return path


def verified(path: Path) -> str:
    done = CliRunner().invoke(main, ["store", "verify", "--deep", "--set", f"store.path={path}"])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_store_without_versions_is_whole_and_gets_a_remark(old_store):
    before = {p: p.read_bytes() for p in old_store.rglob("*") if p.is_file()}
    with FeatureStore.open(old_store) as store:
        features = store.features(RECIPE)
        assert features.decoders().tolist() == [0, 0, 0, 0]
        assert features.made().tolist() == [True, True, False, False]
        assert features.strip(0).shape[0] == 128
    told = verified(old_store)
    assert "audiomuse: 2 tracks were decoded by an older rule" in told
    assert "`student-clap featurize --again-old-decoder`" in told
    assert "no faults in 4 tracks" in told
    assert {p: p.read_bytes() for p in old_store.rglob("*") if p.is_file()} == before


def test_only_what_an_older_rule_made_is_made_again(old_store, tmp_path):
    with FeatureStore.open(old_store, "r+") as store:
        make(store, [2])
        features = store.features(RECIPE)
        assert features.decoders().tolist() == [0, 0, DECODER, 0]
        found = plan(store, features, tmp_path, Selection(again_old_decoder=True))
        assert [job.row for job in found.jobs] == [0, 1, 3]  # 3 was never made
        assert found.made == 1
        make(store, [0, 1])
        found = plan(store, features, tmp_path, Selection(again_old_decoder=True))
        assert [job.row for job in found.jobs] == [3]
    assert "older rule" not in verified(old_store)


def test_the_versions_grow_with_the_store_and_their_loss_is_found(old_store):
    with FeatureStore.open(old_store, "r+") as store:
        make(store, [2])
        store.append_tracks([Track("d", "t4", state=State.FETCHED, teacher=VECTOR)])
        assert store.features(RECIPE).decoders().tolist() == [0, 0, DECODER, 0, 0]
    (old_store / "features" / "audiomuse" / "decoder" / "c" / "0").unlink()
    findings, _ = verify_path(old_store, deep=False)
    assert [(f.kind, f.recipe) for f in findings] == [("damaged column", "audiomuse")]
    done = CliRunner().invoke(main, ["store", "repair", "--set", f"store.path={old_store}"])
    assert done.exit_code == 0, done.output
    assert verify_path(old_store, deep=True)[0] == []


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")
def test_the_fingerprint_and_xarray_know_nothing_of_it(old_store):
    xarray = pytest.importorskip("xarray")
    with FeatureStore.open(old_store, "r+") as store:
        make(store, [2])
        assert store.stored_fingerprint("audiomuse") == RECIPE.fingerprint
    with xarray.open_datatree(old_store, engine="zarr", consolidated=False) as tree:
        group = tree["features/audiomuse"]
        assert group["decoder"].values.tolist() == [0, 0, DECODER, 0]
        assert group["decoder"].dims == ("track",)
