"""`ingest --from-database`: AudioMuse-AI's own credentials configure the source, and show nowhere."""

from __future__ import annotations

import json
import logging
import traceback
from contextlib import closing
from typing import Any

import pytest
from pydantic import SecretStr

from student_clap.config.load import masked
from student_clap.config.schema import Config
from student_clap.config.servers import MEDIA_SERVERS
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import Server, create_schema
from student_clap.ingest.credentials import with_stored_credentials
from student_clap.ingest.vectors.connection import DatabaseError
from student_clap.store import State

SECRET = "stored-secret-9c41"
KINDS = tuple(name for name, server in MEDIA_SERVERS.items() if server.remote)
# The least that each has to have.
LEAST = [
    (kind, {key: {"url": "http://nas:80", "user": "u"}.get(key, SECRET) for key in keys})
    for kind in KINDS
    for keys in MEDIA_SERVERS[kind].needed
]


def put(database: Database, creds: Any, kind: str = "jellyfin") -> Config:
    """A database of generation B whose server has these credentials, and a configuration that names it."""
    create_schema(database, "B", servers=(Server("main", "Main", kind, is_default=True),))
    store(database, creds)
    return Config.model_validate({"database": database.section(), "ingest": {"source": "folder"}})


def store(database: Database, creds: Any) -> None:
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE music_servers SET creds = %s::jsonb", (json.dumps(creds),))


def refused(config: Config, server: str | None = None) -> str:
    with pytest.raises(DatabaseError) as caught:
        with_stored_credentials(config, server)
    text = "".join(traceback.format_exception(caught.value))
    error: BaseException | None = caught.value
    while error is not None:
        # What stands behind, even where a traceback would leave it out.
        text += repr(vars(error)) + repr(error.args)
        error = error.__cause__ or error.__context__
    assert SECRET not in text
    return caught.value.message


@pytest.mark.parametrize(
    ("kind", "creds"),
    [
        *LEAST,
        ("jellyfin", {"url": "http://nas:8096/", "user_id": "u", "token": SECRET}),
        ("emby", {"url": "http://nas:8096", "user_id": "", "token": SECRET}),
        ("navidrome", {"url": "http://nas:4533", "user": "u", "password": SECRET, "api_key": None}),
        ("navidrome", {"url": "http://nas:4533", "api_key": SECRET}),
        ("lyrion", {"url": "http://nas:9000"}),
        ("lyrion", {"url": "http://nas:9000", "user": "u", "password": SECRET}),
        ("plex", {"url": "http://nas:32400", "token": SECRET, "user_id": "not Plex's"}),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_every_kind_fills_its_section(
    database: Database, kind: str, creds: dict[str, Any], as_text: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "student_clap")
    before = put(database, json.dumps(creds) if as_text else creds, kind)
    config = with_stored_credentials(before, None)
    assert f"at {creds['url'].rstrip('/')}, as the database says" in caplog.text
    assert SECRET not in caplog.text
    assert config.ingest.source == kind
    section = getattr(config, kind)
    for name in ("url", "user", "user_id"):
        if name in type(section).model_fields:
            assert getattr(section, name) == (creds.get(name) or "").rstrip("/")
    for name in ("token", "password", "api_key"):
        if name in type(section).model_fields:
            value = getattr(section, name)
            assert (value.get_secret_value() if value else None) == creds.get(name)
            assert value is None or isinstance(value, SecretStr)
    assert SECRET not in repr(config) + str(masked(config))
    # Everything else is as it was.
    same = config.model_copy(update={"ingest": before.ingest, kind: getattr(before, kind)})
    assert same == before


@pytest.mark.parametrize(
    ("kind", "creds", "message"),
    [
        ("jellyfin", {"token": SECRET}, "of Main (jellyfin, id main, default) has no url; correct it in AudioMuse-AI"),
        ("jellyfin", {"url": "http://nas", "token": ""}, "has no token"),
        ("plex", {}, "has no url and token"),
        ("navidrome", {"url": "http://nas", "password": SECRET}, "has no api_key, or no user;"),
        ("jellyfin", {"url": "http://nas", "token": [SECRET]}, "token in music_servers.creds of Main"),
        ("jellyfin", {"url": f"nas/{SECRET}", "token": SECRET}, "url must start with http:// or https://"),
        ("jellyfin", {"url": f"http://u:{SECRET}@nas", "token": SECRET}, "url must not carry a user or a password"),
        ("jellyfin", [SECRET], "is not a JSON object"),
        ("jellyfin", f'{{"token": "{SECRET}', "is not a JSON object"),
        ("jellyfin", None, "is not a JSON object"),
        ("spotify", {"url": "http://nas", "token": SECRET}, "of a kind that is not known; expected jellyfin, emby"),
    ],
)
def test_unusable_credentials_are_told_without_their_values(
    database: Database, kind: str, creds: Any, message: str
) -> None:
    assert message in refused(put(database, creds, kind))


def test_generation_a_keeps_none(database: Database) -> None:
    create_schema(database, "A")
    config = Config.model_validate({"database": database.section()})
    assert "keeps no credentials of media servers" in refused(config)


def test_vectors_from_elsewhere_bring_none() -> None:
    assert "ingest.vectors is 'api'" in refused(Config.model_validate({"ingest": {"vectors": "api"}}))


def test_the_server_is_chosen_as_for_the_vectors(database: Database) -> None:
    creds = json.dumps({"url": "http://nas", "token": SECRET})
    servers = (Server("s1", "Attic", creds=creds), Server("s2", "Cellar", "plex", creds=creds))
    create_schema(database, "B", servers=servers)
    config = Config.model_validate({"database": database.section()})
    assert with_stored_credentials(config, "cellar").ingest.source == "plex"
    assert "choose one of the servers with --server" in refused(config)
    assert "knows no server 'Roof'" in refused(config, "Roof")


def test_a_column_that_may_not_be_read_is_told(database: Database) -> None:
    config = put(database, {"url": "http://nas", "token": SECRET})
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("REVOKE ALL ON music_servers FROM audiomuse")
        cursor.execute("GRANT SELECT (server_id, name, server_type, is_default) ON music_servers TO audiomuse")
    assert "GRANT SELECT" in refused(config)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_fetches_with_them(make_world: Any, kind: str) -> None:
    world = make_world(3, generation="B", kind=kind)
    store(world.database, world.media.section())
    # What the configuration says of any server is of no account.
    unusable = {name: "http://127.0.0.1:9" if name == "url" else "unusable" for name in world.media.section()}
    world.settings = {kind: unusable, "ingest": {"source": "folder"}}
    result = world.run("--from-database")
    assert "3 fetched" in result.stdout
    assert {row["state"] for row in world.table().values()} == {State.FETCHED}
    assert f"INFO: audio comes from Main ({kind}, id main, default) at http://127.0.0.1" in result.stderr
    # Never without the option.
    assert "folder.path is not set" in world.run(home=world.home / "without", ok=False).stderr
