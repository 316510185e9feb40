"""The answers to the questions: settings by their keys, each checked by the section that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr, ValidationError

from student_clap.config.schema import Config, Section, Text
from student_clap.config.section import allowed_types
from student_clap.config.servers import MEDIA_SERVERS, MediaServer

# What the first generation of .env.example called them; any other key is called after its section and itself.
_VARIABLES = {
    "database.host": "DB_HOST",
    "database.database": "DB_NAME",
    "database.user": "DB_USER",
    "database.password": "DB_PASSWORD",
}


def section_of(key: str) -> type[Section]:
    """The section that a key such as ``jellyfin.url`` belongs to."""
    model = Config.model_fields[key.partition(".")[0]].annotation
    if not (isinstance(model, type) and issubclass(model, Section)):
        raise TypeError(f"{key} is not the key of a section")
    return model


def is_secret(key: str) -> bool:
    """Whether the answer must not be shown, and does not belong into config.yaml."""
    return SecretStr in allowed_types(section_of(key).model_fields[key.partition(".")[2]].annotation)


def is_path(key: str) -> bool:
    """Whether the answer is a file or a folder of this machine."""
    return Path in allowed_types(section_of(key).model_fields[key.partition(".")[2]].annotation)


def takes_numbers(key: str) -> bool:
    """Whether the answer is a whole number."""
    return int in allowed_types(section_of(key).model_fields[key.partition(".")[2]].annotation)


def hint(key: str) -> str:
    """What is asked for: the key's first sentence in docs/config.md."""
    text = section_of(key).model_fields[key.partition(".")[2]].description or key
    return " ".join(text.replace("`", "").split()).partition(". ")[0].rstrip(".")


def default(key: str) -> Any:
    """The value that the key has where nothing is answered; None where it has none."""
    value = section_of(key).model_fields[key.partition(".")[2]].default
    return value if value not in ("", None) else None


def checked(key: str, answer: str) -> str:
    """`answer`, if the key may have it. Raises ValueError with what is wrong; it does not carry the answer."""
    try:
        section_of(key).model_validate({key.partition(".")[2]: Text(answer)})
    except ValidationError as error:
        fault = error.errors(include_input=False, include_context=False, include_url=False)[0]
        raise ValueError(fault["msg"].removeprefix("Value error, ")) from None
    return answer


def server_keys(server: MediaServer) -> tuple[str, ...]:
    """The keys that are asked for: all of the server's section."""
    return tuple(f"{server.section}.{name}" for name in server.model.model_fields)


def missing_keys(server: MediaServer, answers: dict[str, str]) -> str:
    """Which further answers the server needs, in words; "" where nothing is missing."""
    missing = [[key for key in keys if not answers.get(f"{server.section}.{key}")] for keys in server.needed]
    return "" if not all(missing) else ", or ".join(" and ".join(keys) for keys in missing)


def database_answers(url: str) -> dict[str, str]:
    """The answers in a URL such as ``postgresql://user:password@host:5432/audiomusedb``.

    Raises:
        ValueError: it is not such a URL; the message does not carry it.
    """
    try:
        parts = urlsplit(url)
        found = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}
    except ValueError:
        raise ValueError("the URL's host or port cannot be read") from None
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname:
        raise ValueError("expected a host, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    if parts.query:
        raise ValueError(
            "what stands behind the URL's ? has no setting; leave it out, and set libpq's own variables (PGSSLMODE)"
        )
    found["database"] = parts.path.strip("/") or None
    return {f"database.{name}": unquote(str(value)) for name, value in found.items() if value is not None}


def teacher_file(path: Path) -> Path:
    """The ONNX that `path` is, or that lies alone in that folder. Raises ValueError with what was found."""
    if not path.is_dir():
        return path
    models = sorted(path.glob("*.onnx"))
    audio = [model for model in models if "text" not in model.name] if len(models) > 1 else models
    if len(audio) != 1:
        found = ", ".join(model.name for model in models) or "none"
        raise ValueError(f"{path} has to hold one ONNX of audio, and holds {found}; name the file")
    return audio[0]


def configuration(vectors: str, source: str, answers: dict[str, str]) -> Config:
    """The configuration that the answers make, as the stages will read it. Raises ValueError."""
    tree: dict[str, dict[str, Any]] = {"ingest": {"vectors": vectors, "source": source}}
    for key, answer in answers.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = Text(answer)
    return Config.model_validate(tree)


def variable(key: str) -> str:
    """The variable of .env that holds a key's value."""
    return _VARIABLES.get(key, key.replace(".", "_").upper())


def in_env_file(key: str) -> bool:
    """Whether the answer goes into .env: secrets, and what belongs to an account; not paths and numbers."""
    section = key.partition(".")[0]
    account = key in _VARIABLES or (section in {s.section for s in MEDIA_SERVERS.values() if s.remote})
    return is_secret(key) or account or key == "audiomuse.url"
