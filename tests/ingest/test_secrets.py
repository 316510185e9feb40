"""No secret shows: not on the screen, not in a log at DEBUG, not behind an exception, not in the store, not in `ps`."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import click
import psutil
import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError

from loopback.audiomuse_api import running_audiomuse_api
from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml, load_yaml
from student_clap.config.json_schema import section_schema, sections
from student_clap.config.schema import Config
from student_clap.config.servers import MediaServerConfig
from student_clap.export.demo.dialects import KINDS
from student_clap.export.demo.mediaserver import running_media_server
from student_clap.export.demo.schema import Server
from student_clap.ingest.fetch.fetch import Outcomes
from student_clap.store import FeatureStore

# Of characters that every way of writing changes, and that a header can carry.
TOKEN = "tok/en+51c9&a=b%42~"
WRONG = "wr/ong+77d2&c=d%43~"
SOURCES = (*KINDS, "navidrome-key")


def spellings(secret: str, *users: str) -> set[str]:
    """`secret` in every way that it might be written."""
    raws = [secret.encode(), *(f"{user}:{secret}".encode() for user in users)]
    found = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]}
    for raw in raws:
        found |= {raw.hex(), raw.hex().upper(), base64.urlsafe_b64encode(raw).decode().rstrip("=")}
        found.add(base64.b64encode(raw).decode().rstrip("="))
    return found


class Watch(logging.Handler):
    """Everything that a run lets out, beside what the command prints."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text += [record.name, record.getMessage(), repr(record.args), repr(record.exc_info)]

    def result(self, result: Result) -> None:
        """Keep the output, and the exception with all that stands behind it."""
        self.text += [result.stdout, result.stderr]
        error: BaseException | None = result.exception
        if error is not None:
            self.text.append("".join(traceback.format_exception(error)))
        while error is not None:
            # Also what `raise ... from None` would leave out of a traceback.
            self.text += [repr(error), repr(error.args)]
            error = error.__cause__ or error.__context__

    def directory(self, home: Path) -> None:
        """Keep what the run left behind; what the test wrote itself is no leak."""
        for path in home.rglob("*"):
            self.text.append(path.name)
            if path.is_file() and path.name != "config.yaml" and "music" not in path.parts:
                self.text.append(path.read_bytes().decode("latin-1"))
        if (home / "store.zarr/zarr.json").exists():
            # The chunks are compressed, so that the bytes alone would tell nothing.
            store = FeatureStore.open(home / "store.zarr")
            for name in ("server_id", "track_id", "item_id", "title", "artist", "album", "audio", "error"):
                self.text += store.strings(name)

    def assert_silent(self, secrets: set[str]) -> None:
        text = "\n".join(self.text)
        assert text
        for secret in secrets:
            at = text.find(secret)
            assert at < 0, text[max(0, at - 200) : at + 200]


@pytest.fixture
def watch() -> Iterator[Watch]:
    handler, root = Watch(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)


def world_of(make_world: Any, source: str, **more: Any) -> Any:
    kind, _, key = source.partition("-")
    options = {"api_key": True} if key else {}
    world = make_world(2, generation="B", kind=kind, token=TOKEN, **options, **more)
    world.settings = {"logging": {"level": "DEBUG"}, "ingest": {"retries": 1}}
    return world


def invoke(watch: Watch, *arguments: str) -> Result:
    """The command, all that it lets out watched."""
    # Without click's own handling, which lets go of what stands behind an error.
    result = CliRunner().invoke(main, arguments, standalone_mode=False)
    if isinstance(result.exception, click.ClickException):
        result.stderr_bytes = (result.stderr + result.exception.format_message()).encode()
    watch.result(result)
    return result


def run(world: Any, watch: Watch, *arguments: str, **sections: dict[str, Any]) -> Result:
    """`ingest`, compared with all secrets of the world."""
    path = world.config(**sections)
    result = invoke(watch, "ingest", "--config", str(path), *arguments)
    watch.directory(world.home)
    users = ("listener", "audiomuse")
    watch.assert_silent(
        spellings(TOKEN, *users)
        | spellings(WRONG, *users)
        | spellings(world.database.password, *users)
        | {s for s in world.media.secrets() if len(s) > 3}
    )
    return result


def wrong(world: Any) -> dict[str, dict[str, Any]]:
    section = world.media.section()
    return {world.media.kind: {k: WRONG if v == TOKEN else v for k, v in section.items()}}


