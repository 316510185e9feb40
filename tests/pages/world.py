"""The library that the pages' commands meet: PostgreSQL, a Jellyfin and thirteen tunes, in every state of the pipeline.

A page gets a copy of its own, and a database of its own. `student-clap` is the command itself without its imports'
time (`warm`), `nano` a reader who fills in what the page says to edit; everything else is the machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopback.mel_teachers import write_mel_teacher
from student_clap.config.formats.fill_in import filled
from student_clap.export.demo.library import with_vectors
from student_clap.export.demo.mediaserver import MediaServer, running_media_server
from student_clap.export.demo.postgres import Database, PostgresServer
from student_clap.export.demo.schema import (
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.export.demo.tunes import TUNES, encode, render
from student_clap.export.demo.world import WorldTrack
from student_clap.featurize.teacher.model import Teacher

from .reader import ROOT, Command, Page
from .rules import BEGINS, session
from .warm import CLIENT

SETTINGS = {
    "teacher.name": "page-teacher",
    "split.method": "sorted",
    "split.folds": 4,
    "model.cnn_channels": [8, 8, 16],
    "model.transformer_layers": 1,
    "model.attention_heads": 2,
    "model.hidden_dim": 16,
    "training.batch_size": 8,
    "training.epochs": 1,
    "training.warmup_epochs": 0,
    "training.segments_per_track": 1,
    "training.save_every": 1,
    "training.early_stopping_patience": 0,
    "featurize.workers": 1,
}
_STATES = {
    "configured": (),
    "ingested": ("ingest",),
    "featurized": ("featurize --teacher clap_audio_model.onnx",),
    "exported": ("train", "export", "evaluate --from-store"),
}
# Each command in this very shell, so that `cd` and variables last; its output goes to a file, its status to 3.
_SHELL = """\
in_background() {{ ( exec "$@" 3>&- ) & }}
{lines}
"""
SHELL_S = 400  # for the commands of a page, or of a state
_NANO = """\
#!/bin/sh
cp "$READER/.env" .env
cp "$READER/config.yaml" config.yaml
"""


@dataclass(frozen=True)
class Ran:
    """A command that was run."""

    command: Command
    line: str  # as the shell got it
    status: int
    output: str

    @property
    def failed(self) -> bool:
        """Whether it did not do what the page says: end well, or with the error that is shown."""
        if self.command.error:
            return not self.status or self.command.error not in self.output
        return bool(self.status)


class PagesWorld:
    """Prepares a folder per state, and runs pages in copies."""

    def __init__(self, root: Path, server: PostgresServer, media: MediaServer, tracks: Sequence[WorldTrack]) -> None:
        self._root, self._server, self._media, self._tracks = root, server, media, tracks
        self._bin = root / "bin"
        self._prepared: dict[str, Path] = {}
        for name, text in (
            ("student-clap", CLIENT.format(python=sys.executable, path=str(root / "warm"))),
            ("nano", _NANO),
        ):
            (self._bin / name).parent.mkdir(exist_ok=True)
            (self._bin / name).write_text(text, encoding="utf-8")
            (self._bin / name).chmod(0o755)

    def run(self, page: Page, commands: Sequence[Command]) -> list[Ran]:
        """Run the commands of a page, one after another, whatever becomes of them."""
        begins = "nothing" if any(" init" in c.text for c in commands) else BEGINS.get(page.name, "exported")
        folder = self._root / page.name.replace("/", "-")
        with self._database() as database:
            shutil.copytree(self._state(begins), folder, symlinks=True)
            self._configure(folder / "reader" if begins == "nothing" else folder, folder, database)
            lines = session(page.name, commands)
            return [
                Ran(command, line, *ran)
                for command, line, ran in zip(commands, lines, self._shell(folder, lines), strict=True)
            ]

    def _state(self, name: str) -> Path:
        """The folder of a library that has come so far."""
        if name in self._prepared:
            return self._prepared[name]
        folder = self._root / f"state-{name}"
        if name in {"nothing", "configured"}:
            self._world_files(folder)
        else:
            before = list(_STATES)[list(_STATES).index(name) - 1]
            shutil.copytree(self._state(before), folder, symlinks=True)
            with self._database() as database:
                self._configure(folder, folder, database)
                commands = [f"student-clap {stage}" for stage in _STATES[name]]
                for command, (status, output) in zip(commands, self._shell(folder, commands), strict=True):
                    if status:
                        raise RuntimeError(f"{command}: exit status {status}\n{output}")
        self._prepared[name] = folder
        return folder

    def _world_files(self, folder: Path) -> None:
        """What a reader has beside the library's own: the teacher, the app's folder, queries, some music."""
        (folder / "app/model").mkdir(parents=True)
        (folder / "music").mkdir()
        shutil.copy(self._root / "teacher.onnx", folder / "clap_audio_model.onnx")
        for name in ("model_epoch_36.onnx", "clap_text_model.onnx"):
            shutil.copy(self._root / "teacher.onnx", folder / "app/model" / name)
        for track in self._tracks[:2]:
            shutil.copy(track.path, folder / "music" / track.path.name)
        names = np.array(["piano", "loud", "slow"])
        queries = np.stack([unit_vector(seed) for seed in range(3)])
        np.savez(folder / "clap_other_feature_text_embeddings.npz", name=names, vector=queries)
        (folder / "rates.yaml").write_text(
            "name: rates\ngrid: {training.lr: [3e-3]}\n", encoding="utf-8"
        )  # not eight runs
        (folder / "docs").symlink_to(ROOT / "docs")

    def _configure(self, folder: Path, home: Path, database: Database) -> None:
        folder.mkdir(exist_ok=True)
        if not (folder / "config.yaml").exists():
            shutil.copy(ROOT / "config/templates/config.yaml", folder / "config.yaml")
        settings = {**SETTINGS, "database.port": database.port, "audiomuse.model_dir": f"{home}/app/model"}
        text = (folder / "config.yaml").read_text(encoding="utf-8")
        (folder / "config.yaml").write_text(filled(text, settings), encoding="utf-8")
        (folder / ".env").write_text(
            f"DB_HOST={database.host}\nDB_NAME={database.database}\nDB_USER={database.user}\n"
            f"DB_PASSWORD={database.password}\nJELLYFIN_URL={self._media.url}\n"
            f"JELLYFIN_USER_ID={self._media.user_id}\nJELLYFIN_TOKEN={self._media.token}\n",
            encoding="utf-8",
        )

    def _shell(self, folder: Path, lines: Sequence[str]) -> list[tuple[int, str]]:
        """Exit status and output of each line, run in one shell."""
        marked = "\n".join(f"{{ {line}\n}} >{folder}.{n} 2>&1; echo $? >&3" for n, line in enumerate(lines))
        environment = {
            **{name: os.environ[name] for name in ("PYTHONPATH", "LANG", "TMPDIR") if name in os.environ},
            "PATH": f"{self._bin}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(folder),
            "READER": str(folder / "reader"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        read, write = os.pipe()
        with os.fdopen(read) as statuses, subprocess.Popen(["/usr/bin/yes"], stdout=subprocess.PIPE) as yes:
            shell = subprocess.Popen(
                ["/bin/bash", "-c", f"exec 3>&{write} {write}>&-\n{_SHELL.format(lines=marked)}"],
                cwd=folder,
                env=environment,
                stdin=yes.stdout,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[write],
                start_new_session=True,
            )
            os.close(write)
            try:
                shell.wait(SHELL_S)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(shell.pid, signal.SIGKILL)  # what it left in the background too
                shell.wait()
                yes.kill()
            found = [int(line) for line in statuses]
        found += [-1] * (len(lines) - len(found))
        outputs = (Path(f"{folder}.{n}") for n in range(len(lines)))
        return [
            (status, path.read_text(errors="replace") if path.exists() else "")
            for status, path in zip(found, outputs, strict=True)
        ]

    @contextmanager
    def _database(self) -> Iterator[Database]:
        database = self._server.create_database()
        create_schema(
            database,
            "B",
            servers=[Server("main", "Loopback", is_default=True, creds=json.dumps(self._media.section()))],
        )
        rows = [
            LoopbackTrack(t.track_id, t.title, t.artist, t.album, vector_bytes(t.vector), str(t.path))
            for t in self._tracks
            if t.vector is not None
        ]
        insert_tracks(database, "B", rows)
        try:
            yield database
        finally:
            self._server.drop_database(database)


@contextmanager
def pages_world(root: Path, server: PostgresServer) -> Iterator[PagesWorld]:
    """Tunes, their teacher and a media server, for as long as the block lasts."""
    teacher = write_mel_teacher(root / "teacher.onnx", "dclap")
    (root / "tunes").mkdir()
    tracks = []
    for tune in (tune for tune in TUNES if tune.duration_s < 20):
        path = root / "tunes" / tune.file_name
        path.write_bytes(encode(tune, render(tune)))
        tracks.append(WorldTrack(tune.track_id, tune.title, tune.artist.name, tune.artist.album, path))
    tracks, _ = with_vectors(tracks, Teacher(teacher), root / "vectors")
    files = {t.track_id: t.path for t in tracks}
    titles = {t.track_id: (t.title, t.artist, t.album) for t in tracks}
    with ExitStack() as stack:
        media = stack.enter_context(running_media_server(files, titles=titles))
        warm = stack.enter_context(
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("warm.py")), str(root / "warm")],
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
        stack.callback(warm.kill)
        if warm.stdout is None or not warm.stdout.readline():
            raise RuntimeError("tests/pages/warm.py did not start")
        yield PagesWorld(root, server, media, tracks)
