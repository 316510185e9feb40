"""Vectors from AudioMuse-AI's GET /api/sync, over real HTTP, into a real store."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loopback.audiomuse_api import AudioMuseApi, running_audiomuse_api
from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.config.schema import AudioMuseConfig, Config, IngestConfig
from student_clap.export.demo.schema import (
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.ingest.rows.catalogue import Catalogue
from student_clap.ingest.vectors.api import PAGE_TRACKS, ApiError, ApiVectors, open_vectors
from student_clap.ingest.vectors.base import SourceTrack
from student_clap.ingest.vectors.database import open_database
from student_clap.store import FeatureStore, State

SERVERS = (Server("s1", "Attic", is_default=True), Server("s2", "Cellar", "navidrome"))


def library(n_tracks: int, **more: Any) -> list[LoopbackTrack]:
    return [
        LoopbackTrack(f"{i:04}", f"Title {i}", "Artist", "Album", vector_bytes(unit_vector(i)), **more)
        for i in range(n_tracks)
    ]


@pytest.fixture
def make_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as stack:
        yield lambda tracks, **options: stack.enter_context(running_audiomuse_api(tracks, **options))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore.open_or_create(str(tmp_path / "store.zarr"), "teacher") as opened:
        yield opened


def config_of(api: AudioMuseApi, *, source: str = "jellyfin", **section: Any) -> Config:
    ingest = IngestConfig.model_validate(
        {"vectors": "api", "source": source, "retries": 2, "backoff_s": 0.01, "timeout_s": 20.0}
    )
    return Config(ingest=ingest, audiomuse=AudioMuseConfig.model_validate(api.section() | section))


def read(api: AudioMuseApi, store: FeatureStore, server: str | None = None, batch: int = 2048) -> list[SourceTrack]:
    with open_vectors(config_of(api), server) as vectors:
        vectors.count()
        batches = list(vectors.tracks(store, batch))
    assert all(0 < len(b) <= batch for b in batches)
    return [t for b in batches for t in b]


def take(api: AudioMuseApi, store: FeatureStore) -> tuple[Catalogue, ApiVectors]:
    """As the stage does."""
    with open_vectors(config_of(api), None) as vectors:
        vectors.count()
        catalogue = Catalogue(store, vectors.server.server_id)
        for batch in vectors.tracks(store, 64):
            catalogue.take(batch)
        if vectors.complete():
            catalogue.finish()
    return catalogue, vectors


def states(store: FeatureStore) -> dict[str, State]:
    return {t: State(s) for t, s in zip(store.strings("track_id"), store.states(), strict=True)}


def test_every_track_comes_page_by_page(make_api: Any, store: FeatureStore) -> None:
    tracks = library(1203)
    tracks[7] = dataclasses.replace(tracks[7], title="", vector=None)
    api = make_api(tracks)
    found = read(api, store, batch=512)
    assert found[0] == SourceTrack("0000", "0000", "Title 0", "Artist", "Album", "", tracks[0].vector)
    assert [(t.track_id, t.embedding) for t in found] == [(t.track_id, t.vector) for t in tracks]
    assert (found[7].title, found[7].embedding) == ("", None)
    # The page that was counted on is not asked for again.
    assert api.pages() == [1, 2, 3]
    sync = [r for r in api.log if r.path == "/api/sync"]
    assert {r.query["limit"] for r in sync} == {str(PAGE_TRACKS)}
    assert {r.headers["authorization"] for r in api.log} == {f"Bearer {api.token}"}


@pytest.mark.parametrize("batch", [1, 7, 500, 501])
def test_batches_are_as_long_as_asked(make_api: Any, store: FeatureStore, batch: int) -> None:
    api = make_api(library(23), max_limit=10)
    assert [t.track_id for t in read(api, store, batch=batch)] == [f"{i:04}" for i in range(23)]
    assert api.pages() == [1, 2, 3]


@pytest.mark.parametrize("generation", ["A", "B"])
def test_identities_are_those_of_the_database(
    make_api: Any, store: FeatureStore, database: Any, generation: Any
) -> None:
    tracks = [*library(5), LoopbackTrack("old", vector=vector_bytes(unit_vector(9)), legacy=True)]
    tracks = [dataclasses.replace(t, server_id="s1") for t in tracks]
    create_schema(database, generation, servers=SERVERS)
    insert_tracks(database, generation, tracks)
    config = Config.model_validate({"database": database.section()})
    with open_database(config.database) as opened:
        server = opened.choose_server(None, "jellyfin")
        rows = [t for b in opened.tracks(server, 100) for t in b]
    api = make_api(tracks, servers=SERVERS if generation == "B" else ())
    with open_vectors(config_of(api), None) as vectors:
        vectors.count()
        assert vectors.server.server_id == server.server_id
        found = [t for b in vectors.tracks(store, 100) for t in b]
    assert {(t.track_id, t.title, bytes(t.embedding or b"")) for t in found} == {
        (t.track_id, t.title, bytes(t.embedding or b"")) for t in rows
    }
    if generation == "A":
        assert {t.item_id for t in found} == {t.item_id for t in rows}


def test_a_server_is_chosen_by_name_or_id(make_api: Any, store: FeatureStore) -> None:
    tracks = [*library(3, server_id="s1"), LoopbackTrack("n", vector=vector_bytes(unit_vector(9)), server_id="s2")]
    api = make_api(tracks, servers=SERVERS)
    assert [t.track_id for t in read(api, store, "attic")] == [t.track_id for t in read(api, store, "s1")]
    with open_vectors(config_of(api, source="navidrome"), "Cellar") as vectors:
        assert vectors.count() == 1
        assert vectors.server.server_id == "s2"
        assert [t.track_id for b in vectors.tracks(store, 9) for t in b] == ["n"]
    assert api.log[-1].query["server"] == "s2"


def refused(api: AudioMuseApi, server: str | None = None, source: str = "jellyfin", **section: Any) -> str:
    with (
        pytest.raises(ApiError) as caught,
        open_vectors(config_of(api, source=source, **section), server) as vectors,
    ):
        vectors.count()
    return caught.value.message


def test_a_server_that_is_not_there_lists_those_that_are(make_api: Any) -> None:
    api = make_api(library(1), servers=SERVERS)
    message = refused(api, "Roof")
    assert "knows no server 'Roof'" in message
    assert "Attic (jellyfin, id s1, default)" in message
    assert "Cellar (navidrome, id s2)" in message
    assert "nowhere" not in message  # of the credentials beside the names
    assert "is not a jellyfin server" in refused(api, "Cellar")
    api.servers = ()
    assert "names no servers" in refused(api, "Attic")


def test_the_kind_of_the_one_server_is_checked(make_api: Any) -> None:
    api = make_api(library(1), provider_type="lyrion")
    assert "is not a jellyfin server" in refused(api)
    with open_vectors(config_of(api, source="folder"), None) as vectors:
        assert vectors.count() == 1
    with open_vectors(config_of(api, source="lyrion"), None) as vectors:
        assert vectors.count() == 1
        assert str(vectors.server) == "default (lyrion)"


def test_a_server_that_goes_away_after_the_list_is_told(make_api: Any) -> None:
    api = make_api(library(1), servers=SERVERS)
    api.fault("/api/sync", "status", status=400)
    assert "refuses the server Attic (jellyfin, id s1, default) (400)" in refused(api)


def test_wrong_and_missing_tokens_are_told(make_api: Any) -> None:
    api = make_api(library(1))
    for section in ({"token": "wrong-token-4411"}, {"token": ""}):
        message = refused(api, **section)
        assert "refuses the token (401 Unauthorized)" in message
        assert "AUDIOMUSE_TOKEN" in message
        assert "4411" not in message
    assert "no header can carry" in refused(api, token="abc\ndef")
    assert "audiomuse.url is not set" in refused(api, url="")
    api.fault("/api/servers", "status", status=403)
    assert "(403 Forbidden)" in refused(api)


def test_without_authentication_no_token_is_needed(make_api: Any, store: FeatureStore) -> None:
    api = make_api(library(2), token=None)
    assert len(read(api, store)) == 2
    assert "authorization" not in api.log[0].headers


@pytest.mark.parametrize("fault", ["html", "redirect"])
def test_a_login_page_is_told(make_api: Any, fault: Any) -> None:
    api = make_api(library(1))
    api.fault("/api/sync", fault)
    assert "such as a login page; set audiomuse.token" in refused(api)


def test_a_stranger_is_told(make_api: Any) -> None:
    api = make_api(library(1))
    for path in ("/api/servers", "/api/sync"):
        api.fault(path, "json")
        assert f"answers {path}, but not as AudioMuse-AI does" in refused(api)


def test_an_old_audiomuse_is_told(make_api: Any) -> None:
    assert "since v2.1.3" in refused(make_api(library(1), has_sync=False))


def test_clap_that_is_off_is_told(make_api: Any, store: FeatureStore) -> None:
    api = make_api(library(1), clap_enabled=False)
    with pytest.raises(ApiError, match="CLAP_ENABLED=true"):
        read(api, store)


def test_an_empty_library_is_told(make_api: Any) -> None:
    assert "has no analysed tracks of" in refused(make_api([]))


def test_a_closed_port_is_told(make_api: Any) -> None:
    api = make_api([])
    with socket.socket() as silent:  # bound, but nobody listens
        silent.bind(("127.0.0.1", 0))
        message = refused(api, url=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "connection refused" in message
    assert "run ingest again" in message


def test_what_passes_is_tried_again(make_api: Any, store: FeatureStore) -> None:
    api = make_api(library(25), max_limit=10)
    api.fault("page 1", "status", times=2)
    api.fault("page 2", "truncated", times=2)
    api.fault("page 3", "status", status=500, times=2)
    assert len(read(api, store)) == 25
    assert api.pages() == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_server_that_stays_away_ends_the_run_and_the_next_one_completes(make_api: Any, store: FeatureStore) -> None:
    api = make_api(library(200), max_limit=100)
    api.fault("page 2", "status", times=3)
    with pytest.raises(
        ApiError, match=r"answers 503 Service Unavailable \(tried 3 times\); the tracks that came are in the store"
    ):
        take(api, store)
    assert store.n_tracks == 64  # whole batches of what came
    take(api, store)
    assert set(states(store).values()) == {State.LISTED}
    assert store.n_tracks == 200


def test_a_vector_that_is_no_base64_is_one_failed_row(
    make_api: Any, store: FeatureStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api(library(2))
    payload = AudioMuseApi.payload

    def damaged(self: AudioMuseApi, track: LoopbackTrack, query: dict[str, str]) -> dict[str, Any]:
        return payload(self, track, query) | ({"clap_embedding": "no base64!"} if track.track_id == "0001" else {})

    monkeypatch.setattr(AudioMuseApi, "payload", damaged)
    take(api, store)
    assert states(store) == {"0000": State.LISTED, "0001": State.FAILED}
    assert "track 0001: clap_embedding is not base64" in caplog.text


# --- the library changes while it is read


def at_page(api: AudioMuseApi, number: int, change: Any) -> None:
    def before_page(page: int) -> None:
        if page == number:
            api.before_page = None
            change()

    api.before_page = before_page


def test_what_leaves_the_source_is_gone_and_what_is_there_is_not(make_api: Any, store: FeatureStore) -> None:
    api = make_api(library(30), max_limit=10)
    take(api, store)
    del api.tracks[17]
    catalogue, vectors = take(api, store)
    assert vectors.complete()
    assert catalogue.counts.gone == 1
    assert [t for t, s in states(store).items() if s == State.GONE] == ["0017"]
    # Only what did not come is asked for by its id.
    assert [r.query["ids"] for r in api.log if "ids" in r.query] == ["0017"]


def test_tracks_that_come_twice_are_taken_once(make_api: Any, store: FeatureStore) -> None:
    api = make_api(library(30), max_limit=10)
    at_page(api, 2, lambda: api.tracks.insert(0, LoopbackTrack("!new", vector=vector_bytes(unit_vector(99)))))
    found = [t.track_id for t in read(api, store)]
    assert found == [f"{i:04}" for i in range(30)]


def test_a_track_that_slips_between_two_pages_is_not_gone(make_api: Any, store: FeatureStore) -> None:
    api = make_api(library(30), max_limit=10)
    take(api, store)
    # 0010 moves to page 1, which has been read. One came for the one that left, so the count alone would not show it.
    at_page(api, 2, lambda: (api.tracks.pop(3), api.tracks.append(LoopbackTrack("9999", vector=api.tracks[0].vector))))
    catalogue, vectors = take(api, store)
    assert catalogue.counts.gone == 0
    assert not vectors.complete()
    assert states(store)["0010"] == State.LISTED
    assert [r.query["ids"] for r in api.log if "ids" in r.query] == ["0010"]
    catalogue, vectors = take(api, store)
    assert vectors.complete()
    assert [t for t, s in states(store).items() if s == State.GONE] == ["0003"]


def test_nothing_is_gone_where_the_count_does_not_agree(
    make_api: Any, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api(library(30), max_limit=10)
    take(api, store)
    answer = AudioMuseApi.answer

    def short(self: AudioMuseApi, request: Any) -> tuple[int, Any]:
        status, document = answer(self, request)
        if "tracks" in document:
            document["tracks"] = [t for t in document["tracks"] if t["id"] != "0005"]
        return status, document

    monkeypatch.setattr(AudioMuseApi, "answer", short)
    catalogue, vectors = take(api, store)
    assert not vectors.complete()
    assert catalogue.counts.gone == 0


def test_nothing_is_gone_where_the_server_cannot_be_asked_by_id(make_api: Any, store: FeatureStore) -> None:
    api = make_api(library(30), max_limit=10, knows_ids=False)
    take(api, store)
    api.tracks = api.tracks[:20]
    catalogue, vectors = take(api, store)
    assert not vectors.complete()
    assert catalogue.counts.gone == 0


def test_ids_that_no_question_can_carry_are_not_taken_for_gone(make_api: Any, store: FeatureStore) -> None:
    api = make_api([*library(3), LoopbackTrack("a,b", vector=vector_bytes(unit_vector(9)))])
    take(api, store)
    api.tracks.pop()
    catalogue, vectors = take(api, store)
    assert not vectors.complete()
    assert catalogue.counts.gone == 0


def test_many_that_did_not_come_are_asked_for_in_short_addresses(make_api: Any, store: FeatureStore) -> None:
    api = make_api([dataclasses.replace(t, track_id=t.track_id * 8) for t in library(300)])
    take(api, store)
    api.tracks = api.tracks[:10]
    catalogue, vectors = take(api, store)
    assert vectors.complete()
    assert catalogue.counts.gone == 290
    asked = [r.query["ids"] for r in api.log if "ids" in r.query]
    assert len(asked) == 5
    assert max(map(len, asked)) < 2100


def test_pages_that_repeat_are_an_error(make_api: Any, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    api = make_api(library(30), max_limit=10)
    first_page = AudioMuseApi.sync
    monkeypatch.setattr(AudioMuseApi, "sync", lambda self, _: first_page(self, {"page": "1"}))
    with pytest.raises(ApiError, match="brought nothing new"):
        read(api, store)


def test_the_command_takes_vectors_from_the_interface_and_audio_from_the_server(make_world: Any, make_api: Any) -> None:
    world = make_world(6, generation="B")
    servers = (Server("main", "Main", is_default=True),)
    with_database = world.run(home=world.home / "database")
    api = make_api(world.tracks, servers=servers)
    result = world.run(ingest={"vectors": "api"}, audiomuse=api.section())
    assert result.stdout == with_database.stdout
    table, expected = world.table(), world.table(world.home / "database")
    assert {k: row["teacher"] for k, row in table.items()} == {k: row["teacher"] for k, row in expected.items()}
    assert world.files() == world.files(world.home / "database")
    again = world.run(ingest={"vectors": "api"}, audiomuse=api.section())
    assert "(0 new, 0 updated, 0 gone), 0 fetched, 6 already there" in again.stdout


def test_a_token_that_env_does_not_have_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIOMUSE_TOKEN", raising=False)
    path = tmp_path / "config.yaml"
    tree = {
        "ingest": {"vectors": "api", "source": "folder"},
        "audiomuse": {"url": "http://127.0.0.1:9", "token": "${AUDIOMUSE_TOKEN}"},
    }
    path.write_text(dump_yaml(tree), encoding="utf-8")
    result = CliRunner().invoke(main, ["ingest", "--config", str(path)])
    assert result.exit_code == 1
    assert "audiomuse.token: the variable AUDIOMUSE_TOKEN is not set" in result.stderr
