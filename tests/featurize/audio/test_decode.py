"""Decoding equals production's: librosa.load, librosa.resample, int16."""

from __future__ import annotations

import av
import librosa
import numpy as np
import pytest

from student_clap.featurize.audio.decode import DecodeError, Resampler, decode, through_int16

CAP = 28_800_000
# librosa's fallback reader imports modules that Python 3.13 dropped.
pytestmark = pytest.mark.filterwarnings("ignore:.*slated for removal in Python 3.13:DeprecationWarning")


def production(path, duration_s: float = 600.0) -> np.ndarray:
    """AudioMuse-AI's front end, by librosa."""
    samples, rate = librosa.load(path, sr=None, mono=True, duration=duration_s)
    if rate != 48_000:
        samples = librosa.resample(samples, orig_sr=rate, target_sr=48_000, res_type="soxr_hq")
    integers = (np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)
    return integers.astype(np.float32) / 32767.0


@pytest.mark.parametrize(
    ("name", "sample_rate", "channels"),
    [
        ("a.wav", 44_100, 2), ("a.wav", 48_000, 1), ("a.flac", 96_000, 2), ("a.ogg", 44_100, 2), ("a.mp3", 32_000, 1),
        ("a.opus", 48_000, 2), ("a.wav", 11_025, 6), ("a.flac", 22_050, 1), ("a.wav", 8_000, 3),
    ],
)  # fmt: skip
def test_every_sample_is_productions(write_audio, name, sample_rate, channels):
    path = write_audio(name, sample_rate=sample_rate, channels=channels)
    ours = decode(path, CAP)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, production(path))


def test_the_cap_counts_the_files_own_samples(write_audio):
    path = write_audio("long.wav", duration_s=4.0, sample_rate=44_100)
    ours = decode(path, 2 * 48_000)
    assert np.array_equal(ours, production(path, 2.0))
    assert len(ours) == 96_001  # rounded up, see below


def test_ten_minutes_of_44100_hz_round_up_by_one_as_in_production():
    resampler = Resampler(44_100)
    resampler.add(np.zeros(600 * 44_100, np.float32))
    assert len(resampler.result()) == CAP + 1


@pytest.mark.parametrize("sample_rate", [8_000, 44_056, 44_100, 48_000, 96_000, 352_800, 655_350])
@pytest.mark.parametrize("block", [1, 4_999, 1 << 18])
def test_blocks_are_resampled_as_the_whole_is(sample_rate, block):
    n = 3_001 if block == 1 else int(1.3 * sample_rate)
    samples = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    whole = librosa.resample(samples, orig_sr=sample_rate, target_sr=48_000, res_type="soxr_hq")
    resampler = Resampler(sample_rate)
    for begin in range(0, n, block):
        resampler.add(samples[begin : begin + block])
    assert np.array_equal(resampler.result(), whole)


@pytest.mark.parametrize(("name", "channels"), [("a.m4a", 2), ("a.m4a", 1), ("a.webm", 2)])
def test_what_soundfile_cannot_read_goes_through_pyav(write_audio, name, channels):
    sample_rate = 48_000
    path = write_audio(name, duration_s=2.0, sample_rate=sample_rate, channels=channels)
    reference = write_audio("reference.wav", duration_s=2.0, sample_rate=sample_rate, channels=channels)
    ours, original = decode(path, CAP), decode(reference, CAP)
    assert abs(len(ours) - len(original)) < 4096  # encoder padding
    length = 32_768
    spectrum = np.abs(np.fft.rfft(ours[20_000 : 20_000 + length]))
    expected = np.abs(np.fft.rfft(original[20_000 : 20_000 + length]))
    low = slice(0, length // 8)  # below 6 kHz, where the codec keeps the tones
    assert np.corrcoef(spectrum[low], expected[low])[0, 1] > 0.9


def test_tags_in_a_broken_encoding_are_no_reason_to_refuse_a_file(tmp_path):
    with_tag = tmp_path / "tag.m4a"
    with av.open(str(with_tag), "w") as container:
        container.metadata["title"] = "MARKER"
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    data = with_tag.read_bytes()
    assert b"MARKER" in data
    with_tag.write_bytes(data.replace(b"MARKER", b"M\xff\xfe\xe9\xc3R"))
    assert len(decode(with_tag, CAP)) >= 4096


def test_values_are_sixteen_bit_steps_truncated_toward_zero():
    samples = np.float32([0.99999, -0.99999, 1.7, -3.0, 0.4 / 32767, -0.4 / 32767])
    assert (through_int16(samples) * 32767).tolist() == [32766.0, -32766.0, 32767.0, -32767.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>" * 50, "soundfile: format not recognised; PyAV: Invalid data found"),
        (bytes(range(256)) * 40, "soundfile: .*; PyAV: Invalid data found"),
        (b"fLaC" + bytes(100), "soundfile: .*; PyAV: Invalid data found"),
    ],
)
def test_what_is_no_audio_says_what_both_decoders_found(tmp_path, content, reason):
    path = tmp_path / "broken.mp3"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=reason) as error:
        decode(path, CAP)
    assert str(error.value).startswith("no audio; ")
    assert "\n" not in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_empty_and_missing_files_are_called_that(tmp_path):
    (tmp_path / "empty.mp3").write_bytes(b"")
    with pytest.raises(DecodeError, match="no audio; the file is empty"):
        decode(tmp_path / "empty.mp3", CAP)
    with pytest.raises(DecodeError, match="no audio; there is no such file"):
        decode(tmp_path / "none.mp3", CAP)


def test_a_file_without_samples_is_no_audio(write_audio):
    with pytest.raises(DecodeError, match="no samples"):
        decode(write_audio("empty.wav", duration_s=0.0), CAP)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    import soundfile

    samples = np.zeros(4800, np.float32)
    samples[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 48_000, subtype="FLOAT")
    with pytest.raises(DecodeError, match="not finite"):
        decode(tmp_path / "nan.wav", CAP)


@pytest.mark.parametrize("name", ["cut.wav", "cut.ogg"])
def test_a_truncated_file_that_libsndfile_reads_gives_what_is_there(write_audio, name):
    path = write_audio(name, duration_s=3.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ours = decode(path, CAP)
    assert 48_000 < len(ours) < 2.5 * 48_000


def test_a_truncated_flac_which_libsndfile_gives_up_lacks_too_much(write_audio):
    path = write_audio("cut.flac", duration_s=3.0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DecodeError, match=r"damaged audio; PyAV: 1\.\d+ of 3\.00 s are damaged or missing"):
        decode(path, CAP)
    path.write_bytes(whole[: int(0.98 * len(whole))])
    ours = decode(path, CAP)
    assert 2.8 * 48_000 < len(ours) < 3 * 48_000
