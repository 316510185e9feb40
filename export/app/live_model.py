"""The model that AudioMuse-AI loads from its folder, as far as it can be seen from here. Reads only.

Cost: reads the model's graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from student_clap.export.app.deployment import choose_name
from student_clap.export.model.app_settings import MODEL_PATH
from student_clap.export.model.metadata import plain_metadata
from student_clap.featurize.onnx.graph import Declaration, read_graph


@dataclass(frozen=True)
class LiveModel:
    """A model in the app's folder."""

    path: Path
    about: Mapping[str, str]  # our metadata, keys without their prefix; {} for a file of another maker

    def __str__(self) -> str:
        if not self.about:
            return f"{self.path}, which student-clap has not made"
        run, epoch = self.about.get("run_name", "?"), self.about.get("epoch", "?")
        return f"{self.path}, run {run}, epoch {epoch}"


def find_live_model(directory: Path, rows: Mapping[str, str] | None) -> LiveModel | None:
    """The model that the app loads; None where the folder has none of that name.

    Args:
        directory: the app's model folder.
        rows: of app_config, which may name the model; None: not known.

    Raises:
        ModelError: the file is not an ONNX model.
    """
    named = PureWindowsPath((rows or {}).get(MODEL_PATH, "")).name
    path = directory / (named or choose_name(directory, None))
    if not path.is_file():
        return None
    return LiveModel(path, plain_metadata(Declaration.of_model(read_graph(path)).metadata))
