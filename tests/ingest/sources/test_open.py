"""Every media server that the configuration knows has a source, and no list of them stands twice."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from student_clap.config.schema import Config
from student_clap.config.servers import MEDIA_SERVERS
from student_clap.ingest import sources
from student_clap.ingest.http.errors import SourceError
from student_clap.ingest.sources.folder import FolderSource
from student_clap.ingest.sources.open import open_server, open_source
from student_clap.ingest.sources.server import RemoteServer

REMOTE = [name for name, server in MEDIA_SERVERS.items() if server.remote]


def configured(name: str) -> Config:
    """A configuration that names this source, with every key of the first set that its server needs."""
    server = MEDIA_SERVERS[name]
    values: dict[str, Any] = dict.fromkeys(server.needed[0], "x") | {"url": "http://nas:1"}
    for key, field in server.model.model_fields.items():
        if key in values and "SecretStr" in str(field.annotation):
            values[key] = SecretStr("x")
    return Config.model_validate({"ingest": {"source": name}, server.section: values})


@pytest.mark.parametrize("name", REMOTE)
def test_a_server_is_opened_by_its_name(name: str) -> None:
    with open_server(configured(name), threading.Event()) as source:
        assert isinstance(source, RemoteServer)
        assert source.section == MEDIA_SERVERS[name].section
    with open_source(configured(name), {}, threading.Event()) as source:
        assert isinstance(source, RemoteServer)


@pytest.mark.parametrize("name", REMOTE)
def test_a_server_without_its_url_is_told_by_its_section(name: str) -> None:
    config = Config.model_validate({"ingest": {"source": name}})
    with pytest.raises(SourceError, match=rf"{MEDIA_SERVERS[name].section}\.url is not set"):
        open_server(config, threading.Event())


def test_a_folder_needs_no_server(tmp_path: Path) -> None:
    config = Config.model_validate({"ingest": {"source": "folder"}, "folder": {"path": tmp_path}})
    with open_source(config, {}, threading.Event()) as source:
        assert isinstance(source, FolderSource)


def test_the_modules_serve_the_names_of_the_configuration() -> None:
    served: list[str] = []
    for found in pkgutil.iter_modules(sources.__path__):
        module = importlib.import_module(f"{sources.__name__}.{found.name}")
        served += getattr(module, "SOURCES", {})
    assert sorted(served) == sorted(REMOTE)
