"""A file as the product hears it, beside AudioMuse-AI's front end by librosa, and what is right where it is damaged.

The reference is librosa.load by soundfile; where that fails or is empty, the first audio stream by PyAV, a plain mean
of its channels, at most 600 s; soxr HQ; 16 bits (docs/audiomuse.md). Where PyAV meets damage the reference goes on
behind it, since the rule for those files is the user's: whole, or with a remark, or a failure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import numpy.typing as npt
import soundfile

from loopback.production import production_mel
from student_clap.config.runtime.container import open_container
from student_clap.config.schema import AudioConfig
from student_clap.featurize.audio.decode import DecodeError, decode_with_remark
from student_clap.featurize.audio.mel import LogMel
from student_clap.ingest.cache.container import NotAudioError, audio_extension
from student_clap.store import Recipe, frame_index
from student_clap.store.layout.codes import dequantise_columns
from student_clap.store.layout.segments import segment_starts
from trials.trial import Trial

LEAST_COSINE = 0.9999
# Decibels about 0 have a small cosine for any rounding; so a segment is alike too where no value differs by more.
HALF_STEP_DB = 0.2825
RECIPE = Recipe.from_config(AudioConfig())
_LIMIT_S = 600.0
_MOST_SEGMENTS = 4  # of a track are compared, the first and the last among them
_FEW, _MANY = 0.03, 0.08  # parts of a file: what is lost beyond the second must be a failure, below the first must not
_SLACK_S = 0.3  # an encoder's padding, and a packet or two
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """What should be heard."""

    samples: Samples  # [sample] at 48 kHz; empty where nobody hears anything
    by: str  # "libsndfile", "FFmpeg", "nobody"
    lost_s: float  # packets that FFmpeg could not decode
    stated_s: float | None  # by libsndfile's header


def reference(path: Path) -> Reference:
    """Production's samples of `path`; never raises."""
    stated_s = None
    try:
        with soundfile.SoundFile(path) as file:
            stated_s = file.frames / file.samplerate if file.frames < 1 << 62 else None
            rate = file.samplerate
            # A SoundFile, so that librosa does not go on to its own fallback, which production does not have.
            heard, _ = librosa.load(file, sr=None, mono=True, duration=_LIMIT_S)
        if len(heard):
            return Reference(_in_48_khz(heard, rate), "libsndfile", 0.0, stated_s)
    except (soundfile.SoundFileError, librosa.ParameterError, TypeError, ValueError):
        pass
    try:
        heard, rate, lost_s = _by_ffmpeg(path)
    except (av.error.FFmpegError, ValueError):
        return Reference(np.empty(0, np.float32), "nobody", 0.0, stated_s)
    if not len(heard) or not np.isfinite(heard).all():
        return Reference(np.empty(0, np.float32), "nobody", 0.0, stated_s)
    return Reference(_in_48_khz(heard, rate), "FFmpeg", lost_s, stated_s)


def judge(name: str, path: Path, loud: Path, *, healthy: bool, whole_s: float | None) -> Trial:
    """Hear `path` and compare.

    Args:
        name: of the trial.
        path: the file.
        loud: a file that is heard between two times, so that what a buffer still holds would show.
        healthy: whether all must be heard, without a remark.
        whole_s: of a damaged file, its length before; None where the file cannot tell that something is gone.
    """
    expected = reference(path)
    figures: dict[str, Any] = {"reference": expected.by, "expected_s": round(len(expected.samples) / 48_000, 3)}
    try:
        heard = decode_with_remark(path, RECIPE.max_samples)
        decode_with_remark(loud, RECIPE.max_samples)
        again = decode_with_remark(path, RECIPE.max_samples)
    except DecodeError as error:
        figures["said"] = str(error)
        fault = _refusal_fault(str(error), expected, healthy=healthy, whole_s=whole_s)
        return Trial(name, "refused with its reason", fault, figures)
    figures |= {"heard_s": round(len(heard.samples) / 48_000, 3), "said": heard.remark}
    figures["samples equal"] = np.array_equal(heard.samples, expected.samples)
    if len(heard.samples) == len(expected.samples):
        figures["cosine"], figures["worst_db"] = _agreement(heard.samples, expected.samples)
    fault = _hearing_fault(figures, expected, healthy=healthy, whole_s=whole_s)
    if not np.array_equal(heard.samples, again.samples):
        fault = "another hearing gives other samples"
    try:
        figures["container"] = audio_extension(path)
    except NotAudioError as error:
        if expected.by != "nobody":
            fault = fault or f"featurize hears it, ingest refuses it: {error}"
    outcome = "heard as production does" if figures["samples equal"] else "heard alike"
    if expected.by == "nobody":
        outcome = "heard where production hears nothing"
    return Trial(name, f"{outcome}, with a remark" if heard.remark else outcome, fault, figures)


def _refusal_fault(said: str, expected: Reference, *, healthy: bool, whole_s: float | None) -> str:
    if "\n" in said or not said.startswith(("no audio; ", "damaged audio; ")):
        return f"the refusal is not one line with a reason: {said!r}"
    if expected.by == "nobody":
        return ""
    if healthy or expected.by == "libsndfile":
        return f"refused, but {expected.by} hears {len(expected.samples) / 48_000:.2f} s: {said}"
    heard_s = len(expected.samples) / 48_000
    lost_s = max(expected.lost_s, min(whole_s or 0.0, _LIMIT_S) - heard_s)
    if lost_s < _FEW * (heard_s + lost_s):
        return f"refused, though {lost_s:.2f} of {heard_s + lost_s:.2f} s are lost: {said}"
    return ""