@pytest.mark.parametrize("source", SOURCES)
class TestAudio:
    def test_in_success(self, make_world: Any, watch: Watch, source: str) -> None:
        world = world_of(make_world, source)
        result = run(world, watch)
        assert "2 fetched" in result.stdout
        assert "DEBUG: GET " in result.stderr
        assert any(TOKEN in str(r) or world.media.secrets() for r in world.media.log)

    def test_where_it_is_wrong(self, make_world: Any, watch: Watch, source: str) -> None:
        world = world_of(make_world, source)
        result = run(world, watch, **wrong(world))
        assert result.exit_code == 1
        assert "refuse" in result.stderr

    def test_where_the_server_is_off(self, make_world: Any, watch: Watch, source: str) -> None:
        world = world_of(make_world, source)
        world.media.stop()
        result = run(world, watch)
        assert result.exit_code == 1
        assert "connection refused" in result.stderr

    def test_where_there_is_no_secure_connection(self, make_world: Any, watch: Watch, source: str) -> None:
        world = world_of(make_world, source)
        section = world.media.section()
        section["url"] = section["url"].replace("http:", "https:")
        result = run(world, watch, **{world.media.kind: section})
        assert result.exit_code == 1
        assert "no secure connection" in result.stderr

    def test_where_every_answer_is_odd(self, make_world: Any, watch: Watch, source: str) -> None:
        world = world_of(make_world, source)
        first, second = world.media.files
        world.media.fault(first, "status", status=500, times=1)
        world.media.fault(first, "truncated", times=1)
        world.media.fault(first, "redirect", to=world.media.url, times=1)
        world.media.fault(first, "html")
        world.media.fault(second, "reset")
        assert run(world, watch).exit_code == 0

    def test_where_it_is_led_away(self, make_world: Any, watch: Watch, source: str) -> None:
        world = world_of(make_world, source)
        with running_media_server(world.media.files, kind=world.media.kind, token="other") as other:
            for track_id in world.media.files:
                world.media.fault(track_id, "redirect", to=other.url)
            run(world, watch)
            sent = "".join(f"{r.path}?{r.query} {r.headers}" for r in other.log)
        assert sent
        for secret in spellings(TOKEN, "listener") | {s for s in world.media.secrets() if len(s) > 3}:
            assert secret not in sent

    def test_where_the_url_is_malformed(self, make_world: Any, watch: Watch, source: str) -> None:
        world = world_of(make_world, source)
        kind = world.media.kind
        for url in (
            f"http://{quote(TOKEN, safe='')}@nas:8096",
            f"http://u:{TOKEN}@nas:8096",
            f"nas:8096/{quote(TOKEN, safe='')}",
            f"http://127.0.0.1:9/?k={quote(TOKEN, safe='')}",
            f"http://127.0.0.1:x/?k={quote(TOKEN, safe='')}",
        ):
            assert run(world, watch, **{kind: {"url": url}}).exit_code == 1

    def test_where_the_program_fails(
        self, make_world: Any, watch: Watch, source: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = world_of(make_world, source)

        def unexpected(*_: Any) -> None:
            raise RuntimeError("unexpected")

        monkeypatch.setattr(Outcomes, "fetched", unexpected)
        assert isinstance(run(world, watch).exception, RuntimeError)

    def test_from_the_database(self, make_world: Any, watch: Watch, source: str) -> None:
        world = world_of(make_world, source)
        for creds, outcome in ((world.media.section(), 0), (next(iter(wrong(world).values())), 1), ([TOKEN], 1)):
            with closing(world.database.connect()) as connection, connection.cursor() as cursor:
                cursor.execute("UPDATE music_servers SET creds = %s::jsonb", (json.dumps(creds),))
                cursor.execute("UPDATE score SET title = title || '!'")
            result = run(world, watch, "--from-database", "--retry-failed", **wrong(world))
            # Once the audio is there, credentials are not needed again.
            assert result.exit_code == outcome or "already there" in result.stderr


class TestVectors:
    def test_of_the_database(self, make_world: Any, watch: Watch) -> None:
        world = world_of(make_world, "jellyfin")
        result = run(world, watch, database={"password": WRONG})
        assert "password authentication failed" in result.stderr
        for section in ({"host": "127.0.0.1", "port": 9}, {"database": "other"}, {"host": "no host\x01"}):
            assert run(world, watch, database=section).exit_code == 1

    def test_of_the_interface(self, make_world: Any, watch: Watch) -> None:
        world = world_of(make_world, "plex")
        servers = (Server("main", "Main", "plex", is_default=True, creds=json.dumps({"api_key": WRONG})),)
        with (
            running_audiomuse_api(world.tracks, servers=servers, token=TOKEN) as api,
            running_audiomuse_api(world.tracks, servers=servers, token=None) as other,
        ):
            world.settings["ingest"] |= {"vectors": "api"}
            world.settings["audiomuse"] = api.section()
            for where, kind, more in (
                ("/api/servers", "status", {"times": 2}),
                ("/api/servers", "json", {}),
                ("/api/sync", "html", {}),
                ("/api/sync", "redirect", {}),
                ("/api/sync", "truncated", {"times": 2}),
                ("/api/servers", "redirect", {"to": f"{other.url}/api/servers"}),
            ):
                api.fault(where, kind, **more)
                run(world, watch)
            assert other.log
            assert all("authorization" not in r.headers for r in other.log)
            for change in ({"token": WRONG}, {"url": f"http://u:{quote(TOKEN, safe='')}@nas"}):
                assert run(world, watch, audiomuse=api.section() | change).exit_code == 1
            assert run(world, watch).exit_code == 0
            assert {r.headers["authorization"] for r in api.log} == {f"Bearer {TOKEN}", f"Bearer {WRONG}"}


def secret_keys() -> Iterator[tuple[str, str]]:
    """Section and key of every secret among the settings."""
    for section, model in sections().items():
        for key, value in section_schema(model)["properties"].items():
            if "password" in (value.get("format"), *(option.get("format") for option in value.get("anyOf", ()))):
                yield section, key


def test_faults_of_the_configuration_do_not_repeat_them(tmp_path: Path, watch: Watch) -> None:
    path = tmp_path / "config.yaml"
    keys = list(secret_keys())
    assert {("jellyfin", "token"), ("navidrome", "api_key"), ("database", "password")} <= set(keys)
    for section, key in keys:
        for value in ([TOKEN], {"x": TOKEN}):
            path.write_text(dump_yaml({section: {key: value}}), encoding="utf-8")
            result = invoke(watch, "ingest", "--config", str(path))
            assert result.exit_code == 1
            assert f"{section}.{key}" in result.stderr
        for override in (f"{key}={TOKEN}", f"{section}.{key}={TOKEN}"):
            invoke(watch, "config", "--set", override)
    watch.assert_silent(spellings(TOKEN))


def test_a_model_does_not_repeat_what_it_refuses() -> None:
    for values in ({"token": [TOKEN]}, {"url": f"nas/{TOKEN}"}, {TOKEN: 1}):
        with pytest.raises(ValidationError) as caught:
            MediaServerConfig.model_validate(values)
        if TOKEN not in values:
            assert TOKEN not in str(caught.value)
    config = Config.model_validate({"jellyfin": {"token": TOKEN}})
    out = io.StringIO()
    print(config, repr(config), config.model_dump(), config.model_dump_json(), file=out)
    assert TOKEN not in out.getvalue()


def test_a_secret_on_the_command_line_is_warned_of() -> None:
    arguments = ["config", "--set", f"jellyfin.token={TOKEN}", "--set", "training.lr=1e-3"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("WARNING")]
    assert line.startswith("WARNING: jellyfin.token was given with --set")
    assert TOKEN not in result.output


def test_the_list_of_processes_shows_none(make_world: Any, watch: Watch) -> None:
    world = world_of(make_world, "navidrome")
    world.media.block_bytes, world.media.block_delay_s = 4096, 0.05
    sections: dict[str, Any] = load_yaml(world.config().read_text())
    secrets = {"NAVIDROME_PASSWORD": TOKEN, "DB_PASSWORD": world.database.password}
    sections["navidrome"]["password"], sections["database"]["password"] = "${NAVIDROME_PASSWORD}", "${DB_PASSWORD}"
    world.settings |= sections
    path = world.config()
    (path.parent / ".env").write_text("".join(f"{k}='{v}'\n" for k, v in secrets.items()), encoding="utf-8")
    with world.start() as process:
        while process.poll() is None:
            try:
                seen = psutil.Process(process.pid)
                with seen.oneshot():
                    watch.text += [seen.name(), *seen.cmdline(), *(f"{k}={v}" for k, v in seen.environ().items())]
                for task in Path(f"/proc/{process.pid}/task").iterdir():
                    watch.text.append((task / "comm").read_text())
            except (psutil.Error, OSError):
                continue
            time.sleep(0.01)
        output = process.stdout.read()
    assert process.returncode == 0, output
    assert "2 fetched" in output
    watch.text.append(output)
    watch.assert_silent(spellings(TOKEN, "listener") | spellings(world.database.password) | world.media.secrets())
