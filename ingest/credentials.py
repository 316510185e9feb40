"""`--from-database`: the media server's address and credentials as AudioMuse-AI v3 keeps them, for this run alone.

`music_servers.creds` of the chosen server takes the place of `ingest.source` and of that source's section.

Guarantee: the values go into SecretStr at once. None of them is in a log, in the text of an exception, in an exception
behind it, or in a file.
"""

from __future__ import annotations

import logging
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from student_clap.config.formats.json_text import parse_json
from student_clap.config.schema import Config, Section
from student_clap.config.servers import MEDIA_SERVERS, MediaServer
from student_clap.ingest.vectors.base import MusicServer
from student_clap.ingest.vectors.connection import DatabaseError
from student_clap.ingest.vectors.database import open_database

logger = logging.getLogger(__name__)

# Sources that a database can keep credentials for.
_SERVERS = {name: server for name, server in MEDIA_SERVERS.items() if server.remote}


def with_stored_credentials(config: Config, server_name: str | None) -> Config:
    """`config` with the source that the database's chosen server describes.

    Args:
        config: names the database.
        server_name: name or id of the server; None takes ingest.server or the default.

    Raises:
        DatabaseError: it cannot be read, keeps no credentials, or keeps unusable ones. Carries none of them.
    """
    if config.ingest.vectors != "database":
        raise DatabaseError(
            "--from-database takes credentials from the database that the vectors come from, and ingest.vectors is"
            f" {config.ingest.vectors!r}; leave the option away, or set ingest.vectors to database"
        )
    with open_database(config.database) as database:
        # Any kind of server will do: its kind is what ingest.source becomes.
        server = database.choose_server(server_name or config.ingest.server, "folder")
        stored = database.stored_credentials(server)
    kind = server.server_type
    if kind not in _SERVERS:
        raise DatabaseError(f"--from-database: {server} is of a kind that is not known; expected {', '.join(_SERVERS)}")
    source = _SERVERS[kind]
    section = _section(source, server, _parsed(stored))
    url = urlsplit(getattr(section, "url", ""))
    address = f"{url.scheme}://{url.netloc}"  # no credentials: the section refuses an `@`
    logger.info("audio comes from %s at %s, as the database says", server, address)
    ingest = config.ingest.model_copy(update={"source": kind})
    return config.model_copy(update={"ingest": ingest, source.section: section})


def _parsed(stored: str | None) -> Any:
    """The JSON value; None if it is not JSON. Some versions keep an object, some a text that holds one."""
    value: Any = stored
    for _ in range(2):
        if isinstance(value, str):
            try:
                value = parse_json(value)
            except ValueError:
                # Not raised from here: the error would carry the text.
                return None
    return value


def _section(source: MediaServer, server: MusicServer, values: Any) -> Section:
    instead = f"correct it in AudioMuse-AI's set-up, or leave --from-database away and set {source.section}.* yourself"
    if not isinstance(values, dict):
        raise DatabaseError(f"--from-database: music_servers.creds of {server} is not a JSON object; {instead}")
    model = source.model
    known = {name: values[name] for name in model.model_fields if values.get(name) not in (None, "")}
    if strange := [name for name, value in known.items() if not isinstance(value, str)]:
        raise DatabaseError(
            f"--from-database: {' and '.join(strange)} in music_servers.creds of {server} is not a text; {instead}"
        )
    missing = [[name for name in names if name not in known] for names in source.needed]
    if all(missing):
        lacking = ", or no ".join(" and ".join(names) for names in missing)
        raise DatabaseError(f"--from-database: music_servers.creds of {server} has no {lacking}; {instead}")
    section, faults = _validated(
        model, {name: SecretStr(value) if _is_secret(model, name) else value for name, value in known.items()}
    )
    if section is None:
        raise DatabaseError(f"--from-database: music_servers.creds of {server}: {'; '.join(faults)}; {instead}")
    return section


def _is_secret(model: type[Section], name: str) -> bool:
    return SecretStr in get_args(model.model_fields[name].annotation)  # SecretStr | None


def _validated(model: type[Section], values: dict[str, Any]) -> tuple[Section | None, list[str]]:
    """The section, or the faults of its keys without their values."""
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        faults = error.errors(include_input=False, include_context=False, include_url=False)
        return None, [
            f"{'.'.join(map(str, f['loc']))} {f['msg'].removeprefix('Value error, ').lower()}" for f in faults
        ]
