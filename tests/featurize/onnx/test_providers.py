"""Execution providers by short names, as onnxruntime offers them."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from loopback.mel_teachers import write_mel_teacher
from student_clap.featurize.onnx import providers
from student_clap.featurize.onnx.graph import ModelError
from student_clap.featurize.onnx.session import OnnxSession


def offer(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have onnxruntime say that it offers these, as its package for a GPU does wherever it is installed."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [f"{n}ExecutionProvider" for n in names])


def test_the_cpu_is_always_there_and_the_cloud_is_none() -> None:
    assert "cpu" in providers.available()
    assert "azure" not in providers.available()
    assert providers.chosen("cpu") == ("cpu",)
    assert providers.chosen("auto")[-1] == "cpu"


def test_auto_takes_a_gpu_first_and_never_one_that_compiles_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "Tensorrt", "CUDA", "Azure", "CPU")
    assert providers.available() == ("tensorrt", "cuda", "cpu")
    assert providers.chosen("auto") == ("cuda", "cpu")
    assert providers.chosen("tensorrt") == ("tensorrt",)
    assert providers.for_session("tensorrt") == ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(ModelError, match=r"teacher\.provider coreml: .* offers cpu, cuda, tensorrt; choose one of"):
        providers.chosen("coreml")


def test_a_provider_that_onnxruntime_cannot_start_is_an_error_and_not_a_slow_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mel_teacher(tmp_path / "m.onnx", "clap")
    offer(monkeypatch, "CUDA", "CPU")
    with pytest.raises(ModelError, match=r"m\.onnx"), pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        OnnxSession(path, provider="cuda")
