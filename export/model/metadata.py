"""The metadata of a student's ONNX file (`metadata_props`, under a prefix of our own) and of files made with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from student_clap.config.formats.onnx_metadata import CHECKPOINT_KEY
from student_clap.config.runtime.files import sha256_of
from student_clap.export.model.trained_verdict import VERDICT, verdict_entry
from student_clap.featurize.onnx.recipe import METADATA_PREFIX

if TYPE_CHECKING:
    import onnx

    from student_clap.featurize.onnx.input_spec import InputSpec
    from student_clap.store import Recipe
    from student_clap.train.runs.checkpoint import CheckpointInfo

VALIDATION = "val_"  # of the metrics in a run's record
BATCH_KEY = METADATA_PREFIX + "batch"  # how many segments a run takes, where it is not one
ANY_BATCH = "any"
INPUT_KEY = METADATA_PREFIX + "hears"  # the input of a run, where it is not a mel
WAVEFORM = "waveform"
LAYOUT_KEY = METADATA_PREFIX + "layout"  # of the mel, where it is not [mel, frame]
CLAP_LAYOUT = "clap"  # [frame, mel]
REFIT_KEY = METADATA_PREFIX + "refit_head"  # JSON: how the head was fitted again, and the figures
QUANTISATION_KEY = METADATA_PREFIX + "quantization"  # JSON: what was done, and the figures
LICENCE_KEY = METADATA_PREFIX + "licence"  # as its maker named it
LIBRARY_FACTS_KEY = METADATA_PREFIX + "library_facts"  # there is one where they were left out
LEFT_OUT = "left out"
# Entries that tell of the library and of the machine's folders: whose store, and names that the user gave.
_OF_THE_LIBRARY = ("store_uuid", "run_name", "checkpoint")
_OF_THE_MODEL = ("int8_nodes", "float_bytes")  # whole numbers that count neither tracks nor segments


@dataclass(frozen=True)
class Terms:
    """On which terms a file leaves the house."""

    licence: str = ""  # an identifier, as its maker named it; "": none was named
    library_facts: bool = True  # it may tell of the library: which store, which run, how many tracks
    weights: bool = False  # it carries the student's checkpoint, so that others may train on from it

    def entries(self) -> dict[str, str]:
        """Of the file's metadata."""
        told = {LICENCE_KEY: self.licence} if self.licence else {}
        return told if self.library_facts else {**told, LIBRARY_FACTS_KEY: LEFT_OUT}

    @classmethod
    def of_file(cls, metadata: Mapping[str, str]) -> Terms:
        """Those that a file's metadata, keys with their prefix, holds."""
        told = metadata.get(LIBRARY_FACTS_KEY) != LEFT_OUT
        return cls(metadata.get(LICENCE_KEY, ""), told, CHECKPOINT_KEY in metadata)

    def without_counts(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """`record` without its whole numbers, tracks and segments of the library, where these terms leave them out."""
        if self.library_facts:
            return dict(record)
        kept = {key: value for key, value in record.items() if type(value) is not int or key in _OF_THE_MODEL}
        return {k: self.without_counts(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


ANY_TERMS = Terms()


def metadata_of(
    info: CheckpointInfo,
    n_parameters: int,
    checkpoint: str,
    epoch: Mapping[str, Any] | None = None,
    refit: Mapping[str, Any] | None = None,
    terms: Terms = ANY_TERMS,
) -> dict[str, str]:
    """The file's metadata, keys with their prefix.

    Args:
        info: what the checkpoint says of itself.
        n_parameters: of the student.
        checkpoint: the checkpoint's file name.
        epoch: the run's record of `info.epoch`, whose validation metrics are kept; None: there is none.
        refit: how the head was fitted again; None: it was not.
        terms: what of it may be told.
    """
    validation = {
        key.removeprefix(VALIDATION): round(value, 6)
        for key, value in sorted((epoch or {}).items())
        if key.startswith(VALIDATION) and isinstance(value, float) and math.isfinite(value)
    }
    known = {
        "teacher_name": info.teacher_name,
        "store_uuid": info.store_uuid,
        "run_name": info.run_name,
        "epoch": str(info.epoch),
        "checkpoint": checkpoint,
        "validation_cosine": f"{info.val_cosine:.6f}" if math.isfinite(info.val_cosine) else "",
        "validation_metrics": json.dumps(validation) if validation else "",
        VERDICT: verdict_entry(validation),
        "architecture": info.model.architecture,
        "model": info.model.model_dump_json(exclude={"pretrained"}),
    }
    if not terms.library_facts:
        known = {key: value for key, value in known.items() if key not in _OF_THE_LIBRARY}
    told = {} if refit is None else {REFIT_KEY: json.dumps(terms.without_counts(refit), sort_keys=True)}
    own = {METADATA_PREFIX + key: value for key, value in known.items()}
    return recipe_metadata(info.recipe, n_parameters) | own | told | terms.entries()


def recipe_metadata(recipe: Recipe, n_parameters: int) -> dict[str, str]:
    """What the file of any model says, keys with their prefix: the features it was made for, and its parameters."""
    known = {
        "recipe": json.dumps(recipe.as_attributes(), sort_keys=True),
        "recipe_fingerprint": recipe.fingerprint,
        "recipe_name": recipe.name,
        "parameters": str(n_parameters),
        "package_version": version("student-clap"),
    }
    return {METADATA_PREFIX + key: value for key, value in known.items()}


def set_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Replace the model's metadata; keys come with their prefix."""
    del model.metadata_props[:]
    for key, value in entries.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value


def get_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The model's metadata, keys with their prefix."""
    return {entry.key: entry.value for entry in model.metadata_props}


def plain_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Our entries but for a checkpoint, keys without their prefix; {} for a file of another maker."""
    own = {k: v for k, v in metadata.items() if k.startswith(METADATA_PREFIX) and k != CHECKPOINT_KEY}
    return {k.removeprefix(METADATA_PREFIX): v for k, v in own.items()}


def vectors_metadata(model: Path, own: Mapping[str, str], spec: InputSpec) -> dict[str, str]:
    """The metadata of a file of vectors: the model that they were made with.

    Args:
        model: the ONNX file.
        own: its metadata; all of it is kept but for a checkpoint.
        spec: the input that it was given.
    """
    added = {
        "recipe": json.dumps(spec.recipe.as_attributes(), sort_keys=True),
        "recipe_from": spec.source,
        "model_file": model.name,
        "model_sha256": sha256_of(model),
        "embedded_by": f"student-clap {version('student-clap')}",
    }
    kept = {key: value for key, value in own.items() if key != CHECKPOINT_KEY}
    return {**kept, **{METADATA_PREFIX + key: value for key, value in added.items()}}
