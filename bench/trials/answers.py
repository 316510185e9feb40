"""The table of odd HTTP answers: a media server that answers one request, or all, in a way that no API describes.

Each is an `ingest` of its own, with a store and a cache of its own, then a second one without the oddity. Right is: no
traceback; no file but the right ones, whole; the tracks that are not concerned all come; what concerns every track, or
the server itself, marks none of them as failed; and the second run completes the library.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.export.demo.dialects import KINDS
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.export.demo.schema import unit_vector
from student_clap.store import FeatureStore, State
from trials.music import Music, by_libsndfile
from trials.trial import Trial

_MANY = 24  # tracks, where all are answered oddly
_FEW = 5
_TRACK, _ALL, _SERVER = "one track", "every track", "the server"
_KINDS_OF_BODY = (
    "html", "json", "empty", "garbage", "reset", "truncated", "overstated", "understated", "long", "no_length",
)  # fmt: skip
_DIGITS = b"9" * 5000


@dataclass(frozen=True)
class Answer:
    """An odd answer, to whom, and by which kind of server ("" takes turns)."""

    name: str
    fault: str
    options: Mapping[str, Any] = field(default_factory=dict)
    to: str = _TRACK
    kind: str = ""


def status(code: int, to: str = _TRACK, **headers: str) -> Answer:
    """A status alone."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    how = "".join(f", {name}: {value[:20]}" for name, value in named.items())
    return Answer(f"status {code}{how}", "status", {"status": code, "headers": named}, to)


def raw(name: str, content: bytes, to: str = _TRACK) -> Answer:
    """Bytes in the place of an answer."""
    return Answer(name, "raw", {"content": content}, to)


def head(*lines: bytes, body: bytes = b"") -> bytes:
    """An answer's bytes."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", body])


def answers(song: bytes) -> Iterator[Answer]:
    """All of them. song: a whole file that is none of the library's."""
    yield from _statuses()
    yield from _heads(song)
    yield from _bodies(song)
    yield from _of_every_track()
    yield from _of_the_server()


def _statuses() -> Iterator[Answer]:
    yield from map(status, (204, 205, 226, 300, 302, 304, 400, 402, 405, 408, 410, 416, 418, 426, 429, 451))
    yield from map(status, (500, 502, 507, 511, 599, 999))
    yield status(503, Retry_After="soon")
    yield status(503, Retry_After=str(10**30))
    nowhere = (
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "javascript:alert(1)",
        "//",
        "?",
        "\x7f",
        "http://[::1",
        "/" * 9000,
    )
    for where in nowhere:
        yield Answer(f"a redirect to {where[:20]!r}", "redirect", {"headers": {"Location": where}})
    for part in ("bytes 0-9/10", "bytes 5-9/10", "bytes */100", "bytes 0-9/*", "pages 1-2/3", "bytes 9-0/10"):
        named = {"Content-Range": part, "Content-Length": "10"}
        yield Answer(f"206 with {part}", "headers", {"status": 206, "headers": named})


