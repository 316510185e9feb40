"""Models side by side: time per segment and per minute of audio, load time, memory.

Each model runs in processes of its own (`subject`), one with one thread and one with all, and the models take
turns: run, next model's run, and so on round after round. Other work of the machine meets all of them, and the ratios
are medians over rounds.
Cost: as many processes at once as there are models.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click

from student_clap.config.formats.json_text import parse_json
from student_clap.config.runtime.files import write_text_atomically
from student_clap.config.runtime.machine import available_cores, processor
from student_clap.config.runtime.screen import table
from student_clap.config.runtime.signals import children_ignore_interrupts
from student_clap.featurize.onnx.graph import model_files, read_graph
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec_of
from student_clap.store import Recipe

THREADS = {"one": 1, "all": 0}  # of onnxruntime; 0: every core
LOADS = 3  # processes per model and number of threads, for the load time
_STOP_S = 10


class BenchError(click.ClickException):
    """A model cannot be measured."""


def spec_to_measure(model: Path, configured: Recipe) -> InputSpec:
    """The input that a model is measured with.

    Raises:
        ModelError: there is no such file, or it is not an ONNX file.
    """
    spec = input_spec_of(model, configured)
    read_graph(model)
    return spec


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
        A record per model: its file, bytes, its input; for "one" and "all" threads ms per segment and per minute,
        load time and peak memory, and the ratios of the times to the first model's (2: takes twice as long).

    Raises:
        BenchError: a model cannot be measured.
        ModelError: there is no such file, or it is not an ONNX file.
    """
    specs = [spec_to_measure(model, configured) for model in models]
    records: list[dict[str, Any]] = [
        {
            "model": str(model),
            "bytes": sum(path.stat().st_size for path in model_files(model)),
            "input": spec.layout,
            "mel_from": spec.source,
            "n_mels": 0 if spec.waveform else spec.recipe.n_mels,
            "threads": {},
        }
        for model, spec in zip(models, specs, strict=True)
    ]
    for name, threads in THREADS.items():
        loads: list[list[float]] = [[] for _ in models]
        for _ in range(LOADS - 1):
            for index, (model, spec) in enumerate(zip(models, specs, strict=True)):
                with subject_process(model, threads, spec) as (_, load_s):
                    loads[index].append(load_s)
            advance()
        with ExitStack() as stack:
            asks = []
            for index, (model, spec) in enumerate(zip(models, specs, strict=True)):
                ask, load_s = stack.enter_context(subject_process(model, threads, spec))
                loads[index].append(load_s)
                asks.append(ask)
            advance()
            segments = take_turns(asks, "segment", rounds)
            # Before the minutes, so that the mel of a minute is not counted as the model's.
            peaks = [ask("peak") for ask in asks]
            minutes = take_turns(asks, "minute", max(2, rounds // 10))
            advance()
        for index, record in enumerate(records):
            record["threads"][name] = {
                "ms_per_segment": _ms(segments[index]),
                "ms_per_minute": _ms(minutes[index]),
                "segment_ratio": ratio(segments[index], segments[0]),
                "minute_ratio": ratio(minutes[index], minutes[0]),
                "load_ms": _ms(loads[index]),
                "peak_mb": round(peaks[index]["peak_bytes"] / 1e6, 1),
                "before_mb": round(peaks[index]["before_bytes"] / 1e6, 1),
            }
    return records


def this_machine() -> dict[str, Any]:
    """The processor, its cores and onnxruntime's version, on which the times depend."""
    import onnxruntime

    return {"processor": processor(), "cores": available_cores(), "onnxruntime": onnxruntime.__version__}


def comparison_steps() -> int:
    """How often `compare_models` calls `advance`."""
    return len(THREADS) * (LOADS + 1)


def as_object(records: Sequence[dict[str, Any]], rounds: int, machine: dict[str, Any]) -> dict[str, Any]:
    """The figures for other programs, measured now."""
    measured = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"measured_at": measured, "rounds": rounds, "machine": machine, "models": list(records)}


def write_record(path: Path, records: Sequence[dict[str, Any]], rounds: int, machine: dict[str, Any]) -> None:
    """Write the figures as JSON. Raises BenchError where the system refuses."""
    try:
        write_text_atomically(path, json.dumps(as_object(records, rounds, machine), indent=1) + "\n")
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror or error}") from error


_COLUMNS = (
    *("model", "MB", "ms/segment, 1 thread", "all", "ms/minute of audio, 1 thread", "all", "load ms", "peak MB"),
    "ratio",
)


def comparison_table(records: Sequence[dict[str, Any]]) -> str:
    """The records as Markdown, a model a line."""
    rows = []
    for record in records:
        one, every = record["threads"]["one"], record["threads"]["all"]
        rows.append(
            [
                Path(record["model"]).name,
                f"{record['bytes'] / 1e6:.2f}",
                *(f"{threads[key]:.2f}" for key in ("ms_per_segment", "ms_per_minute") for threads in (one, every)),
                f"{one['load_ms']:.1f}",
                f"{one['peak_mb']:.0f}",
                f"{one['segment_ratio']:.2f}",
            ]
        )
    return table(rows, _COLUMNS, right=range(1, len(_COLUMNS)), style="github")


Ask = Callable[[str], dict[str, float]]


def take_turns(asks: Sequence[Ask], task: str, rounds: int) -> list[list[float]]:
    """Seconds, [model][round]; one round before them warms up, and the order turns by one every round."""
    seconds: list[list[float]] = [[] for _ in asks]
    for number in range(-1, rounds):
        for step in range(len(asks)):
            index = (step + number) % len(asks)
            taken = asks[index](task)["s"]
            if number >= 0:
                seconds[index].append(taken)
    return seconds


@contextmanager
def subject_process(model: Path, threads: int, spec: InputSpec) -> Iterator[tuple[Ask, float]]:
    """A process that has loaded `model`: a function that asks it, and its load time in seconds. Raises BenchError."""
    command = [sys.executable, "-m", "student_clap.export.bench.subject"]
    with children_ignore_interrupts():
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
        answer: dict[str, Any] = parse_json(line)
        if "error" in answer:
            raise BenchError(str(answer["error"]))
        return answer

    with process:
        try:
            loaded = send(
                {
                    "model": str(model),
                    "threads": threads,
                    "recipe": spec.recipe.as_attributes(),
                    "input": spec.layout,
                }
            )
            yield lambda task: send({"do": task}), loaded["load_s"]
        finally:
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _ms(seconds: Sequence[float]) -> float:
    return round(median(seconds) * 1000, 3)


def ratio(seconds: Sequence[float], first: Sequence[float]) -> float:
    """The median over the rounds of a model's time to the first model's in the same round."""
    return round(median(a / b for a, b in zip(seconds, first, strict=True)), 3)
