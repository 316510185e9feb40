"""A server that repeats the query and the headers in its messages: nothing of the secret is shown or stored."""

from __future__ import annotations

from typing import Any

import pytest

from student_clap.ingest.http.errors import FetchError, SourceError
from student_clap.ingest.http.secrets import MASK, Sent, masked, spellings

TOKEN = "tok/en+51c9&a=b%42~"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jellyfin", "emby", "navidrome", "navidrome-key", "lyrion", "plex"])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_echo_shows_nothing(make_world: Any, observer: Any, kind: str, status: int) -> None:
    name, _, key = kind.partition("-")
    world = make_world(2, kind=name, token=TOKEN, generation="B", **({"api_key": True} if key else {}))
    for i, track in enumerate(world.tracks):
        world.media.fault(track.track_id, "echo", status=status, code=(0, 99)[i])
    seen = observer(world)
    secrets = {s for s in world.media.secrets() | spellings(TOKEN) if len(s) > 3}
    assert seen.lines_with(secrets) == []
    assert "Traceback" not in seen.shown
    if name == "navidrome":
        assert MASK in seen.shown
    verified = world.run("--verify").output
    assert not [s for s in secrets if s in verified]


@pytest.mark.slow
def test_the_password_sent_as_it_is_is_masked_in_hex(make_world: Any, observer: Any) -> None:
    world = make_world(2, kind="navidrome", token=TOKEN, refuses=frozenset({"t"}))
    world.media.fault(world.tracks[0].track_id, "echo", code=70)
    world.media.fault(world.tracks[1].track_id, "echo", code=0)
    seen = observer(world)
    assert any("enc:" in request.query or "enc%3A" in request.query for request in world.media.log)
    assert seen.lines_with({TOKEN.encode().hex(), TOKEN.encode().hex().upper(), TOKEN}) == []
    assert MASK in world.row(world.tracks[1].track_id)["error"]


def test_every_spelling_is_masked_while_its_client_lives() -> None:
    sent = Sent()
    sent.hide([TOKEN, "ab"])
    for spelling in spellings(TOKEN):
        assert masked(f"<{spelling}>") == f"<{MASK}>"
        assert FetchError(f"said {spelling.upper()}", permanent=True).reason == f"said {MASK}"
        assert SourceError(f"said {spelling}").message == f"said {MASK}"
    assert masked("ab cab abc p=ab;") == f"{MASK} cab abc p={MASK};"  # a short one as a whole word
    sent.forget()
    assert masked(TOKEN) == TOKEN


def test_two_clients_of_one_secret() -> None:
    first, second = Sent(), Sent()
    first.hide([TOKEN])
    second.hide([TOKEN])
    first.forget()
    assert masked(TOKEN) == MASK
    second.forget()
    assert masked(TOKEN) == TOKEN
