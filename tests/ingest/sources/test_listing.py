"""`list_tracks` of every server: pages, repetitions, and lists that break off."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from student_clap.export.demo.dialects import KINDS, make_dialect
from student_clap.export.demo.dialects.base import json_reply
from student_clap.export.demo.mediaserver import running_media_server
from student_clap.ingest.http.errors import SourceError

all_servers = pytest.mark.parametrize("kind", KINDS)


def library(servers: Any, kind: str, n_tracks: int) -> dict[str, Any]:
    dialect = make_dialect(kind)
    return dict.fromkeys([dialect.track_id(i) for i in range(n_tracks)], servers.files["a1"])


def listed(source: Any) -> list[str]:
    return [track.track_id for page in source.list_tracks() for track in page]


@all_servers
@pytest.mark.parametrize("n_tracks", [0, 1, 1200])
def test_every_track_is_listed_once_with_its_path(servers: Any, kind: str, n_tracks: int) -> None:
    files = library(servers, kind, n_tracks)
    paths = {track_id: f"/music/Ö {i}.flac" for i, track_id in enumerate(files)}
    with running_media_server(files, kind=kind, paths=paths) as media, servers.open(media) as source:
        pages = list(source.list_tracks())
        assert {t.track_id: t.path for page in pages for t in page} == paths
        assert sum(len(page) for page in pages) == n_tracks
        assert max((len(page) for page in pages), default=0) <= 500


def always_the_first_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cache does that ignores the query, or a server that ignores the offset."""
    import student_clap.export.demo.dialects

    for name in ("jellyfin", "subsonic", "lyrion"):
        module = getattr(student_clap.export.demo.dialects, name)
        monkeypatch.setattr(module, "page", lambda library, _, length: list(library.files)[:length])


@pytest.mark.parametrize("kind", ["jellyfin", "emby", "navidrome", "lyrion"])
def test_a_list_that_does_not_end_is_told(servers: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_media_server(library(servers, kind, 1200), kind=kind) as media, servers.open(media) as source:
        always_the_first_page(monkeypatch)
        with pytest.raises(SourceError, match="does not end: after 500 tracks it begins again"):
            listed(source)
        assert len(media.log) < 6


def test_a_small_library_of_a_server_that_ignores_the_offset_is_no_fault(
    servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = library(servers, "navidrome", 3)
    with running_media_server(files, kind="navidrome") as media, servers.open(media) as source:
        always_the_first_page(monkeypatch)
        assert listed(source) == list(files)


@all_servers
def test_a_list_that_breaks_off_says_how_far_it_came(servers: Any, kind: str) -> None:
    with running_media_server(library(servers, kind, 2400), kind=kind) as media, servers.open(media) as source:
        pages = source.list_tracks()
        assert len(next(pages)) == 500
        media.fault(media.dialect.listed, "status", status=502)
        with pytest.raises(SourceError, match="broke off after 500 tracks: the server answers 502") as caught:
            list(pages)
        assert "run ingest again" in caught.value.message
        assert media.token not in caught.value.message


@all_servers
def test_a_page_that_fails_once_is_asked_for_again(servers: Any, kind: str) -> None:
    files = library(servers, kind, 1200)
    with running_media_server(files, kind=kind) as media, servers.open(media) as source:
        pages = source.list_tracks()
        first = next(pages)
        media.fault(media.dialect.listed, "status", status=502, times=1)
        assert sorted(t.track_id for page in [first, *pages] for t in page) == sorted(files)


@all_servers
@pytest.mark.parametrize("fault", ["json", "html"])
def test_a_page_of_another_form_is_told(servers: Any, kind: str, fault: Any) -> None:
    with running_media_server(library(servers, kind, 2400), kind=kind) as media, servers.open(media) as source:
        pages = source.list_tracks()
        next(pages)
        media.fault(media.dialect.listed, fault)
        with pytest.raises(SourceError, match=r"broke off after 500 tracks: (the answer is not JSON|the .* is not as)"):
            list(pages)


@all_servers
def test_a_first_page_of_another_form_is_no_empty_library(servers: Any, kind: str) -> None:
    with running_media_server(library(servers, kind, 3), kind=kind) as media, servers.open(media) as source:
        media.fault(media.dialect.listed, "json")
        with pytest.raises(SourceError, match=r"broke off after \d tracks: the .* is not as"):
            listed(source)


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("jellyfin", {"TotalRecordCount": 0}),
        ("jellyfin", {"Items": {}}),
        ("navidrome", {"subsonic-response": {"status": "ok"}}),
        ("lyrion", {"result": {}}),
        ("plex", {"MediaContainer": {}}),
        ("plex", {"MediaContainer": {"size": 3}}),
    ],
)
def test_an_answer_without_its_list_is_no_empty_library(
    servers: Any, kind: str, document: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_media_server(library(servers, kind, 3), kind=kind) as media, servers.open(media) as source:
        monkeypatch.setattr(media.dialect, "answer", lambda *_: json_reply(document))
        with pytest.raises(SourceError, match=r"broke off after 0 tracks: the list of .* is not as"):
            listed(source)


@pytest.mark.parametrize("moved_by", [1, -1])
def test_tracks_that_move_between_pages_are_listed_once_and_missing_ones_are_counted(
    servers: Any, moved_by: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import student_clap.export.demo.dialects

    def page(library: Any, begin: int, length: int) -> list[str]:
        # At the front a track has gone, or has come, since the first page.
        begin += moved_by if begin else 0
        return list(library.files)[begin : begin + length]

    monkeypatch.setattr(student_clap.export.demo.dialects.jellyfin, "page", page)
    caplog.set_level(logging.WARNING, "student_clap")
    files = library(servers, "jellyfin", 1100)
    with running_media_server(files) as media, servers.open(media) as source:
        found = listed(source)
    assert len(found) == len(set(found)) == (1099 if moved_by == 1 else 1100)
    assert set(found) <= set(files)
    assert ("counts 1100 tracks and listed 1099" in caplog.text) == (moved_by == 1)
