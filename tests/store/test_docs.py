"""What docs/store.md shows works as it is shown."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from student_clap.store import FeatureStore, frame_index
from student_clap.store.layout.frame_order import BLOCKS, places
from student_clap.store.layout.strip import strip_layout

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 48_000
TRACK = "e733d17f20fd4cb32f9c32572956af1d"
pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")


@pytest.fixture
def data(tmp_path, recipe, make_track, make_codes, monkeypatch) -> Path:
    """data/features.zarr of twelve tracks, in a directory that is made the current one."""
    monkeypatch.chdir(tmp_path)
    with FeatureStore.create(Path("data/features.zarr"), "test-teacher") as store:
        tracks = [make_track(n, artist=f"a{n}") for n in range(12)]
        tracks[3] = make_track(3, track_id=TRACK)
        store.append_tracks(tracks)
        features = store.features(recipe)
        for row in range(12):
            features.write_strip(row, make_codes(12 * SECONDS, row), 12 * SECONDS)
        features.commit(list(range(12)), [12 * SECONDS] * 12, [""] * 12)
        taught = store.add_segment_set("dclap", hop_samples=240_000, model="")
        taught.write([3], [np.full((2, 512), 512**-0.5, np.float16)])
    return tmp_path


def test_every_block_of_code_runs(data, recipe):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "store.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, object] = {}
    shown = []
    for block in blocks:
        *statements, last = block.strip().splitlines()
        exec("\n".join(statements), names)  # noqa: S102  the documentation's own code
        shown.append(np.asarray(eval(last.partition("  #")[0], names)))  # noqa: S307
    features = FeatureStore.open("data/features.zarr").features(recipe)
    codes = features.strip(3)
    vector, decibels, by_zarr = shown
    assert names["row"] == 3
    assert vector.shape == (1, 512)
    assert np.array_equal(by_zarr, codes[:, frame_index(12 * SECONDS, recipe)[0]])
    layout = strip_layout(12 * SECONDS, recipe)
    known = decibels[:, places(layout, recipe, BLOCKS, np.arange(layout.n_frames))]
    assert np.abs(known - (codes * 0.5625 - 100.5625)).max() < 1e-4
    assert np.isnan(decibels[:, codes.shape[1] :]).all()


def test_the_example_runs(data, monkeypatch, capsys):
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import read_store

        monkeypatch.setattr(sys, "argv", ["read_store.py", "data/features.zarr"])
        read_store.main()
    finally:
        sys.path.remove(str(ROOT / "docs"))
    printed = capsys.readouterr().out
    assert "12 tracks, 12 with features and a vector, teacher test-teacher" in printed
    assert re.search(r"linear probe -?\d\.\d{3}, mean vector -?\d\.\d{3}", printed)


def test_the_example_draws_a_segment(data, recipe, monkeypatch, capsys):
    drawn = {}

    class Figure:
        """Takes what matplotlib's would, which the tests do without."""

        def __init__(self, **_: object) -> None: ...

        def add_subplot(self, **labels: str):
            drawn.update(labels)
            return self

        def imshow(self, mel: np.ndarray, **settings: object) -> None:
            drawn.update(settings, mel=mel)

        def colorbar(self, *_: object, **__: object) -> None: ...

        def savefig(self, out: Path, **_: object) -> None:
            drawn["out"] = out

    figures = types.ModuleType("matplotlib.figure")
    figures.Figure = Figure
    monkeypatch.setitem(sys.modules, "matplotlib", types.ModuleType("matplotlib"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", figures)
    monkeypatch.syspath_prepend(ROOT / "docs")
    import read_store

    monkeypatch.setattr(sys, "argv", ["read_store.py", "data/features.zarr", "--plot", "x.png"])
    read_store.main()
    features = FeatureStore.open("data/features.zarr").features(recipe)
    assert np.array_equal(drawn["mel"], features.segments(0)[0])
    assert (drawn["title"], drawn["out"]) == ("Täst 0", Path("x.png"))
    assert drawn["extent"] == pytest.approx((0, 10.01, 0, 128))
    assert "drawn to x.png" in capsys.readouterr().out


def test_the_example_says_what_the_plot_needs(data, monkeypatch):
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import read_store

        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        monkeypatch.setattr(sys, "argv", ["read_store.py", "data/features.zarr", "--plot", "x.png"])
        with pytest.raises(SystemExit, match="--plot needs matplotlib"):
            read_store.main()
    finally:
        sys.path.remove(str(ROOT / "docs"))
