"""Answers that no rule foresees: the track's own failure with its type and place, never the run's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from student_clap.export.demo.mediaserver import running_media_server
from student_clap.ingest.http.body import whole_number
from student_clap.ingest.http.client import HttpClient
from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.sources.jellyfin import JellyfinSource
from student_clap.ingest.sources.subsonic import SubsonicError, parse_error
from student_clap.store import State

DEEP = b'{"a":' * 100_000
DIGITS = "9" * 5000
LOCATIONS = {
    "an empty host": "http:///x",
    "an empty label": "http://.example/x",
    "a long label": f"http://{'a' * 70}.example/x",
    "an open bracket": "http://[::1/x",
    "no port": "http://127.0.0.1:port/x",
    "a port too high": "http://127.0.0.1:99999/x",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOCATIONS)
def test_a_redirect_to_something_odd_is_one_track_s_failure(make_world: Any, name: str) -> None:
    world = make_world(3)
    odd = world.tracks[1].track_id
    world.media.fault(odd, "redirect", headers={"Location": LOCATIONS[name]})
    for _ in range(2):
        result = world.run()
        assert "Traceback" not in result.output
        states = {t: row["state"] for (_, t), row in world.table().items()}
        assert [s for t, s in states.items() if t != odd] == [State.FETCHED] * 2
        assert states[odd] in (State.FAILED, State.LISTED)
        assert world.row(odd)["error"]


@pytest.mark.slow
def test_an_exception_of_the_program_is_one_track_s_failure(make_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(3)
    odd = world.tracks[0].track_id
    addresses = JellyfinSource.addresses

    def broken(self: JellyfinSource, track_id: str) -> Any:
        if track_id == odd:
            raise KeyError("secret")
        return addresses(self, track_id)

    with monkeypatch.context() as patch:
        patch.setattr(JellyfinSource, "addresses", broken)
        assert "2 fetched" in world.run().stdout
    assert world.row(odd)["state"] == State.LISTED
    assert world.row(odd)["error"].startswith("unexpected KeyError (server.py:")
    assert "secret" not in world.row(odd)["error"]
    assert "1 fetched" in world.run().stdout


def test_a_length_of_5000_digits_is_no_length(servers: Any) -> None:
    with running_media_server(servers.files) as media, servers.open(media) as source:
        media.fault("a1", "headers", headers={"Content-Length": DIGITS})
        with pytest.raises(FetchError, match="neither a Content-Length nor chunks"):
            source.fetch(servers.wanted())
    assert whole_number(DIGITS) is None


def test_a_wrong_path_of_certificates_is_named(servers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with running_media_server(servers.files) as media:
        url = media.url.replace("http:", "https:")
        with servers.open(media, url=url) as source, pytest.raises(SourceError, match=r"REQUESTS_CA_BUNDLE .* correct"):
            source.check()


def test_json_without_a_bottom_is_not_json(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpClient, "body", lambda *_: type("Body", (), {"blocks": lambda _: iter([DEEP])})())
    with (
        running_media_server(servers.files) as media,
        servers.open(media) as source,
        pytest.raises(SourceError, match="the answer is not JSON"),
    ):
        source.check()
    assert parse_error(DEEP) is None


def test_an_error_code_of_5000_digits_is_an_error_without_a_code() -> None:
    error = parse_error(b'{"subsonic-response": {"status": "failed", "error": {"code": "%s"}}}' % DIGITS.encode())
    assert isinstance(error, SubsonicError)
    assert error.code == 0
    assert parse_error(b'{"subsonic-response": {"error": {"code": %s}}}' % DIGITS.encode()) is None


def test_an_exception_around_a_page_ends_the_list_in_a_sentence(servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("student_clap.ingest.sources.jellyfin.number", lambda _: 1 // 0)
    with running_media_server(servers.files) as media, servers.open(media) as source:
        source.check()
        with pytest.raises(SourceError, match=r"broke off after 0 tracks: unexpected ZeroDivisionError \(jellyfin.py:"):
            list(source.list_tracks())
