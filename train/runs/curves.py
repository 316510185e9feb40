"""`<run>/curves.svg`: losses, cosines, learning rate and speed over the epochs.

Guarantee: one file that needs no other, no script and no network, for light and dark screens. It appears whole. Pure
function of metrics.jsonl. Cost: some 30 bytes per epoch and curve.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from student_clap.config.pages.chart import ticks
from student_clap.config.runtime.files import write_text_atomically
from student_clap.train.runs.history import Metrics, figure
from student_clap.train.runs.reader import RunFolder

_log = logging.getLogger(__name__)

_WIDTH, _HEIGHT = 500, 250  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 36, 30
_HEADING = 30
_MANY_POINTS = 40
_STYLE = """
svg{font:12px system-ui,sans-serif}.paper{fill:#fff}text{fill:#1f2328}.heading{font-size:15px;font-weight:600}
.title{font-weight:600}.tick{fill:#59636e;font-size:11px}.grid{stroke:#e1e5ea}.axis{stroke:#8c959f}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.best{stroke:#59636e;stroke-dasharray:2 3}
.first.line{stroke:#a4500b;stroke-dasharray:6 3}.second.line{stroke:#0b5cad}
.first.dot,tspan.first{fill:#a4500b}.second.dot,tspan.second{fill:#0b5cad}
@media(prefers-color-scheme:dark){.paper{fill:#15181c}text{fill:#e6e9ed}.tick{fill:#9aa4af}.grid{stroke:#2b3138}
.axis{stroke:#6b7580}.best{stroke:#9aa4af}.first.line{stroke:#f0a35e}.second.line{stroke:#6cb2ff}
.first.dot,tspan.first{fill:#f0a35e}.second.dot,tspan.second{fill:#6cb2ff}}
"""


@dataclass(frozen=True)
class _Curve:
    key: str  # of metrics.jsonl
    name: str
    style: str


@dataclass(frozen=True)
class _Panel:
    title: str
    curves: tuple[_Curve, ...]
    marked: str = ""  # key whose largest value is marked
    from_zero: bool = False  # so that what hardly changes looks so


_PANELS = (
    _Panel("Loss", (_Curve("train_loss", "train", "first"), _Curve("val_loss", "validation", "second"))),
    _Panel(
        "Cosine",
        (_Curve("train_cosine", "train", "first"), _Curve("val_cosine", "validation", "second")),
        marked="val_cosine",
    ),
    _Panel("Learning rate", (_Curve("lr", "", "second"),), from_zero=True),
    _Panel("Segments per second", (_Curve("segments_per_s", "", "second"),), from_zero=True),
)


def draw_run(run_directory: Path) -> None:
    """Draw the run's curves as its metrics.jsonl has them. A file that cannot be written is a warning, not an error."""
    folder = RunFolder(run_directory)
    try:
        write_curves(folder.history().epochs, folder.curves, title=folder.name)
    except OSError as error:
        _log.warning("%s cannot be written: %s", folder.curves, error.strerror or error)


def write_curves(metrics: Sequence[Metrics], path: Path, *, title: str = "") -> None:
    """Draw a line of `metrics` per epoch as an SVG file.

    Args:
        metrics: as in metrics.jsonl; a key that an epoch lacks, or that is not finite, is left out of its curve.
        path: where to.
        title: above the panels.

    Raises:
        OSError: the file cannot be written.
    """
    write_text_atomically(path, draw_curves(metrics, title))


def draw_curves(metrics: Sequence[Metrics], title: str = "") -> str:
    """The text of the SVG."""
    width, height = 2 * _WIDTH, _HEADING + 2 * _HEIGHT
    heading = title if metrics else f"{title}: no epoch is done yet".removeprefix(": ")
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(heading)}">',
        f'<style>{_STYLE}</style><rect class="paper" width="{width}" height="{height}"/>',
        f'<text class="heading" x="{_LEFT}" y="22">{escape(heading)}</text>',
    ]
    for number, panel in enumerate(_PANELS):
        x, y = number % 2 * _WIDTH, _HEADING + number // 2 * _HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{_draw(panel, metrics)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _draw(panel: _Panel, metrics: Sequence[Metrics]) -> str:
    points = {curve: _points(metrics, curve.key) for curve in panel.curves}
    values = [value for of_curve in points.values() for _, value in of_curve]
    if not values:
        return f'<text x="{_LEFT}" y="20"><tspan class="title">{panel.title}</tspan></text>'
    first, last = int(metrics[0]["epoch"]), int(metrics[-1]["epoch"])
    x_ticks = [tick for tick in ticks(first, max(last, first + 1), 8) if tick == int(tick) and first <= tick <= last]
    y_ticks = ticks(min([*values, 0.0] if panel.from_zero else values), max(values))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x_of(epoch: float) -> str:
        return f"{_LEFT + (epoch - first) / max(1, last - first) * (right - _LEFT):.1f}"

    def y_of(value: float) -> str:
        return f"{bottom - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - _TOP):.1f}"

    parts = []
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{right}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end">{_number(tick)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
    parts += [
        f'<text class="tick" x="{x_of(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:.0f}</text>'
        for tick in x_ticks
    ]
    header = [f'<tspan class="title">{panel.title}</tspan>']
    best = max(_points(metrics, panel.marked), key=lambda point: point[1], default=None) if panel.marked else None
    if best is not None:
        parts.append(f'<path class="best" d="M{x_of(best[0])} {_TOP}V{bottom}"/>')
    for curve, of_curve in points.items():
        if of_curve:
            parts.append(_line(curve, [(x_of(epoch), y_of(value), epoch, value) for epoch, value in of_curve]))
            text = f"{curve.name} {_number(of_curve[-1][1])}".strip()
            header.append(f'<tspan class="{curve.style}" dx="12">{text}</tspan>')
    if best is not None:
        header.append(f'<tspan dx="12">best {_number(best[1])} in epoch {best[0]}</tspan>')
    return f'{"".join(parts)}<text x="{_LEFT}" y="22">{"".join(header)}</text>'


def _line(curve: _Curve, points: list[tuple[str, str, int, float]]) -> str:
    path = "M" + "L".join(f"{x} {y}" for x, y, _, _ in points)
    parts = [f'<path class="line {curve.style}" d="{path}"/>'] if len(points) > 1 else []
    for x, y, epoch, value in points if len(points) <= _MANY_POINTS else points[-1:]:
        label = f"{curve.name} {_number(value)} in epoch {epoch}".strip()
        parts.append(f'<circle class="dot {curve.style}" cx="{x}" cy="{y}" r="2.6"><title>{label}</title></circle>')
    return "".join(parts)


def _points(metrics: Sequence[Metrics], key: str) -> list[tuple[int, float]]:
    return [(int(m["epoch"]), value) for m in metrics if (value := figure(m, key)) is not None]


def _number(value: float) -> str:
    """Four significant digits, a true minus sign."""
    return f"{value:.4g}".replace("e-0", "e-").replace("-", "\u2212")
