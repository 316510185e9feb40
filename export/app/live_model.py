"""The model that AudioMuse-AI loads from its folder, as far as it can be seen from here. Reads only.

Cost: reads the model's graph; to compare it with another file, the bytes of both where they are equally many.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from student_clap.config.runtime.files import sha256_of
from student_clap.config.runtime.system_errors import in_words
from student_clap.config.schema import Config
from student_clap.export.app.deployment import choose_name
from student_clap.export.app.installation import look_at_app, why_not_in_v08
from student_clap.export.model.app_settings import MODEL_PATH
from student_clap.export.model.metadata import plain_metadata
from student_clap.featurize.onnx.graph import Declaration, ModelError, model_files, read_graph
from student_clap.featurize.onnx.input_spec import InputSpec


@dataclass(frozen=True)
class LiveModel:
    """A model in the app's folder."""

    path: Path
    about: Mapping[str, str]  # our metadata, keys without their prefix; {} for a file of another maker

    def is_model(self, other: Path) -> bool:
        """Whether `other` is the same model, its external data included; False where one of them cannot be read."""
        try:
            # Two files of the same bytes call their external data alike.
            pairs = list(zip(model_files(self.path), model_files(other), strict=True))
            same_size = all(ours.stat().st_size == theirs.stat().st_size for ours, theirs in pairs)
            return same_size and all(sha256_of(ours) == sha256_of(theirs) for ours, theirs in pairs)
        except (ModelError, OSError, ValueError):
            return False

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


def why_another_is_live(config: Config, model: Path, spec: InputSpec) -> str:
    """Why what the app analyses from now on gets other vectors than `model`'s, and the remedy.

    Args:
        config: may name the app's model folder, and its database.
        model: whose vectors the library gets.
        spec: what it takes.

    Returns:
        A sentence or two; "" where the app loads that model, or neither folder nor database is named.
    """
    app, folder = look_at_app(config, required=False), config.audiomuse.model_dir
    if fault := why_not_in_v08(app, spec):
        return f"{fault}. Update AudioMuse-AI"
    if folder is None:
        return ""
    try:
        live = find_live_model(folder, app.rows)
    except (ModelError, OSError) as error:
        return f"which one it loads is not known: {in_words(error) if isinstance(error, OSError) else error.message}"
    if live is not None and live.is_model(model):
        return ""
    found = f"{folder} holds no model that it would load" if live is None else f"it loads {live}, and not {model}"
    return f"{found}. `student-clap deploy {shlex.quote(str(model))}` lets it analyse with this one"