def _hearing_fault(figures: dict[str, Any], expected: Reference, *, healthy: bool, whole_s: float | None) -> str:
    """What is wrong with a file that was heard, `figures` saying how."""
    heard_s, remark = figures["heard_s"], figures["said"]
    if expected.by == "nobody" and healthy:
        return ""  # libsndfile reads it, and production, which also seeks, does not get that far
    if expected.by == "nobody":
        return f"{heard_s} s are heard where nothing is to be heard"
    if figures.get("cosine", 0.0) < LEAST_COSINE and figures.get("worst_db", np.inf) > HALF_STEP_DB:
        return f"{heard_s} s are heard, expected {figures['expected_s']}; cosine {figures.get('cosine')}"
    if healthy:
        return f"a remark on a healthy file: {remark}" if remark else ""
    if expected.by == "libsndfile":
        # Production's word. What the header promises in addition has to be said.
        stated_s = min(expected.stated_s or 0.0, _LIMIT_S)
        return "" if remark or stated_s - heard_s <= _MANY * stated_s else f"{stated_s:.2f} s are promised; no remark"
    whole_s = min(whole_s or heard_s, _LIMIT_S)
    lost_s = max(expected.lost_s, whole_s - heard_s)
    if lost_s > _MANY * whole_s + _SLACK_S:
        return f"{lost_s:.2f} of {whole_s:.2f} s are lost, and it is no failure"
    if lost_s > _SLACK_S and not remark:
        return f"{lost_s:.2f} of {whole_s:.2f} s are lost without a remark"
    return ""


def _by_ffmpeg(path: Path) -> tuple[Samples, int, float]:
    """(channel mean, Hz, seconds of packets that could not be decoded)."""
    pieces: list[Samples] = []
    lost_s, heard, good_bytes = 0.0, 0, 0
    with open_container(path) as container:
        if not container.streams.audio or container.streams.audio[0].codec_context is None:
            raise ValueError("no audio")
        stream = container.streams.audio[0]
        rate = int(stream.codec_context.sample_rate or 0)
        # Interleaved frames, because PyAV's planar ones of eight channels and more end the process.
        to_floats: dict[tuple[Any, ...], av.AudioResampler] = {}
        for packet in _packets(container, stream):
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.FFmpegError:
                # What lies between two frames may be one packet, whatever its size.
                by_size_s = packet.size * heard / rate / good_bytes if good_bytes else 0.0
                lost_s += max(float((packet.duration or 0) * (packet.time_base or 0)), by_size_s)
                continue
            good_bytes += packet.size
            for frame in frames:
                shape = (frame.format.name, frame.layout.name, frame.sample_rate)
                if frame.sample_rate != rate:
                    lost_s += frame.samples / rate
                    continue
                converter = to_floats.setdefault(shape, av.AudioResampler(format="flt"))
                for piece in converter.resample(frame):
                    channels = frame.layout.nb_channels
                    pieces.append(np.asarray(piece.to_ndarray(), np.float32).reshape(-1, channels).mean(axis=1))
                    heard += len(pieces[-1])
            if heard >= _LIMIT_S * rate:
                break
    whole = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    return whole[: int(_LIMIT_S * rate)], rate, lost_s


def _packets(container: Any, stream: Any) -> Any:
    for _ in range(10_000):
        try:
            yield from container.demux(stream)
        except av.error.BlockingIOError:  # "try again"
            continue
        except av.error.InvalidDataError:
            pass
        return


def _in_48_khz(heard: Samples, rate: int) -> Samples:
    if len(heard) and rate != RECIPE.sample_rate:
        heard = librosa.resample(heard, orig_sr=rate, target_sr=RECIPE.sample_rate, res_type="soxr_hq")
    integers = (np.clip(heard, -1.0, 1.0) * 32767).astype(np.int16)
    return integers.astype(np.float32) / np.float32(32767.0)


def _agreement(ours: Samples, theirs: Samples) -> tuple[float, float]:
    """The store's bytes and production's mel: (the least cosine of a segment's, the largest difference in dB)."""
    starts = segment_starts(len(ours), RECIPE)
    chosen = np.unique(np.linspace(0, len(starts) - 1, _MOST_SEGMENTS).astype(int))
    index = frame_index(len(ours), RECIPE)[chosen]
    # mel: [segment, mel, frame] dB
    mel = dequantise_columns(LogMel(RECIPE).codes(ours), index, RECIPE)
    cosine, worst_db = 1.0, 0.0
    for segment, start in zip(mel, starts[chosen].tolist(), strict=True):
        samples = theirs[start : start + RECIPE.segment_samples]
        right = production_mel(np.pad(samples, (0, RECIPE.segment_samples - len(samples))), RECIPE)
        product = float(np.vdot(segment.astype(np.float64), right))
        cosine = min(cosine, product / math.sqrt(float(np.vdot(segment, segment)) * float(np.vdot(right, right))))
        worst_db = max(worst_db, float(np.abs(segment - right).max()))
    return round(cosine, 7), round(worst_db, 3)
