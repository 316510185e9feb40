"""Models side by side: time per segment and per minute of audio, load time, memory.

Each model runs in processes of its own (`bench_subject`), one with one thread and one with all, and the models take
turns: run, next model's run, and so on round after round. What else the machine does meets all of them, and the ratios
are medians over rounds.
Cost: as many processes at once as there are models.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import click

from student_clap.export.model.inputs import AppMel, mel_of
from student_clap.store import Recipe

THREADS = {"one": 1, "all": 0}  # of onnxruntime; 0: every core
LOADS = 3  # processes per model and number of threads, for the load time
_STOP_S = 10


class BenchError(click.ClickException):
    """A model cannot be measured."""


def heard_by(model: Path, configured: Recipe) -> AppMel:
    """What a model is fed.

    Raises:
        ModelError: there is no such file.
        BenchError: it is no ONNX file.
    """
    import onnx

    mel = mel_of(model, configured)
    try:
        onnx.load(str(model), load_external_data=False)
    except Exception as error:  # protobuf and the operating system raise types without a common base
        raise BenchError(f"{model} is no ONNX file: {type(error).__name__}") from error
    return mel


def _hears(mel: AppMel) -> str:
    """ "waveform", "mel" or "transposed"."""
    if mel.waveform:
        return "waveform"
    return "transposed" if mel.shape.transposed else "mel"


def compare_models(
    models: Sequence[Path], configured: Recipe, *, rounds: int, advance: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """Measure `models` in turn.

    Args:
        models: ONNX files; ratios are to the first.
        configured: the mel of a file that does not tell its own.
        rounds: runs of a segment per model and number of threads; a tenth as many minutes, two at least.
        advance: called `LOADS + 1` times per number of threads.

    Returns:
        A record per model: its file, bytes, what it hears; for "one" and "all" threads ms per segment and per minute,
        load time and peak memory, and the ratios of the times to the first model's (2: takes twice as long).

    Raises:
        BenchError: a model cannot be measured.
        ModelError: there is no such file.
    """
    heard = [heard_by(model, configured) for model in models]
    records: list[dict[str, Any]] = [
        {
            "model": str(model),
            "bytes": sum(path.stat().st_size for path in _files(model)),
            "hears": _hears(kind),
            "mel_from": kind.source,
            "n_mels": 0 if kind.waveform else kind.recipe.n_mels,
            "threads": {},
        }
        for model, kind in zip(models, heard, strict=True)
    ]
    for name, threads in THREADS.items():
        loads: list[list[float]] = [[] for _ in models]
        for _ in range(LOADS - 1):
            for index, (model, kind) in enumerate(zip(models, heard, strict=True)):
                with _subject(model, threads, kind) as (_, load_s):
                    loads[index].append(load_s)
            advance()
        with ExitStack() as stack:
            asks = []
            for index, (model, kind) in enumerate(zip(models, heard, strict=True)):
                ask, load_s = stack.enter_context(_subject(model, threads, kind))
                loads[index].append(load_s)
                asks.append(ask)
            advance()
            segments = _take_turns(asks, "segment", rounds)
            # Before the minutes, so that the mel of a minute is not counted as the model's.
            peaks = [ask("peak") for ask in asks]
            minutes = _take_turns(asks, "minute", max(2, rounds // 10))
            advance()
        for index, record in enumerate(records):
            record["threads"][name] = {
                "ms_per_segment": _ms(segments[index]),
                "ms_per_minute": _ms(minutes[index]),
                "segment_ratio": _ratio(segments[index], segments[0]),
                "minute_ratio": _ratio(minutes[index], minutes[0]),
                "load_ms": _ms(loads[index]),
                "peak_mb": round(peaks[index]["peak_bytes"] / 1e6, 1),
                "before_mb": round(peaks[index]["before_bytes"] / 1e6, 1),
            }
    return records


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records as Markdown, a model a line."""
    lines = [
        "| model | MB | ms/segment, 1 thread | all | ms/minute of audio, 1 thread | all | load ms | peak MB | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for record in records:
        one, every = record["threads"]["one"], record["threads"]["all"]
        cells = [
            Path(record["model"]).name,
            f"{record['bytes'] / 1e6:.2f}",
            *(f"{threads[key]:.2f}" for key in ("ms_per_segment", "ms_per_minute") for threads in (one, every)),
            f"{one['load_ms']:.1f}",
            f"{one['peak_mb']:.0f}",
            f"{one['segment_ratio']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_Ask = Callable[[str], dict[str, float]]


def _take_turns(asks: Sequence[_Ask], what: str, rounds: int) -> list[list[float]]:
    """Seconds, [model][round]; one round before them warms up, and the order turns by one every round."""
    seconds: list[list[float]] = [[] for _ in asks]
    for number in range(-1, rounds):
        for step in range(len(asks)):
            index = (step + number) % len(asks)
            taken = asks[index](what)["s"]
            if number >= 0:
                seconds[index].append(taken)
    return seconds


@contextmanager
def _subject(model: Path, threads: int, heard: AppMel) -> Iterator[tuple[_Ask, float]]:
    """A process that has loaded `model`: what asks it, and its load time in seconds. Raises BenchError."""
    command = [sys.executable, "-m", "student_clap.export.bench.subject"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(message: dict[str, Any]) -> dict[str, float]:
        try:
            if process.stdin is None or process.stdout is None:
                raise BenchError(f"{model}: the process that measures it has no pipes")
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError as error:
            raise BenchError(f"{model}: the process that measures it died: {error.strerror or error}") from error
        if not line:
            raise BenchError(f"{model}: the process that measures it died (code {process.wait(_STOP_S)}); memory?")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(str(answer["error"]))
        return answer

    with process:
        try:
            loaded = send(
                {
                    "model": str(model),
                    "threads": threads,
                    "recipe": heard.recipe.as_attributes(),
                    "hears": _hears(heard),
                }
            )
            yield lambda what: send({"do": what}), loaded["load_s"]
        finally:
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _files(model: Path) -> list[Path]:
    """The model and its external data."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    from student_clap.export.model.contract import tensors

    graph = onnx.load(str(model), load_external_data=False).graph
    names = {e.value for t in tensors(graph) if uses_external_data(t) for e in t.external_data if e.key == "location"}
    return [model, *(path for name in sorted(names) if (path := model.parent / name).is_file())]


def _ms(seconds: Sequence[float]) -> float:
    return round(median(seconds) * 1000, 3)


def _ratio(seconds: Sequence[float], first: Sequence[float]) -> float:
    return round(median(a / b for a, b in zip(seconds, first, strict=True)), 3)