def _heads(song: bytes) -> Iterator[Answer]:
    yield raw("nothing at all", b"")
    yield raw("a greeting of SSH", b"SSH-2.0-OpenSSH_9.6\r\n")
    yield raw("HTTP/0.9", song)
    yield raw("HTTP/2 in the status line", b"HTTP/2 200\r\nContent-Length: 3\r\n\r\nabc")
    yield raw("a status of letters", b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n")
    yield raw("a status of 5000 digits", b"HTTP/1.1 " + _DIGITS + b" OK\r\nContent-Length: 0\r\n\r\n")
    yield raw("200 times 100 Continue", b"HTTP/1.1 100 Continue\r\n\r\n" * 200)
    yield raw("a header of 100 kB", head(b"X: " + b"x" * 100_000))
    yield raw("1000 headers", head(*(b"X-%d: 1" % i for i in range(1000))))
    yield raw("a header without a colon", head(b"no colon here", b"Content-Length: 3", body=b"abc"))
    yield raw("zero bytes in a header", head(b"X: \0\0\0", b"Content-Length: 3", body=b"abc"))
    yield raw("headers in the middle of which it ends", b"HTTP/1.1 200 OK\r\nContent-Le")
    for length in (b"-5", b"+5", b"0x10", b"5,6", b"1e3", _DIGITS, "٣".encode()):
        yield raw(f"Content-Length {length[:9]!r}", head(b"Content-Length: " + length, body=song))
    yield raw("an encoding that nobody knows", head(b"Transfer-Encoding: rot13", body=song))


def _bodies(song: bytes) -> Iterator[Answer]:
    chunks = {
        "of no hex number": b"zz\r\nabc\r\n0\r\n\r\n", "of 2^80 bytes": b"1" + b"0" * 20 + b"\r\nabc",
        "of -5 bytes": b"-5\r\nabcde\r\n0\r\n\r\n", "with an extension of 100 kB": b"3;" + b"x" * 100_000,
        "without the last one": b"3\r\nabc\r\n",
    }  # fmt: skip
    for name, body in chunks.items():
        yield raw(f"a chunk {name}", head(b"Transfer-Encoding: chunked", body=body))
    both = head(b"Transfer-Encoding: chunked", b"Content-Length: 9", body=b"3\r\nabc\r\n0\r\n\r\n")
    yield raw("chunks and a Content-Length", both)
    encoded = {
        "brotli": (b"br", song), "no gzip": (b"gzip", song), "no deflate": (b"deflate", song),
        "half a gzip": (b"gzip", gzip.compress(song)[:-900]),
        "half a deflate": (b"deflate", zlib.compress(song)[:-100]),
        "a gzip of 256 MB of zeros": (b"gzip", gzip.compress(bytes(1 << 28), 1)),
        "a gzip in a gzip": (b"gzip", gzip.compress(gzip.compress(song))),
        "identity, twice": (b"identity, identity", song),
    }  # fmt: skip
    for name, (encoding, body) in encoded.items():
        yield raw(name, head(b"Content-Encoding: " + encoding, b"Content-Length: %d" % len(body), body=body))
    contents = {
        "a playlist": b"#EXTM3U\nhttp://127.0.0.1/x.mp3\n", "XML": b"<?xml version='1.0'?><error/>",
        "one byte": b"\xff",
        "a page behind a byte order mark": b"\xef\xbb\xbf<!DOCTYPE html><html></html>", "zeros": bytes(1 << 20),
        "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(99), "an ID3 tag alone": b"ID3\x04\0\0\0\0\x10\0" + bytes(2048),
    }  # fmt: skip
    for name, body in contents.items():
        yield raw(name, head(b"Content-Type: audio/flac", b"Content-Length: %d" % len(body), body=body))
    yield from (Answer(name, name) for name in (*_KINDS_OF_BODY, "slow_headers", "slow_body"))


def _of_every_track() -> Iterator[Answer]:
    yield from (Answer(name, name, to=_ALL) for name in _KINDS_OF_BODY)
    yield from (status(code, _ALL) for code in (401, 403, 404, 407, 451, 500, 503, 511))
    yield Answer("a redirect to itself", "redirect", {"headers": {"Location": ""}}, _ALL)
    for code in (0, 40, 50, 70, 10**9):
        yield Answer(f"Subsonic's error {code}", "subsonic", {"code": code}, _ALL, "navidrome")


def _of_the_server() -> Iterator[Answer]:
    for name in ("html", "empty", "garbage", "truncated", "reset", "slow_headers"):
        yield Answer(name, name, to=_SERVER)
    yield from (status(code, _SERVER) for code in (204, 301, 401, 403, 404, 429, 500, 999))
    documents = {
        "deep": b'{"a":' * 120_000, "a number of 5000 digits": _DIGITS, "null": b"null", "a list": b"[]",
        "a text": b'"ok"', "NaN": b'{"Version": NaN}', "UTF-16": "{}".encode("utf-16"),
    }  # fmt: skip
    for name, body in documents.items():
        yield raw(f"JSON: {name}", head(b"Content-Length: %d" % len(body), body=body), _SERVER)


def answers_table(folder: Path, music: Music) -> Iterator[Trial]:
    """Try them all, each below `folder`."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    songs = [folder / f"{n}.{('flac', 'wav', 'ogg')[n % 3]}" for n in range(_MANY)]
    for number, song in enumerate(songs):
        major, subtype = {".flac": ("FLAC", "PCM_16"), ".wav": ("WAV", "PCM_16"), ".ogg": ("OGG", "VORBIS")}[
            song.suffix
        ]
        song.write_bytes(by_libsndfile(music.take(0.4 + number / 100, 16_000, 1), 16_000, major, subtype))
    other = by_libsndfile(music.take(0.3, 16_000, 1), 16_000, "FLAC", "PCM_16")
    for number, answer in enumerate(answers(other)):
        kind = answer.kind or KINDS[number % len(KINDS)]
        home = folder / f"run-{number}"
        home.mkdir()
        yield _tried(home, answer, kind, songs[: _MANY if answer.to == _ALL else _FEW])


def _tried(home: Path, answer: Answer, kind: str, songs: list[Path]) -> Trial:
    name = f"{kind}, {answer.to}: {answer.name}"
    with running_media_server({}, kind=kind) as media:
        media.files = {media.dialect.track_id(i): song for i, song in enumerate(songs)}
        ids = list(media.files)
        odd = {_TRACK: ids[1:2], _ALL: ids, _SERVER: []}[answer.to]
        for key in [media.dialect.checked] if answer.to == _SERVER else odd:
            media.fault(key, answer.fault, **answer.options)  # type: ignore[arg-type]
        config = _configure(home, media, ids)
        first = _ingest(config)
        states, errors, wrong = _left(home, media)
        fault = _run_fault(first) or wrong or _states_fault(answer, odd, states, errors, first)
        media.faults.clear()
        second = _ingest(config, "--retry-failed")
        complete, _, wrong = _left(home, media)
        if not fault and (second.exit_code or wrong or set(complete.values()) != {State.FETCHED}):
            fault = f"a run without the oddity does not complete the library: {wrong or second.output[-300:]}"
    of_odd = {states[i] for i in odd} or set(states.values())
    outcome = " or ".join(sorted(state.name.lower() for state in of_odd))
    said = next(
        (errors[i] for i in odd if errors.get(i)), first.stderr.strip().splitlines()[-1] if first.exit_code else ""
    )
    return Trial(name, f"{answer.to}: {outcome}", fault, {"exit": first.exit_code, "said": said[:300]})


def _configure(home: Path, media: MediaServer, ids: list[str]) -> Path:
    np.savez(home / "table.npz", track_id=np.array(ids), teacher=np.stack([unit_vector(i) for i in range(len(ids))]))
    tree = {
        media.kind: media.section(),
        "ingest": {
            "source": media.kind, "vectors": "table", "cache_dir": str(home / "audio"), "retries": 1, "backoff_s": 0.0,
            "timeout_s": 1.0, "concurrency": 4,
        },
        "table": {"path": str(home / "table.npz")},
        "store": {"path": str(home / "store.zarr")},
        "teacher": {"name": "bench"},
    }  # fmt: skip
    (home / "config.yaml").write_text(dump_yaml(tree), encoding="utf-8")
    return home / "config.yaml"


def _ingest(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["ingest", "--config", str(config), *arguments])


def _left(home: Path, media: MediaServer) -> tuple[dict[str, State], dict[str, str], str]:
    """({id: state}, {id: error}, what is wrong with the files): what a run left."""
    with FeatureStore.open(home / "store.zarr") as store:
        ids, audio, errors = (store.strings(column) for column in ("track_id", "audio", "error"))
        states = dict(zip(ids, (State(int(s)) for s in store.states()), strict=True))
    wrong = ""
    for track_id, path in zip(ids, audio, strict=True):
        if (states[track_id] is State.FETCHED) != bool(path):
            wrong = f"{track_id} is {states[track_id].name} with the file {path!r}"
        elif path and (home / "audio" / path).read_bytes() != media.files[track_id].read_bytes():
            wrong = f"the file of {track_id} is not what the server has"
    taken = {home / "audio" / path for path in audio if path}
    for file in (home / "audio").rglob("*"):
        if file.is_file() and file not in taken and file.name != "ingest.lock" and ".part" not in file.name:
            wrong = f"{file.name} lies in the cache and is no track's"
    return states, dict(zip(ids, errors, strict=True)), wrong


def _run_fault(result: Result) -> str:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raised {type(result.exception).__name__}: {result.exception}"
    if "Traceback" in result.output:
        return "a traceback"
    n_errors = sum(line.startswith("Error: ") for line in result.stderr.splitlines())
    return "" if n_errors == result.exit_code else f"exit code {result.exit_code} with {n_errors} errors"


def _states_fault(
    answer: Answer, odd: list[str], states: dict[str, State], errors: dict[str, str], result: Result
) -> str:
    if answer.to != _TRACK:
        failed = sum(state is State.FAILED for state in states.values())
        return f"{failed} of {len(states)} tracks are marked as failed" if failed else ""
    if any(state is not State.FETCHED for track_id, state in states.items() if track_id not in odd):
        return f"the other tracks are not all fetched: {result.output[-300:]}"
    mute = states[odd[0]] is not State.FETCHED and not errors[odd[0]]
    return "the track did not come, and nobody says why" if mute else ""
