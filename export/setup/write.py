"""config.yaml and .env, made of the answers: what is secret stands in .env alone, which others may not read.

Guarantee: either both files are written whole or neither is begun; Ctrl-C waits for the moment that takes. What .env
holds besides stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import click

from student_clap.config.formats.fill_in import filled, without
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.runtime.files import why_not_writable, write_bytes_atomically, write_text_atomically
from student_clap.config.runtime.signals import StopRequest
from student_clap.export.setup.answers import in_env_file, takes_numbers, variable

CONFIG, ENV, ENV_EXAMPLE = "config.yaml", ".env", ".env.example"
_RIGHTS = 0o600  # of .env
_TEMPLATE_SECTIONS = ("database", "jellyfin")  # those of the template that stand for one choice of several


def template(name: str) -> str:
    """The text of a file that `init` writes where nothing is asked."""
    place = {CONFIG: "config.yaml", ENV_EXAMPLE: "env.example"}[name]
    return files("student_clap.config").joinpath("templates", place).read_text(encoding="utf-8")


def write_both(folder: Path, vectors: str, source: str, answers: Mapping[str, str]) -> None:
    """Write config.yaml and .env into `folder`. Raises OSError where the system refuses."""
    env, before = folder / ENV, former_env(folder)
    config, environment = config_text(vectors, source, answers), env_text(before, answers)
    with StopRequest():
        write_bytes_atomically(env, environment.encode(), rights=_RIGHTS)
        write_text_atomically(folder / CONFIG, config)


def former_env(folder: Path) -> str:
    """The text of the .env that is there; to be asked before the questions.

    Raises:
        click.ClickException: it is not UTF-8, or a file cannot be written into the folder.
    """
    env = folder / ENV
    for path in (env, folder / CONFIG):
        if not path.exists() and (fault := why_not_writable(path)):
            raise click.ClickException(fault)
    try:
        return env.read_text(encoding="utf-8") if env.exists() else ""
    except UnicodeDecodeError:
        raise click.ClickException(f"{env} is not UTF-8; save it in that encoding, and nothing is lost") from None


def config_text(vectors: str, source: str, answers: Mapping[str, str]) -> str:
    """The template filled in. Holds no answer that belongs into .env, only the name of its variable."""
    text = template(CONFIG)
    used = {key.partition(".")[0] for key in answers}
    for section in _TEMPLATE_SECTIONS:
        text = text if section in used else without(text, section)
    named = {variable(key) for key in answers}
    text = re.sub(r"^  \w+: \$\{(\w+)\}\n", lambda line: line[0] if line[1] in named else "", text, flags=re.MULTILINE)
    values: dict[str, object] = {"ingest.vectors": vectors, "ingest.source": source}
    for key, answer in answers.items():
        values[key] = f"${{{variable(key)}}}" if in_env_file(key) else _scalar(key, answer)
    return filled(text, values)


def env_text(before: str, answers: Mapping[str, str]) -> str:
    """The lines of .env: those of `before` that set something else, then ours."""
    ours = {variable(key): answer for key, answer in answers.items() if in_env_file(key)}
    kept = [
        line
        for line in before.splitlines()
        if (found := re.match(r"\s*(?:export\s+)?(\w+)\s*=", line)) is None or found[1] not in ours
    ]
    return "".join(f"{line}\n" for line in [*kept, *(f"{name}={_quoted(value)}" for name, value in ours.items())])


def _scalar(key: str, answer: str) -> str:
    """A plain value as YAML has it: a number where the key takes one, else a text, whose ${NAME} is no variable."""
    if takes_numbers(key) and re.fullmatch(r"[0-9]+", answer):
        return answer
    return dump_yaml({"x": answer.replace("${", "$${")}).removeprefix("x: ").strip()


def _quoted(value: str) -> str:
    """A value as python-dotenv reads it back: it takes backslashes, quotes and ${NAME} for more than they are."""
    text = value.replace("\\", "\\\\").replace("'", "\\'").replace("${", "${:-$}{")
    return f"'{text}'"
