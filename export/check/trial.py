"""The trial of one model, in a process of its own: `python -m student_clap.export.check.trial`.

Reads one `Request` and answers with one object a line as it goes: {"clause": {...}}, {"provider":
{...}}, {"line": "..."}, and at the end {"error": "..."} or {"done": true}. It ends when its parent closes the pipe.

Guarantee: nothing but answers goes to stdout. Cost: see `export.model.contract`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from typing import Any, TextIO

import click
import numpy as np
import numpy.typing as npt

from student_clap.config.runtime.packages import why_missing
from student_clap.config.runtime.system_errors import in_words
from student_clap.export.check.providers import try_providers, wanted_providers
from student_clap.export.check.request import Request
from student_clap.export.model.contract import judge
from student_clap.export.model.embedding import Embedder
from student_clap.export.model.run_checks import RUN_LIMIT_S, mel_inputs, waveform_inputs
from student_clap.export.model.session import StudentSession
from student_clap.export.model.similarity import audio_samples, compare_to, time_segment_ms
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec_of
from student_clap.featurize.onnx.segments import decibel_segments

_TRIED_SEGMENTS = 4  # of the audio file, for the contract
Array = npt.NDArray[np.float32]


_answers: TextIO = sys.stdout  # `main` keeps the pipe for answers alone


def say(**message: Any) -> None:
    """Send one answer."""
    print(json.dumps(message), file=_answers, flush=True)


def try_model(request: Request) -> None:
    """Say every clause, and what of the rest was asked for.

    Raises:
        click.ClickException: a file is missing or not what it should be, or a provider is not offered.
    """
    model, providers = request.model, wanted_providers(request.providers)
    spec = input_spec_of(model, request.configured)
    samples = None if request.audio is None else audio_samples(request.audio, spec.recipe)
    tried = None if samples is None or spec.waveform else decibel_segments(samples, spec.recipe)[:_TRIED_SEGMENTS]
    clauses = judge(model, spec, tried)
    for clause in clauses:
        say(clause=asdict(clause))
    # A model that gives no vectors has failed these.
    if {"loads", "output"} & {clause.name for clause in clauses if not clause.passed}:
        return
    if providers:
        inputs = dict(waveform_inputs() if spec.waveform else mel_inputs(spec.shape, tried))
        for answered in try_providers(model, providers, inputs, limit_s=RUN_LIMIT_S):
            say(provider=asdict(answered))
    if samples is not None:
        _take_audio(request, spec, samples)


def _take_audio(request: Request, spec: InputSpec, samples: Array) -> None:
    embedder = Embedder(StudentSession(request.model), spec)
    answer = embedder.embed_samples(samples)
    say(
        line=f"audio: {request.audio}: {len(answer.segments)} segments, vector of norm {answer.norm:.6f}, "
        f"{time_segment_ms(embedder, samples):.2f} ms per segment (median, one thread)"
    )
    if request.reference is not None:
        compared = compare_to(request.reference, samples, request.configured, answer)
        say(line=f"reference: {request.reference}: {compared}")


def _end_with_parent() -> None:
    """Read to the end of stdin, which comes when the parent is gone."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Try the model that stdin names."""
    global _answers  # noqa: PLW0603  the one pipe of this process
    _answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an execution provider's library prints goes where errors go
    request = Request.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        try_model(request)
    except click.ClickException as error:
        say(error=error.message)
    except ModuleNotFoundError as error:
        if not (fault := why_missing(error)):
            raise
        say(error=fault)
    except OSError as error:
        say(error=in_words(error))
    else:
        say(done=True)


if __name__ == "__main__":
    main()
