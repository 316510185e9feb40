"""Is a quantised student as good as the float one, and faster? The two figures that decide.

Quality is the centred cosine to the float student: the mean of the float student's vectors over training segments is
subtracted from both. The raw cosine says nothing here; a quantiser that answers every segment with the mean vector has
a good one.
Speed is that of production's runs, one segment on one thread; the two models run alternately, so that what else the
machine does meets both.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from student_clap.export.model.session import StudentSession
from student_clap.train.loop import metrics

MIN_CENTRED_COSINE = 0.99  # mean over validation segments
MIN_SPEEDUP = 1.05  # below that, noise decides
NO_SLOWER = 0.9  # what is equal but for noise
PAIRS = 40
_WARM_UP = 3
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """Centred cosines to the float student."""

    mean: float
    p5: float
    lowest: float
    n_segments: int

    def __str__(self) -> str:
        return f"centred cosine {self.mean:.4f} (5th percentile {self.p5:.4f}, lowest {self.lowest:.4f})"


@dataclass(frozen=True)
class Speed:
    """Medians of alternating runs on one thread."""

    float_ms: float
    quantised_ms: float
    speedup: float  # median over the pairs

    def __str__(self) -> str:
        return f"{self.quantised_ms:.2f} ms per segment against {self.float_ms:.2f}, {self.speedup:.2f} times as fast"


@dataclass(frozen=True)
class Verdict:
    """Both figures of a candidate."""

    quality: Quality
    speed: Speed | None  # None: of a file for another machine

    def faults(self, min_speedup: float = MIN_SPEEDUP) -> list[str]:
        """Why it is refused; [] if it is not."""
        found = []
        # "not >=", so that NaN is refused.
        if not self.quality.mean >= MIN_CENTRED_COSINE:
            found.append(f"centred cosine {self.quality.mean:.4f}, expected at least {MIN_CENTRED_COSINE}")
        if self.speed is not None and not self.speed.speedup >= min_speedup:
            found.append(f"{self.speed.speedup:.2f} times as fast, expected at least {min_speedup}")
        return found

    def as_record(self) -> dict[str, dict[str, float] | None]:
        """For the file's metadata."""
        return {
            part: None if values is None else {k: round(v, 6) for k, v in values.items()}
            for part, values in asdict(self).items()
        }


class Judge:
    """Holds candidates against the float student on fixed segments."""

    def __init__(self, student: StudentSession, segments_db: Vectors, centre: Vectors) -> None:
        """Embed the segments with the float student.

        Args:
            student: float32.
            segments_db: [segment, mel, frame] dB.
            centre: [512] mean of the float student's vectors over training segments.
        """
        self._student, self._segments, self._centre = student, segments_db, centre
        self._expected = student.embed_segments(segments_db)

    def quality(self, candidate: StudentSession) -> Quality:
        """How near its vectors are. Raises ModelError."""
        found = candidate.embed_segments(self._segments)
        if not np.isfinite(found).all():
            return Quality(float("nan"), float("nan"), float("nan"), len(found))
        # cosines: [segment]
        cosines = metrics.centred_cosines(found, self._expected, self._centre)
        return Quality(float(cosines.mean()), float(np.quantile(cosines, 0.05)), float(cosines.min()), len(cosines))

    def speed(self, candidate: StudentSession) -> Speed:
        """How fast it is compared with the float student. Raises ModelError."""
        return alternate(self._student, candidate, self._segments[0])

    def verdict(self, candidate: StudentSession, *, timed: bool = True) -> Verdict:
        """Both; the quality alone where it is not `timed`. Raises ModelError."""
        return Verdict(self.quality(candidate), self.speed(candidate) if timed else None)


def alternate(student: StudentSession, candidate: StudentSession, segment_db: Vectors, pairs: int = PAIRS) -> Speed:
    """Run both in turn on one segment, [mel, frame] dB; which of them begins changes from pair to pair."""
    mel = np.ascontiguousarray(segment_db[None, None], np.float32)
    # seconds: [pair, student or candidate]
    seconds = np.empty((pairs, 2))
    sessions = (student, candidate)
    for number in range(-_WARM_UP, pairs):
        for which in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            sessions[which].run(mel)
            seconds[number, which] = time.perf_counter() - began
    medians = np.median(seconds, axis=0) * 1000
    return Speed(float(medians[0]), float(medians[1]), float(np.median(seconds[:, 0] / seconds[:, 1])))
