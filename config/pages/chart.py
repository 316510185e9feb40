"""Charts as inline SVG: lines over a common x, and the axes, ticks and marks that other charts are made of.

No scripts, no fonts, no colours of their own: these come from the page's style sheet by class, so that one drawing
serves light, dark and print. Guarantee: every text that comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LEFT, RIGHT, TOP, BOTTOM = 64.0, 14.0, 32.0, 46.0
_DOT, _MANY_POINTS = 3.0, 40
_LARGEST = 1e300  # the difference of two such numbers is one, too


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
    """Lines over a common x, points marked where they are few, `mark` if it lies inside.

    Skips what is not finite, or beyond 1e300.
    """
    kept = [s for s in (_finite(s) for s in series) if s.x]
    if not kept:
        return Markup("")
    xs, ys = [x for s in kept for x in s.x], [y for s in kept for y in s.y]
    x_axis, y_axis = (
        horizontal(ticks(min(xs), max(xs)), width, (min(xs), max(xs))),
        vertical(ticks(min(ys), max(ys)), height),
    )
    parts = [frame(x_axis, y_axis, x_label, y_label, width, height)]
    if mark is not None and x_axis.low <= mark.x <= x_axis.high:
        parts.append(marked(mark, mark.name, x_axis, y_axis, TOP, width))
    for line in kept:
        points = [(x_axis(x), y_axis(y)) for x, y in zip(line.x, line.y, strict=True)]
        path = "M" + "L".join(f"{x} {y}" for x, y in points)
        parts.append(Markup('<path class="line {}" d="{}"/>').format(line.style, path))
        shown = points if len(points) <= _MANY_POINTS else points[-1:]
        values = list(zip(line.x, line.y, strict=True))[-len(shown) :]
        for (x, y), (at, value) in zip(shown, values, strict=True):
            parts.append(
                Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}: {} at {} {}</title></circle>').format(
                    line.style, x, y, _DOT, line.name, number(value), number(at), x_label.lower()
                )
            )
    return svg(parts, width, height, f"{y_label} over {x_label.lower()}: " + ", ".join(s.name for s in kept))


def marked(mark: Mark, label: str, x_axis: Axis, y_axis: Axis, top: float, width: int) -> Markup:
    """A vertical line down to the axis, its label on the side where there is room."""
    x = x_axis(mark.x)
    label_x, anchor = (x - 5, "end") if x > width / 2 else (x + 5, "start")
    return Markup(
        '<path class="mark {}" d="M{} {}V{}"/><text class="mark-label {}" x="{}" y="{}" text-anchor="{}">{}</text>'
    ).format(mark.style, x, top + 2, y_axis.from_px, mark.style, label_x, top + 11, anchor, label)


def frame(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str, width: int, height: int) -> Markup:
    """Grid, tick labels and axis titles."""
    bottom, left, right = height - BOTTOM, LEFT, width - RIGHT
    parts = []
    for tick in y_axis.ticks:
        y = y_axis(tick)
        parts.append(
            Markup(
                '<path class="grid" d="M{} {}H{}"/><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(left, y, right, left - 7, y + 4, number(tick))
        )
    for tick in x_axis.ticks:
        x = x_axis(tick)
        parts.append(
            Markup(
                '<path class="grid" d="M{} {}v5"/><text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>'
            ).format(x, bottom, x, bottom + 19, number(tick))
        )
    parts.append(
        Markup(
            '<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text><text class="axis" x="4" y="14">{}</text>'
        ).format(round((left + right) / 2, 2), height - 8, x_label, y_label)
    )
    return Markup("").join(parts)


def svg(parts: Sequence[Markup], width: int, height: int, label: str) -> Markup:
    """The drawing of `parts`; `label` says what it is to those who do not see it."""
    return (
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, height, label)
        + Markup("").join(parts)
        + Markup("</svg>")
    )


def horizontal(at: Sequence[float], width: int, limits: tuple[float, float] | None = None) -> Axis:
    """The axis below the drawing, from the first of the ticks `at` to the last, or between `limits`."""
    low, high = limits if limits is not None and limits[1] > limits[0] else (at[0], at[-1])
    return Axis(low, high, LEFT, width - RIGHT, tuple(t for t in at if low <= t <= high))


def vertical(at: Sequence[float], height: int, extra_top: float = 0.0) -> Axis:
    """The axis at the left, from the first of the ticks `at` to the last; `extra_top` pixels are left above it."""
    return Axis(at[0], at[-1], height - BOTTOM, TOP + extra_top, at)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)) + 1e-12:
        margin = 0.05 * abs(low) or 0.5
        low, high = low - margin, high + margin
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits + 1) for number in range(first, max(last, first + 1) + 1)]


def _finite(series: Series) -> Series:
    kept = [(x, y) for x, y in zip(series.x, series.y, strict=True) if abs(x) < _LARGEST and abs(y) < _LARGEST]
    return Series(series.name, series.style, [x for x, _ in kept], [y for _, y in kept])


def number(value: float) -> str:
    """Four significant digits, a true minus sign."""
    return str(escape(f"{value:.4g}")).replace("-", "−")
