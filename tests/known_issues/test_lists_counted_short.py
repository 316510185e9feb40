"""A server that counts too few tracks, 0 or those of one page: the pages are believed, not the count."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import pytest

from student_clap.export.demo.dialects import KINDS, make_dialect
from student_clap.export.demo.mediaserver import running_media_server

N_TRACKS = 1200
_MODULES = {"emby": "jellyfin", "navidrome": "subsonic"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counted", [0, 1, 500, 600, None])
def test_every_track_is_listed(
    servers: Any, kind: str, counted: int | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    module = importlib.import_module(f"student_clap.ingest.sources.{_MODULES.get(kind, kind)}")
    if hasattr(module, "number"):
        monkeypatch.setattr(module, "number", lambda _: counted)
    dialect = make_dialect(kind)
    files = dict.fromkeys([dialect.track_id(i) for i in range(N_TRACKS)], servers.files["a1"])
    with running_media_server(files, kind=kind) as media, servers.open(media) as source:
        assert sorted(t.track_id for page in source.list_tracks() for t in page) == sorted(files)
    assert not caplog.records


@pytest.mark.parametrize("cap", [100, 499])
@pytest.mark.parametrize("counted", [0, "page"])
def test_pages_shorter_than_asked_for_are_not_the_end(
    servers: Any, cap: int, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from student_clap.ingest.sources import jellyfin

    count = cap if counted == "page" else counted
    monkeypatch.setattr(jellyfin, "number", lambda _: count)
    import student_clap.export.demo.dialects.jellyfin as dialect

    page = dialect.page
    monkeypatch.setattr(dialect, "page", lambda library, begin, length: page(library, begin, min(length, cap)))
    files = {f"{i:032x}": servers.files["a1"] for i in range(N_TRACKS)}
    with running_media_server(files) as media, servers.open(media) as source:
        assert [t.track_id for page in source.list_tracks() for t in page] == list(files)


def test_a_server_that_refuses_what_lies_behind_the_end_has_ended(servers: Any) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        pages = source.list_tracks()
        assert len(next(pages)) == 1
        media.fault(f"/Users/{media.user_id}/Items", "status", status=400)
        media.fault("/Items", "status", status=400)
        assert list(pages) == []
