"""The questions of `student-clap init`, asked on stderr, each with what can be said of the answer at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click

from student_clap.config.runtime.screen import echo, warn
from student_clap.config.servers import MEDIA_SERVERS
from student_clap.export.setup.answers import (
    checked,
    configuration,
    database_answers,
    default,
    hint,
    is_path,
    is_secret,
    missing_keys,
    server_keys,
    teacher_file,
)
from student_clap.ingest.vectors.open import KINDS

_WHOSE = "teacher.name"  # no source of vectors says which model made them


@dataclass
class Answered:
    """What the user said."""

    vectors: str = "database"
    source: str = "jellyfin"
    settings: dict[str, str] = field(default_factory=dict)  # key -> its value as text; unanswered keys are left out


def ask() -> Answered:
    """Ask until each part has been tried, or the user goes on without. Raises click.Abort where the input ends."""
    answered = Answered()
    likely = None
    echo("Where are the teacher's vectors, one per track?", err=True)
    while True:
        answered.vectors = _choice({name: kind.about for name, kind in KINDS.items()}, answered.vectors)
        settings = _settings(KINDS[answered.vectors].asks, answered.settings)
        said, likely = _tried(partial(_vectors, answered, settings))
        answered.settings = settings
        if said:
            break
    answered.settings |= _settings((_WHOSE,), answered.settings)
    echo("\nWhere is the audio?", err=True)
    answered.source = likely or answered.source
    of_vectors = answered.settings
    known: dict[str, str] = {}
    while True:
        answered.source = _choice(dict.fromkeys(MEDIA_SERVERS, ""), answered.source)
        server = MEDIA_SERVERS[answered.source]
        known = _settings(server_keys(server), known)
        if missing := missing_keys(server, known):
            warn(f"{answered.source} cannot be asked without {missing}")
            if click.confirm("Answer that again?", default=True, err=True):
                continue
            break
        if _tried(partial(_audio, answered, {**of_vectors, **known}))[0]:
            break
    answered.settings = {**of_vectors, **known}
    return answered


def _vectors(answered: Answered, settings: dict[str, str]) -> tuple[str, str | None]:
    from student_clap.export.setup.trial import try_vectors

    # Whose tracks they are is what the trial finds: a folder takes those of every kind of server.
    return try_vectors(configuration(answered.vectors, "folder", settings))


def _audio(answered: Answered, settings: dict[str, str]) -> tuple[str, None]:
    from student_clap.export.setup.trial import try_audio

    return try_audio(configuration(answered.vectors, answered.source, settings)), None


def _tried(trial: Callable[[], tuple[str, str | None]]) -> tuple[bool, str | None]:
    """(whether to go on, what the trial found for the next question)."""
    echo("trying ...", err=True)
    try:
        found, more = trial()
    except (click.ClickException, OSError, ValueError) as error:
        warn(error.message if isinstance(error, click.ClickException) else error)
        return not click.confirm("Answer that again? (no: go on with it as it is)", default=True, err=True), None
    echo(f"works: {found}", err=True)
    return True, more


def _choice(offered: dict[str, str], before: str) -> str:
    for number, (name, about) in enumerate(offered.items(), 1):
        echo(f"  {number}  {name}{f': {about}' if about else ''}", err=True)
    names = list(offered)

    def chosen(answer: str) -> str:
        if answer in names:
            return answer
        if answer.isdecimal() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]
        raise click.UsageError(f"answer with a number from 1 to {len(names)}, or a name")

    choice: str = click.prompt("Number or name", default=before, value_proc=chosen, err=True)
    return choice


def _settings(keys: Iterable[str], before: dict[str, str]) -> dict[str, str]:
    """An answer per key; `before` are those of the last time, which an empty answer keeps."""
    settings: dict[str, str] = {}
    for key in keys:
        if key in settings:  # a URL has said it
            continue
        answer = _answer(key, before.get(key))
        if key == "database.host" and "://" in answer:
            settings.update(database_answers(answer))
        elif answer:
            settings[key] = answer
    return settings


def _answer(key: str, before: str | None) -> str:
    def said(answer: str) -> str:
        try:
            return _valid(key, answer)
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    secret, known = is_secret(key), before or default(key)
    text = hint(key) + ("; a postgresql:// URL says all at once" if key == "database.host" else "")
    answer: str = click.prompt(
        f"{key} ({text}{'; it is not shown' if secret else ''})",
        default="" if known is None else str(known),
        show_default=known is not None and not secret,
        hide_input=secret,
        value_proc=said,
        err=True,
    )
    return answer


def _valid(key: str, answer: str) -> str:
    """`answer` as it is kept. Raises ValueError with what is wrong."""
    answer = answer.strip() if not is_secret(key) else answer
    if not answer:
        return ""
    if key == "database.host" and "://" in answer:
        for name, value in database_answers(answer).items():
            checked(name, value)
        return answer
    if is_path(key):  # the stages may run in another folder than this one
        path = Path(answer).expanduser().absolute()
        answer = str(teacher_file(path) if key == "teacher.model" else path)
    return checked(key, answer)
