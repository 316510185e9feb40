"""Charts of an evaluation as inline SVG: a histogram, a map of pairs.

Guarantee: every text that comes from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from student_clap.config.pages.chart import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    Mark,
    frame,
    horizontal,
    marked,
    number,
    svg,
    ticks,
    vertical,
)


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
    x_axis = horizontal(at, width)
    room = 34.0 + 14 * max(0, len(marks) - 3)  # a line for each label
    y_axis = vertical(tuple(t for t in ticks(0, most, 4) if t == int(t)), height, extra_top=room)
    parts = [frame(x_axis, y_axis, x_label, "Tracks", width, height)]
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if count:
            x, top = x_axis(left), y_axis(count)
            across, down = round(x_axis(right) - x - 1.5, 2), round(y_axis(0) - top, 2)
            title = f"{count} of {len(values)} tracks from {number(left)} to {number(right)}"
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
        marked(mark, f"{mark.name} {mark.x:.3f}".replace("-", "−"), x_axis, y_axis, TOP + 14 * line, width)
        for line, mark in enumerate(marks)
    ]
    return svg(parts, width, height, f"Histogram of {x_label.lower()} over {len(values)} tracks")


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
    inner = (width - LEFT - RIGHT, height - TOP - BOTTOM)
    per_px = max(max(spans[0] / inner[0], spans[1] / inner[1]) * 1.06, 1e-6)
    for d, (from_px, to_px) in enumerate(((LEFT, width - RIGHT), (height - BOTTOM, TOP))):
        half = per_px * inner[d] / 2
        low, high = float(middle[d] - half), float(middle[d] + half)
        axes.append(Axis(low, high, from_px, to_px, tuple(t for t in ticks(low, high) if low <= t <= high)))
    x_axis, y_axis = axes
    parts = [frame(x_axis, y_axis, *labels, width, height)]
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
    return svg(parts, width, height, f"Map of {len(titles)} tracks by teacher and student")
