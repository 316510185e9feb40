"""Charts as inline SVG: curves, a histogram, a map of pairs. No scripts, no fonts, no colours of their own.

Colours, dashes and text sizes come from the page's style sheet by class, so that one drawing serves light, dark and
print. Guarantee: every text that comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from student_clap.train.runs.curves import ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 14.0, 12.0, 46.0
_DOT, _MANY_POINTS = 3.0, 40


@dataclass(frozen=True)
class Series:
    """A line of a chart; `style` is its class."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A labelled vertical line in a histogram."""

    name: str
    style: str
    x: float


@dataclass(frozen=True)
class Axis:
    """Data range onto pixels, with ticks at round numbers."""

    low: float
    high: float
    from_px: float
    to_px: float
    ticks: Sequence[float]

    def __call__(self, value: float) -> float:
        """Pixel of `value`."""
        return round(self.from_px + (value - self.low) / (self.high - self.low) * (self.to_px - self.from_px), 2)


def curves(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    mark: Mark | None = None,
    *,
    width: int = 480,
    height: int = 300,
) -> Markup:
    """Lines over a common x, points marked where they are few, `mark` if it lies inside. Skips what is not finite."""
    kept = [s for s in (_finite(s) for s in series) if s.x]
    if not kept:
        return Markup("")
    xs, ys = [x for s in kept for x in s.x], [y for s in kept for y in s.y]
    x_axis, y_axis = (
        _x_axis(ticks(min(xs), max(xs)), width, (min(xs), max(xs))),
        _y_axis(ticks(min(ys), max(ys)), height),
    )
    parts = [_frame(x_axis, y_axis, x_label, y_label, width, height)]
    if mark is not None and x_axis.low <= mark.x <= x_axis.high:
        parts.append(_marked(mark, mark.name, x_axis, y_axis, _TOP, width))
    for line in kept:
        points = [(x_axis(x), y_axis(y)) for x, y in zip(line.x, line.y, strict=True)]
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        parts.append(Markup('<path class="line {}" d="{}"/>').format(line.style, path))
        shown = points if len(points) <= _MANY_POINTS else points[-1:]
        values = list(zip(line.x, line.y, strict=True))[-len(shown) :]
        for (x, y), (at, value) in zip(shown, values, strict=True):
            parts.append(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}: {} at {} {}</title></circle>').format(
                    line.style, x, y, _DOT, line.name, _number(value), _number(at), x_label.lower()
                )
            )
    return _svg(parts, width, height, f"{y_label} over {x_label.lower()}: " + ", ".join(s.name for s in kept))


def histogram(
    values: npt.NDArray[np.float64],
    marks: Sequence[Mark],
    x_label: str,
    *,
    other: npt.NDArray[np.float64] | None = None,
    width: int = 480,
    height: int = 400,
) -> Markup:
    """How many tracks have which value; `marks` are drawn over it, and `other` values of the tracks as an outline."""
    both = values if other is None else np.concatenate([values, other])
    low = min([float(both.min()), *(m.x for m in marks)])
    high = max([float(both.max()), *(m.x for m in marks)])
    at = ticks(low, high)
    bins_per_tick = 5 if len(values) >= 50 else 2
    edges = np.linspace(at[0], at[-1], (len(at) - 1) * bins_per_tick + 1)
    counts, _ = np.histogram(values, edges)
    other_counts, _ = np.histogram([] if other is None else other, edges)
    most = float(max(counts.max(), other_counts.max()))
    x_axis = _x_axis(at, width)
    room = 34.0 + 14 * max(0, len(marks) - 3)  # a line for each label
    y_axis = _y_axis(tuple(t for t in ticks(0, most, 4) if t == int(t)), height, extra_top=room)
    parts = [_frame(x_axis, y_axis, x_label, "Tracks", width, height)]
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            x, top = x_axis(left), y_axis(count)
            across, down = round(x_axis(right) - x - 1.5, 2), round(y_axis(0) - top, 2)
            title = f"{count} of {len(values)} tracks from {_number(left)} to {_number(right)}"
            parts.append(
                Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    x + 0.75, top, across, down, title
                )
            )
    if other is not None:
        corners = [
            (x_axis(x), y_axis(n)) for n, *xs in zip(other_counts, edges[:-1], edges[1:], strict=True) for x in xs
        ]
        steps = [(x_axis(edges[0]), y_axis(0)), *corners, (x_axis(edges[-1]), y_axis(0))]
        parts.append(Markup('<path class="outline" d="{}"/>').format("M" + "L".join(f"{x} {y}" for x, y in steps)))
    # Labels stand on lines of their own.
    parts += [
        _marked(mark, f"{mark.name} {mark.x:.3f}".replace("-", "−"), x_axis, y_axis, _TOP + 14 * number, width)
        for number, mark in enumerate(marks)
    ]
    return _svg(parts, width, height, f"Histogram of {x_label.lower()} over {len(values)} tracks")


