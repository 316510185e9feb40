"""The drop-in contract: what an ONNX file must satisfy to take the audio model's place in AudioMuse-AI.

Each clause is one fact about the file (`file_checks`), about what it answers (`run_checks`) or about the app's settings
(`app_settings`), with a reason, so that a failure can be read without this code. Two demands cannot be seen in a file
and are no clauses: that the vectors live in the text tower's space (evaluate judges that), and that a library is
analysed again after the model was exchanged.
Guarantee: a file that is not well-formed, or uses an operator that is not allowed, is never loaded or run.
Cost: loads the file twice (onnx, onnxruntime) and runs it about six times.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from student_clap.export.model.app_settings import APP_CHECKS
from student_clap.export.model.clauses import Clause
from student_clap.export.model.file_checks import FILE_CHECKS, ModelFile
from student_clap.export.model.run_checks import clauses_without_running, mel_inputs, run_clauses, waveform_inputs
from student_clap.export.model.session import ModelError
from student_clap.featurize.onnx.graph import Declaration, read_graph
from student_clap.featurize.onnx.input_spec import InputSpec, Shape, takes_waveform

APP_SHAPE = Shape()  # AudioMuse-AI's own setting
# A model that takes a waveform cannot meet these; AudioMuse-AI feeds a mel.
MEL_CLAUSES = frozenset({"input-name", "input-type", "static-batch"})


def check_contract(
    path: Path, shape: Shape = APP_SHAPE, segments_db: npt.NDArray[np.float32] | None = None
) -> list[Clause]:
    """Check the file against every clause that does not speak of the app's settings.

    Args:
        path: the ONNX file.
        shape: the mel that the app will feed; the default is AudioMuse-AI's own setting.
        segments_db: [segment, mel, frame] dB real music to try besides the synthetic inputs; None: synthetic only.

    Returns:
        Every clause, in a fixed order, passed or not. A clause that cannot be tried because the file does not load, or
        is not safe to run, is not passed, and says so.
    """
    try:
        file = _open(path, shape)
    except ModelError as error:
        return [*FILE_CHECKS.none(error.message), *clauses_without_running(error.message)]
    clauses = FILE_CHECKS.all(file)
    if unsafe := _unsafe(clauses):
        return [*clauses, *clauses_without_running(f"not run, because of the clause {unsafe[0].name!r}")]
    inputs = waveform_inputs() if takes_waveform(file.declaration) else mel_inputs(shape, segments_db)
    return [*clauses, *run_clauses(path, dict(inputs))]


def judge(model: Path, spec: InputSpec, segments_db: npt.NDArray[np.float32] | None = None) -> list[Clause]:
    """Every clause of the drop-in contract for `model` with the input `spec`; see `check_contract`."""
    return [*check_contract(model, spec.shape, segments_db), *APP_CHECKS.all(spec)]


def failures(clauses: list[Clause]) -> list[str]:
    """One line per clause that is not met."""
    return [f"{c.name}: {c.reason} (expected: {c.demand})" for c in clauses if not c.passed]


def refuse_unsafe(model: Path) -> None:
    """Raises ModelError for a file that must not be run: not well-formed, or with an operator that is not allowed."""
    file = _open(model, APP_SHAPE)
    if unsafe := _unsafe([check.clause(check.look(file)) for check in FILE_CHECKS if check.guards_running]):
        raise ModelError(f"{model} is not run: {failures(unsafe)[0]}")


def _open(path: Path, shape: Shape) -> ModelFile:
    model = read_graph(path)
    return ModelFile(path, model, shape, Declaration.of_model(model))


def _unsafe(clauses: list[Clause]) -> list[Clause]:
    """Those that are not met and keep the model from being run."""
    guards = {check.name for check in FILE_CHECKS if check.guards_running}
    return [clause for clause in clauses if clause.name in guards and not clause.passed]
