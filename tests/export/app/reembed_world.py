"""A library, AudioMuse-AI's database that it was read from, and a student: what the tests of reembed act on."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from student_clap.config.cli import main
from student_clap.config.formats.yaml12 import dump_yaml
from student_clap.export.demo.postgres import Database
from student_clap.export.demo.schema import (
    Generation,
    LoopbackTrack,
    Server,
    create_schema,
    insert_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.store import FeatureStore

from ..conftest import Library

SERVERS = (
    Server("main", "Main", is_default=True),
    Server("second", "Second", "jellyfin"),
)
SHORT = b"of another width"


@dataclass
class World:
    """A library, a database that it was read from, and a student."""

    library: Library
    database: Database
    generation: Generation
    model: Path
    home: Path
    anyway: bool = True  # the student was not evaluated

    @property
    def out(self) -> Path:
        return self.home / "library.parquet"

    @property
    def config(self) -> Path:
        tree = {
            "database": self.database.section(),
            "store": {"path": str(self.library.store)},
            "ingest": {"cache_dir": str(self.library.cache_dir)},
            "logging": {"level": "DEBUG"},
        }
        path = self.home / "config.yaml"
        path.write_text(dump_yaml(tree), encoding="utf-8")
        return path

    def command(self, *arguments: object, model: bool = True) -> list[str]:
        own = ["--model", self.model, "--out", self.out] if model else []
        own += ["--anyway"] if self.anyway and "--write-database" in arguments else []
        return ["reembed", "--config", str(self.config), *(str(a) for a in (*own, *arguments))]

    def run(self, *arguments: object, model: bool = True, answer: str | None = None) -> Result:
        result = CliRunner().invoke(main, self.command(*arguments, model=model), input=answer)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def restore(self, what: Path, *arguments: object) -> Result:
        return self.run("--restore", what, "--yes", *arguments, model=False)

    def table(self) -> dict[str, bytes | None]:
        rows = self.query("SELECT item_id, embedding FROM clap_embedding")
        return {item_id: None if value is None else bytes(value) for item_id, value in rows}

    def query(self, text: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        with closing(self.database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(text, parameters)
            return cursor.fetchall() if cursor.description else []

    def new(self) -> dict[str, npt.NDArray[np.float32]]:
        """Track id -> the student's vector."""
        table = pq.read_table(self.out)
        return dict(zip(table["track_id"].to_pylist(), np.array(table["vector"].to_pylist(), np.float32), strict=True))

    def dumps(self) -> list[Path]:
        return sorted((self.home / "clap_embedding-dumps").glob("*"))

    def item_of(self, track_id: str) -> str:
        return track_id if self.generation == "A" else LoopbackTrack(track_id).item_id_b

    def put(self, *tracks: LoopbackTrack) -> None:
        insert_tracks(self.database, self.generation, tracks)


def make_world(generation: Generation, library: Library, model: Path, database: Database, home: Path) -> World:
    """Twelve tracks with the teacher's vectors, one of another width, one NULL; and one that the store lacks."""
    create_schema(database, generation, servers=SERVERS)
    world = World(library, database, generation, model, home)
    if generation == "B":
        with FeatureStore.open(library.store, "r+") as store:
            store.update_tracks(list(range(12)), server_id=["main"] * 12)
    vectors: list[bytes | None] = [vector_bytes(unit_vector(number)) for number in range(12)]
    vectors[4], vectors[5] = SHORT, None
    world.put(*(LoopbackTrack(f"t{i:02d}", f"Tune {i}", "Ada", vector=v) for i, v in enumerate(vectors)))
    world.put(LoopbackTrack("elsewhere", "Not in the store", vector=vector_bytes(unit_vector(99))))
    return world


def assert_written(world: World) -> None:
    table, new = world.table(), world.new()
    assert len(new) == 12
    for track_id, vector in new.items():
        stored = table[world.item_of(track_id)]
        assert stored is not None
        assert len(stored) == 2048
        assert stored == vector.astype("<f4").tobytes()
        assert np.linalg.norm(np.frombuffer(stored, "<f4").astype(np.float64)) == pytest.approx(1, abs=1e-6)
    assert table[world.item_of("elsewhere")] == vector_bytes(unit_vector(99))