def pair_map(
    teacher: npt.NDArray[np.float64],
    student: npt.NDArray[np.float64],
    titles: Sequence[str],
    labels: tuple[str, str],
    *,
    other: npt.NDArray[np.float64] | None = None,
    width: int = 480,
    height: int = 400,
) -> Markup:
    """Teacher and student as points of one plane, [track, 2] each, a line joining each pair; titles on hover.

    `other`, [track, 2], is a third point with a line of its own to the teacher's.
    """
    both = np.concatenate([teacher, student] if other is None else [teacher, student, other])
    axes = []
    # One scale for both axes, because distances are what the map shows.
    spans = both.max(axis=0) - both.min(axis=0)
    middle = (both.max(axis=0) + both.min(axis=0)) / 2
    inner = (width - _LEFT - _RIGHT, height - _TOP - _BOTTOM)
    per_px = max(max(spans[0] / inner[0], spans[1] / inner[1]) * 1.06, 1e-6)
    for d, (from_px, to_px) in enumerate(((_LEFT, width - _RIGHT), (height - _BOTTOM, _TOP))):
        half = per_px * inner[d] / 2
        low, high = float(middle[d] - half), float(middle[d] + half)
        axes.append(Axis(low, high, from_px, to_px, tuple(t for t in ticks(low, high) if low <= t <= high)))
    x_axis, y_axis = axes
    parts = [_frame(x_axis, y_axis, *labels, width, height)]
    third = [Markup("")] * len(titles)
    if other is not None:
        third = [
            Markup('<path class="link rival" d="M{} {}L{} {}"/><path class="rival" d="M{} {}l4 7h-8z"/>').format(
                x_axis(tx), y_axis(ty), x_axis(ox), y_axis(oy), x_axis(ox), round(y_axis(oy) - 4.5, 2)
            )
            for (tx, ty), (ox, oy) in zip(teacher.tolist(), other.tolist(), strict=True)
        ]
    for (tx, ty), (sx, sy), title, more in zip(teacher.tolist(), student.tolist(), titles, third, strict=True):
        t, s = (x_axis(tx), y_axis(ty)), (x_axis(sx), y_axis(sy))
        parts.append(
            Markup(
                '<g class="pair" data-at="{} {} {} {}"><title>{}</title>{}<path class="link" d="M{} {}L{} {}"/>'
                '<circle class="teacher" cx="{}" cy="{}" r="4"/>'
                '<path class="student" d="M{} {}l4.2 4.2l-4.2 4.2l-4.2-4.2z"/></g>'
            ).format(*t, *s, title, more, *t, *s, *t, s[0], round(s[1] - 4.2, 2))
        )
    return _svg(parts, width, height, f"Map of {len(titles)} tracks by teacher and student")


def _marked(mark: Mark, label: str, x_axis: Axis, y_axis: Axis, top: float, width: int) -> Markup:
    """A vertical line down to the axis, its label on the side where there is room."""
    x = x_axis(mark.x)
    label_x, anchor = (x - 5, "end") if x > width / 2 else (x + 5, "start")
    return Markup(
        '<path class="mark {}" d="M{} {}V{}"/><text class="mark-label {}" x="{}" y="{}" text-anchor="{}">{}</text>'
    ).format(mark.style, x, top + 2, y_axis.from_px, mark.style, label_x, top + 11, anchor, label)


def _frame(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str, width: int, height: int) -> Markup:
    """Grid, tick labels and axis titles."""
    bottom, left, right = height - _BOTTOM, _LEFT, width - _RIGHT
    parts = []
    for tick in y_axis.ticks:
        y = y_axis(tick)
        parts.append(
            Markup(
                '<path class="grid" d="M{} {}H{}"/><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(left, y, right, left - 7, y + 4, _number(tick))
        )
    for tick in x_axis.ticks:
        x = x_axis(tick)
        parts.append(
            Markup(
                '<path class="grid" d="M{} {}v5"/><text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>'
            ).format(x, bottom, x, bottom + 19, _number(tick))
        )
    middle = round((_TOP + bottom) / 2, 2)
    parts.append(
        Markup(
            '<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>'
            '<text class="axis" transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format(round((left + right) / 2, 2), height - 8, x_label, middle, y_label)
    )
    return Markup("").join(parts)


def _svg(parts: Sequence[Markup], width: int, height: int, label: str) -> Markup:
    return (
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)
        + Markup("").join(parts)
        + Markup("</svg>")
    )


def _x_axis(at: Sequence[float], width: int, limits: tuple[float, float] | None = None) -> Axis:
    low, high = limits if limits is not None and limits[1] > limits[0] else (at[0], at[-1])
    return Axis(low, high, _LEFT, width - _RIGHT, tuple(t for t in at if low <= t <= high))


def _y_axis(at: Sequence[float], height: int, extra_top: float = 0.0) -> Axis:
    return Axis(at[0], at[-1], height - _BOTTOM, _TOP + extra_top, at)


def _finite(series: Series) -> Series:
    kept = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Series(series.name, series.style, [x for x, _ in kept], [y for _, y in kept])


def _number(value: float) -> str:
    """Four significant digits, a true minus sign."""
    return str(escape(f"{value:.4g}")).replace("-", "−")
