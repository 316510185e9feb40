"""How AudioMuse-AI is set to feed a model: the CLAP_AUDIO_* variables, and whether they can ask for its mel at all.

Source of names and defaults: AudioMuse-AI, config.py (CLAP_AUDIO_*).
"""

from __future__ import annotations

from student_clap.config.presets import SEGMENT_SAMPLES
from student_clap.export.model.clauses import Checks, Finding, fault, met
from student_clap.featurize.onnx.input_spec import InputSpec

DEFAULT_NAME = "model_epoch_36.onnx"  # what CLAP_AUDIO_MODEL_PATH names when it is not set
MODEL_FOLDER = "/app/model"  # in the container
MODEL_PATH = "CLAP_AUDIO_MODEL_PATH"
# The app's defaults, in its own order.
APP_DEFAULTS = {
    "CLAP_AUDIO_N_MELS": "128",
    "CLAP_AUDIO_N_FFT": "2048",
    "CLAP_AUDIO_HOP_LENGTH": "480",
    "CLAP_AUDIO_FMIN": "0",
    "CLAP_AUDIO_FMAX": "14000",
    "CLAP_AUDIO_MEL_TRANSPOSE": "false",
    MODEL_PATH: f"{MODEL_FOLDER}/{DEFAULT_NAME}",
}
APP_CHECKS: Checks[InputSpec] = Checks()


def app_mel(spec: InputSpec) -> dict[str, str]:
    """The values that the model needs of the six CLAP_AUDIO_* variables of the mel, in the app's order."""
    wanted = {
        "N_MELS": str(spec.recipe.n_mels),
        "N_FFT": str(spec.recipe.n_fft),
        "HOP_LENGTH": str(spec.recipe.hop_samples),
        "FMIN": f"{spec.recipe.fmin_hz:.10g}",
        "FMAX": f"{spec.recipe.fmax_hz:.10g}",
        "MEL_TRANSPOSE": str(spec.shape.transposed).lower(),
    }
    return {f"CLAP_AUDIO_{key}": value for key, value in wanted.items()}


def app_variables(spec: InputSpec) -> dict[str, str]:
    """The CLAP_AUDIO_* variables whose default is another mel than the model's, in the app's order."""
    return {key: value for key, value in app_mel(spec).items() if value != APP_DEFAULTS[key]}


@APP_CHECKS.add("app-mel", "a mel that the CLAP_AUDIO_* variables can ask for")
def _app_mel(spec: InputSpec) -> Finding:
    """The app knows whole hertz and 10 s segments only."""
    if spec.waveform:
        return fault("it takes a waveform and makes its own mel; the app feeds one")
    faults = [
        f"{name} is {value:g} Hz, and the app takes whole numbers"
        for name, value in (("fmin", spec.recipe.fmin_hz), ("fmax", spec.recipe.fmax_hz))
        if value != int(value)
    ]
    if spec.recipe.segment_samples != SEGMENT_SAMPLES:
        faults.append(f"segments of {spec.recipe.segment_samples} samples; the app cuts {SEGMENT_SAMPLES}")
    if faults:
        return fault("; ".join(faults))
    settings = " ".join(f"{key}={value}" for key, value in app_variables(spec).items()) or "the app's defaults"
    return met(f"{settings} (from {spec.source})")
