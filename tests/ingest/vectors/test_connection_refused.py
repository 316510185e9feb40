"""A server that lets nobody in says so in its own language and encoding; libpq tells no code, only that text."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from pydantic import SecretStr

from student_clap.config.schema import DatabaseConfig
from student_clap.ingest.vectors.connection import DatabaseError, connect, why_not_connected

GERMAN = "Passwort-Authentifizierung für Benutzer »audiomuse« fehlgeschlagen"
RUSSIAN = "пользователь не прошёл проверку подлинности (по паролю)"
NO_SERVER = (
    'connection to server at "localhost" (::1), port 5432 failed: Connection refused\n'
    "\tIs the server running on that host and accepting TCP/IP connections?\n"
)
ENCRYPTION_REQUESTS = (80877103, 80877104)


def refuse(listener: socket.socket, severity: bytes, message: bytes) -> None:
    """Answer one client as PostgreSQL answers a wrong password."""
    client, _ = listener.accept()
    with client, client.makefile("rb") as sent:
        code = ENCRYPTION_REQUESTS[0]
        while code in ENCRYPTION_REQUESTS:
            n_bytes, code = struct.unpack("!II", sent.read(8))
            sent.read(n_bytes - 8)
            if code in ENCRYPTION_REQUESTS:
                client.sendall(b"N")
        fields = b"S" + severity + b"\0VFATAL\0C28P01\0M" + message + b"\0\0"
        client.sendall(b"E" + struct.pack("!I", len(fields) + 4) + fields)


@contextmanager
def refusing(severity: bytes, message: bytes) -> Iterator[DatabaseConfig]:
    """A server that refuses one client."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = threading.Thread(target=refuse, args=(listener, severity, message))
        server.start()
        yield DatabaseConfig(
            host="127.0.0.1", port=listener.getsockname()[1], password=SecretStr("must-not-show"), connect_timeout_s=20
        )
        server.join()


@pytest.mark.parametrize(
    ("severity", "message", "encoding", "shown"),
    [
        ("FATAL", GERMAN, "utf-8", GERMAN),
        (
            "FATAL",
            GERMAN,
            "latin-1",
            "Passwort-Authentifizierung f\ufffdr Benutzer \ufffdaudiomuse\ufffd fehlgeschlagen",
        ),
        ("ВАЖНО", RUSSIAN, "utf-8", RUSSIAN),
        ("ВАЖНО", RUSSIAN, "cp1251", "(\ufffd"),
    ],
)
def test_a_wrong_password_in_another_language(severity: str, message: str, encoding: str, shown: str) -> None:
    with (
        refusing(severity.encode(encoding), message.encode(encoding)) as config,
        pytest.raises(DatabaseError) as caught,
    ):
        connect(config)
    said = caught.value.message
    assert said.startswith(f"cannot open the database 'audiomusedb' at 127.0.0.1:{config.port} as 'audiomuse': ")
    assert shown in said
    assert said.endswith(
        "; a server answers there: check database.user, database.password and database.database, and whether"
        " database.host and database.port are AudioMuse-AI's"
    )
    assert "must-not-show" not in said
    assert "network" not in said


def test_a_wrong_password_in_english_keeps_its_own_remedy() -> None:
    message = 'password authentication failed for user "audiomuse"'
    with refusing(b"FATAL", message.encode()) as config, pytest.raises(DatabaseError) as caught:
        connect(config)
    assert caught.value.message.endswith(
        f"as 'audiomuse': {message}; check database.user and database.password (DB_USER and DB_PASSWORD in .env)"
    )


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        # localhost, of whose two addresses one has no server
        (
            f'{NO_SERVER}connection to server at "localhost" (127.0.0.1), port 5432 failed: FATAL:  {GERMAN}\n',
            f"{GERMAN}; a server answers there",
        ),
        # libpq before 14
        ("FATAL:  sorry, too many clients already\nHINT:  x\n", ": sorry, too many clients already; a server answers"),
        # libpq that speaks German itself
        (
            f"Verbindung zum Server auf »nas«, Port 5432 fehlgeschlagen: FATAL:  {GERMAN}\n",
            f": {GERMAN}; a server answers",
        ),
        (NO_SERVER, "is PostgreSQL running there"),
        (
            'connection to server at "nas" (10.0.0.1), port 5432 failed: timeout expired\n',
            "check database.host and database.port, and the network between",
        ),
        (
            'could not translate host name "nas" to address: Name or service not known\n',
            "check database.host and database.port, and the network between",
        ),
    ],
)
def test_whether_a_server_has_answered(text: str, remedy: str) -> None:
    assert remedy in why_not_connected(text, "nas:5432", DatabaseConfig())
