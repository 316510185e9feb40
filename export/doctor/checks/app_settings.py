"""AudioMuse-AI's settings against the model that it loads; else against the one that the next `deploy` would put there.

Without a model, against the mel that the configuration asks for. The comparison is that of `deploy` and `check --app`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from student_clap.export.app.app_config import compare, needed_rows
from student_clap.export.app.deployment import choose_name, why_not_a_whole_folder
from student_clap.export.app.installation import App, disagreement, why_another_folder
from student_clap.export.app.live_model import find_live_model
from student_clap.export.doctor.check import Area, Check, Finding, Outcome, failure, passed, refused, warning
from student_clap.export.doctor.subject import Subject
from student_clap.export.model.app_settings import app_mel
from student_clap.featurize.onnx.input_spec import InputSpec, input_spec_of
from student_clap.store import Recipe
from student_clap.train.runs.directory import run_directory
from student_clap.train.runs.reader import RunFolder

_CHANGE = "`student-clap deploy MODEL --write-settings` changes its rows"


def _look(subject: Subject) -> Iterator[Finding]:
    config, folder = subject.config, subject.config.audiomuse.model_dir
    facts = subject.known_database()
    app = facts.app if facts is not None else App(why_not="its database is not known, or gives no answer")
    live: Path | None = None
    if folder is not None:
        if not folder.is_dir():
            yield failure(f"audiomuse.model_dir {folder} is not a folder", "mount it, or correct the path")
            return
        for fault in (why_not_a_whole_folder(folder), why_another_folder(folder, app)):
            if fault:
                yield refused(fault, Outcome.WARNING)
        found = find_live_model(folder, app.rows)
        live = found.path if found is not None else None
        yield (
            passed(f"live: {found}")
            if found is not None
            else warning(
                f"{folder} holds no model that AudioMuse-AI would load", "`student-clap deploy MODEL` puts one there"
            )
        )
    if not config.database.is_named:
        return  # its settings are nothing that can be asked for
    if facts is None or app.rows is None:
        yield _not_known(app)
        return
    recipe, model = Recipe.from_config(config.audio), live or RunFolder(run_directory(config)).student_onnx
    known = model.is_file()
    spec = input_spec_of(model, recipe) if known else InputSpec.of_recipe(recipe, "the configuration")
    if spec.waveform:
        yield passed(f"{model} takes samples, and no CLAP_AUDIO_* setting changes that")
        return
    name = live.name if live is not None else choose_name(folder, None) if folder is not None else ""
    wanted = needed_rows(app_mel(spec), name, app.rows) if name else app_mel(spec)
    differs = disagreement(compare(app.rows, wanted))
    subject_name = str(model) if known else f"a model of this configuration (audio.preset {config.audio.preset})"
    if not differs:
        yield passed(f"fit {subject_name}")
    elif live is not None:
        yield failure(f"do not fit {subject_name}, which is live: {differs}", _CHANGE)
    else:
        yield warning(f"do not fit {subject_name}: {differs}", _CHANGE)


def _not_known(app: App) -> Finding:
    if app.is_v08:
        return warning(
            f"{app.where} is that of AudioMuse-AI v0.8, which has no settings of the mel: its vectors can be read, and"
            " no student of another mel runs in it",
            "update it before `student-clap deploy`",
        )
    if not app.has_table:
        return passed(f"{app.where} has no table app_config, as before v1.0.0: its environment is all that it goes by")
    return warning(f"not known: {app.why_not}", "`student-clap check MODEL --app` compares them")


CHECK = Check("app settings", Area.APP, _look)
