"""Models with other interfaces, and their vectors by librosa and onnxruntime alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import soundfile
from onnx import TensorProto, helper, numpy_helper


def transposed_teacher(path: Path) -> Path:
    """A model with the LAION teacher's interface: [batch, 1, time, 64], everything but the last axis open."""
    rng = np.random.default_rng(3)
    weights = [numpy_helper.from_array(rng.normal(size=(64, 512)).astype(np.float32), "w")]
    nodes = [
        helper.make_node("ReduceMean", ["mel_spectrogram"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], ["audio_embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("mel_spectrogram", TensorProto.FLOAT, ("batch", 1, "time", 64))],
        [helper.make_tensor_value_info("audio_embedding", TensorProto.FLOAT, ("batch", 512))],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def onnx_session(model: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])


def production_samples(audio: Path) -> npt.NDArray[np.float32]:
    """[480000] at 48 kHz, for a file of at most ten seconds; librosa alone."""
    import librosa

    native, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    samples = librosa.resample(librosa.to_mono(native.T), orig_sr=rate, target_sr=48_000, res_type="soxr_hq")
    samples = (np.clip(samples, -1, 1) * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
    return np.pad(samples, (0, 480_000 - len(samples)))


def transposed_vector(audio: Path, teacher: Path) -> npt.NDArray[np.float32]:
    """librosa and onnxruntime alone, for a file of at most ten seconds."""
    import librosa

    samples = production_samples(audio)
    power = librosa.feature.melspectrogram(
        y=samples, sr=48_000, n_fft=1024, hop_length=480, n_mels=64, fmin=50, fmax=14_000, pad_mode="reflect"
    )
    mel = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).astype(np.float32)
    # [mel, frame] -> [1, 1, frame, mel]
    vector: npt.NDArray[np.float32] = onnx_session(teacher).run(None, {"mel_spectrogram": mel.T[None, None]})[0][0]
    return vector
