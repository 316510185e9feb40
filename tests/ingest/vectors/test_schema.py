"""The rows that belong to the default server: one rule, whatever reads the tables."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from student_clap.config.schema import DatabaseConfig
from student_clap.export.app.clap_table import open_clap_table
from student_clap.export.demo.postgres import Database, PostgresServer
from student_clap.export.demo.schema import (
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.ingest.vectors.base import MusicServer, default_server_id
from student_clap.ingest.vectors.database import open_database

VECTOR = vector_bytes(unit_vector(0))
IDS = st.sampled_from(["one", "two", "three", "fp_4one"])


@dataclass(frozen=True)
class Mapping:
    """A row of `track_server_map`."""

    item_id: str
    server_id: str
    track_id: str


MAPPINGS = st.lists(
    st.builds(Mapping, IDS, st.sampled_from(["s1", "s2"]), IDS | st.just("other")),
    max_size=4,
    unique_by=lambda m: (m.server_id, m.track_id),  # the table's primary key
)


def expected_ids(items: set[str], mappings: list[Mapping], server_id: str, default: str) -> set[tuple[str, str]]:
    """The rule in plain Python: (item id, track id) of a server's tracks, of every mapping."""
    mine = {(m.item_id, m.track_id) for m in mappings if m.server_id == server_id}
    if server_id != default:
        return mine
    taken = {i for pair in mine for i in pair}
    return mine | {(i, i) for i in items if not i.startswith("fp_") and i not in taken}


@pytest.mark.parametrize("default", ["s1", "", "unnamed"])
@given(items=st.sets(IDS, min_size=1), mappings=MAPPINGS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_reader_of_the_database_follows_the_rule(
    postgres_server: PostgresServer, default: str, items: set[str], mappings: list[Mapping]
) -> None:
    servers = [] if default == "unnamed" else [Server(s, s, is_default=s == default) for s in ("s1", "s2")]
    mappings = [m for m in mappings if m.item_id in items and servers]
    database = postgres_server.create_database()
    try:
        create_schema(database, "B", servers=servers)
        fill(database, items, mappings)
        config = DatabaseConfig(**database.section() | {"password": SecretStr(database.password)})
        with open_database(config) as opened, open_clap_table(config) as table:
            names = [s.server_id for s in opened.servers] or ["default"]
            wanted = default_server_id(opened.servers)
            assert wanted == ("default" if default == "unnamed" else default)
            for name in names:
                pairs = expected_ids(items, mappings, name, wanted)
                server = opened.choose_server(name if servers else None, "folder")
                read = [t for batch in opened.tracks(server, 10) for t in batch]
                # Of several mappings of an item the surest is used.
                assert {t.item_id for t in read} == {item_id for item_id, _ in pairs}
                assert {(t.item_id, t.track_id) for t in read} <= pairs
                items_of = table.items(name if servers else None, "folder")
                assert {(i.item_id, track_id) for i in items_of for _, track_id in i.tracks} == pairs
    finally:
        postgres_server.drop_database(database)


def fill(database: Database, items: set[str], mappings: list[Mapping]) -> None:
    insert_tracks(database, "B", [LoopbackTrack(i, vector=VECTOR, item_id=i, mapped=False) for i in sorted(items)])
    for m in mappings:
        track = LoopbackTrack(m.track_id, vector=VECTOR, item_id=m.item_id, server_id=m.server_id)
        insert_tracks(database, "B", [track])


def test_rows_without_a_server_belong_to_the_default_one() -> None:
    servers = [
        MusicServer("s1", "Attic", "jellyfin", is_default=False),
        MusicServer("s2", "Cellar", "", is_default=True),
    ]
    assert default_server_id(servers) == "s2"
    assert default_server_id(servers[:1]) == ""
    assert default_server_id([]) == "default"
