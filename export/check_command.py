"""`student-clap check`: a model against the drop-in contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from student_clap.config.options import config_options, json_option
from student_clap.config.runtime.screen import echo, echo_json, warn
from student_clap.config.schema import Config
from student_clap.export.options import FILE, with_database

if TYPE_CHECKING:
    from student_clap.store import Recipe


@click.command()
@config_options(file_optional=True)
@click.argument("model", type=FILE)
@click.option("--audio", type=FILE, help="Take this file through the production path too.")
@click.option("--reference", type=FILE, help="With --audio: the checkpoint (.pt) or another ONNX file to compare with.")
@click.option("--app", "with_app", is_flag=True, help="Compare with AudioMuse-AI's settings in its database too.")
@click.option(
    "--provider",
    "providers",
    multiple=True,
    metavar="NAME|all",
    help="Load it on this execution provider of onnxruntime (cpu, cuda, ...) too; may be repeated.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1, 1_000_000),
    default=600,  # a teacher with ten minutes of audio on a slow machine
    show_default=True,
    metavar="SECONDS",
    help="End a model that is not through by then.",
)
@json_option
def check(
    config: Config,
    model: Path,
    audio: Path | None,
    reference: Path | None,
    *,
    with_app: bool,
    providers: tuple[str, ...],
    timeout_s: int,
    as_json: bool,
) -> None:
    """Hold MODEL, any ONNX file, against the drop-in contract, clause by clause.

    The exit code is 1 when a clause fails, MODEL is not what a SHA256SUMS beside it says, it answers otherwise on a
    provider, or AudioMuse-AI is set for another mel. A file with an operator that is not allowed is not run.
    """
    from student_clap.export.check.limited import messages
    from student_clap.export.check.request import Request
    from student_clap.store import Recipe

    if reference is not None and audio is None:
        raise click.UsageError("--reference compares vectors of one audio file; name it with --audio")
    config = with_database() if with_app else config
    configured = Recipe.from_config(config.audio)
    lines: list[str] = []
    clauses: list[dict[str, Any]] = []
    answered: list[dict[str, Any]] = []
    for message in messages(Request(model, configured, audio, reference, providers), timeout_s):
        if "clause" in message:
            clauses.append(message["clause"])
            echo(_line(message["clause"]))
        elif "provider" in message:
            answered.append(message["provider"])
            echo(_provider_line(message["provider"], asked=message["provider"]["provider"] in providers))
        else:
            lines.append(message["line"])
            echo(message["line"])
    unchanged = _check_sums(model)
    failed = [clause["name"] for clause in clauses if not clause["passed"]]
    differs, remedy = _compare_with_app(config, model, configured) if with_app else ("", "")
    # One that was not asked for by name, and cannot be started here, says nothing against the model.
    faults = [a["provider"] for a in answered if not a["passed"] and (a["started"] or a["provider"] in providers)]
    if as_json:
        passed = unchanged and not failed and not faults and not differs
        about = {"model": model, "passed": passed, "clauses": clauses, "providers": answered, "remarks": lines}
        echo_json({**about, "sums_unchanged": unchanged, "app_differs": differs})
    if failed:
        raise click.ClickException(
            f"{model} fails {len(failed)} of {len(clauses)} clauses of the drop-in contract: {', '.join(failed)}"
        )
    if not unchanged:
        raise click.ClickException(f"{model} is not the file that SHA256SUMS beside it names: copy or export it again")
    if faults:
        raise click.ClickException(f"{model} does not work on {', '.join(faults)}; AudioMuse-AI would have to use cpu")
    if differs:
        raise click.ClickException(f"AudioMuse-AI is not set for {model}: {differs}; {remedy}")
    alike = ", ".join(a["provider"] for a in answered if a["passed"])
    echo(
        f"check: {model} meets all {len(clauses)} clauses of the drop-in contract"
        + (f", and answers as on the CPU on: {alike}" if alike else "")
    )


def _check_sums(model: Path) -> bool:
    """Print what a SHA256SUMS beside the model says of it; False where it names another file."""
    from student_clap.export.card.companions import card_of
    from student_clap.export.card.space import SPACE
    from student_clap.export.card.sums import SUMS, is_unchanged

    same = is_unchanged(model)
    if same is not None:
        echo(
            f"checksum: as {SUMS} beside it says" if same else f"FAIL  {'checksum':<14} not what {SUMS} beside it says"
        )
    for companion in (card_of(model), model.with_name(SPACE)):
        if companion.is_file() and is_unchanged(companion) is False:
            warn(f"{companion} is not what {SUMS} says; it was changed after export wrote it")
    return same is not False


def _compare_with_app(config: Config, model: Path, configured: Recipe) -> tuple[str, str]:
    """Print the app's settings next to the model's; what differs, "" where nothing does, and the remedy."""
    from student_clap.export.app.app_config import compare
    from student_clap.export.app.installation import disagreement, look_at_app, settings_table, why_not_in_v08
    from student_clap.export.model.app_settings import APP_DEFAULTS, MODEL_PATH, app_mel
    from student_clap.featurize.onnx.input_spec import input_spec_of

    spec = input_spec_of(model, configured)
    if spec.waveform:
        return "", ""
    app = look_at_app(config, required=True)
    if fault := why_not_in_v08(app, spec):
        return fault, "update AudioMuse-AI first"
    if app.rows is None:
        echo(
            f"app: the database {app.where} has no table app_config, as before v1.0.0; AudioMuse-AI goes by its"
            " environment, which cannot be seen from here"
        )
        return "", ""
    settings = compare(app.rows, app_mel(spec))
    echo(f"app: settings in the database {app.where}, against {spec.source}:")
    echo(settings_table(settings))
    path = app.rows.get(MODEL_PATH)
    echo(f"app: it loads {path or f'what {MODEL_PATH} names in its environment, else {APP_DEFAULTS[MODEL_PATH]}'}")
    return disagreement(settings), "`student-clap deploy --write-settings` changes its settings"


def _line(clause: dict[str, Any]) -> str:
    if clause["passed"]:
        return f"pass  {clause['name']:<14} {clause['reason']}"
    return f"FAIL  {clause['name']:<14} {clause['reason']} (expected: {clause['demand']})"


def _provider_line(answered: dict[str, Any], *, asked: bool) -> str:
    verdict = "pass" if answered["passed"] else "FAIL" if answered["started"] or asked else "none"
    return f"{verdict}  {'on ' + answered['provider']:<14} {answered['reason']}"
