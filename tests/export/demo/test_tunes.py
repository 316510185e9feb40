"""The tunes: what is promised of the set, of a tune's samples and of its file."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from student_clap.export.demo import tunes, voices
from student_clap.export.demo.styles import STYLES
from student_clap.export.demo.tunes import TUNES, Tune, encode, render, write_tunes
from student_clap.featurize.audio.decode import decode

pytestmark = pytest.mark.slow  # a second and more each

_ONE_PER_STYLE = [next(t for t in TUNES if t.style == style) for style in STYLES]
_ONE_PER_FORMAT = list({(t.container, t.subtype): t for t in reversed(TUNES)}.values())


def test_eight_artists_with_three_tunes_in_three_styles() -> None:
    assert len(TUNES) == 24
    styles: dict[str, set[str]] = {}
    for tune in TUNES:
        styles.setdefault(tune.artist.name, set()).add(tune.style)
    assert len(styles) == 8
    assert all(len(own) == 3 for own in styles.values())
    assert Counter(t.style for t in TUNES) == dict.fromkeys(STYLES, 4)


def test_holding_out_every_fourth_artist_leaves_every_style_in_training() -> None:
    artists = sorted({t.artist.name for t in TUNES})
    for fold in range(4):
        training = Counter(t.style for t in TUNES if t.artist.name not in artists[fold::4])
        assert min(training[style] for style in STYLES) >= 2


def test_lengths_rates_channels_and_formats_vary() -> None:
    durations = sorted(t.duration_s for t in TUNES)
    assert durations[0] < 10
    assert all(15 <= d <= 30 for d in durations[1:-1])
    assert durations[-1] > 60
    assert {t.rate for t in TUNES} == {22050, 32000, 44100, 48000}
    assert {t.channels for t in TUNES} == {1, 2}
    assert {t.subtype for t in TUNES} == {"PCM_16", "PCM_24", "VORBIS", "MPEG_LAYER_III", "OPUS", "AAC"}
    assert {t.container for t in TUNES} == {"wav", "flac", "ogg", "mp3", "opus", "m4a"}


def test_ids_are_unique_and_look_like_jellyfins() -> None:
    assert len({t.track_id for t in TUNES}) == len(TUNES)
    assert all(re.fullmatch(r"[0-9a-f]{32}", t.track_id) for t in TUNES)


@pytest.mark.parametrize("tune", _ONE_PER_STYLE, ids=lambda t: t.style)
def test_samples_follow_from_the_seed(tune: Tune) -> None:
    short = replace(tune, duration_s=4.0)
    first, again, other = render(short), render(short), render(short, seed=1)
    assert first.shape == (tune.channels, 4 * tune.rate)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05
    assert np.isfinite(first).all()
    assert 0.29 < np.abs(first).max() < 0.91
    # No second of it is silent, but for the fade-out.
    loudness = np.sqrt((first[:, : 3 * tune.rate].reshape(tune.channels, 3, -1) ** 2).mean(axis=(0, 2)))
    assert loudness.min() > 0.001


@pytest.mark.parametrize("tune", _ONE_PER_FORMAT, ids=lambda t: f"{t.container}-{t.subtype}")
def test_the_file_holds_what_was_rendered(tune: Tune, tmp_path: Path) -> None:
    tune = replace(tune, duration_s=3.0)
    samples = render(tune)
    path = tmp_path / tune.file_name
    path.write_bytes(encode(tune, samples))
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.sample_rate, stream.codec_context.channels) == (tune.rate, tune.channels)
        tags = {k.lower(): v for k, v in {**stream.metadata, **container.metadata}.items()}
    assert (tags["title"], tags["artist"], tags["album"]) == (tune.title, tune.artist.name, tune.artist.album)
    heard = decode(path, 600 * 48_000)
    expected = decode_samples(samples, tune, tmp_path)
    n = min(len(heard), len(expected))
    assert abs(len(heard) - len(expected)) < 3000  # an encoder may pad its last frames
    # A codec may delay: compare at the best lag, by the cross-correlation.
    size = 1 << (2 * n).bit_length()
    spectrum = np.fft.rfft(heard[:n], size) * np.conj(np.fft.rfft(expected[:n], size))
    best = np.fft.irfft(spectrum, size).max()
    assert best / (np.linalg.norm(heard[:n]) * np.linalg.norm(expected[:n])) > 0.95


def decode_samples(samples: voices.Sound, tune: Tune, folder: Path) -> voices.Sound:
    """`samples` by way of a float WAV, as the decoder hears them."""
    soundfile.write(folder / "expected.wav", samples.T, tune.rate, subtype="FLOAT")
    return decode(folder / "expected.wav", 600 * 48_000)


def test_one_format_needs_the_second_decoder(tmp_path: Path) -> None:
    tune = replace(next(t for t in TUNES if t.subtype == "AAC"), duration_s=1.0)
    path = tmp_path / tune.file_name
    path.write_bytes(encode(tune, render(tune)))
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    assert len(decode(path, 48_000)) > 40_000


def test_files_that_are_there_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(replace(t, duration_s=1.0) for t in TUNES[:2])
    monkeypatch.setattr(tunes, "TUNES", few)
    (tmp_path / few[0].file_name).write_bytes(b"kept")
    paths = write_tunes(tmp_path)
    assert list(paths) == [t.track_id for t in few]
    assert paths[few[0].track_id].read_bytes() == b"kept"
    assert soundfile.info(paths[few[1].track_id]).duration == pytest.approx(1.0, abs=0.01)
    assert {p.name for p in tmp_path.iterdir()} == {t.file_name for t in few}


@pytest.mark.parametrize("shape", ["saw", "square", "pulse", "reed", "string", "organ"])
def test_no_voice_folds_back(shape: str) -> None:
    # freq_hz divides the rate: whatever lies off its harmonics is aliasing or interpolation error
    rate, freq_hz = 24_000, 1250.0
    spectrum = np.abs(np.fft.rfft(voices.tone(shape, freq_hz, rate, rate))) ** 2
    harmonic = np.zeros(len(spectrum), bool)
    harmonic[int(freq_hz) :: int(freq_hz)] = True
    assert spectrum[~harmonic].sum() < 1e-5 * spectrum.sum()
    assert spectrum[int(0.45 * rate) + 1 :].sum() < 1e-5 * spectrum.sum()
