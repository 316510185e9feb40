"""AudioMuse-AI's table in a real PostgreSQL, both generations: written, put back, and refused."""

from __future__ import annotations

import csv
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psycopg2
import pyarrow.parquet as pq
import pytest

from student_clap.config.schema import Config
from student_clap.export.app.clap_table import ClapTable, Content, Exchange, ExchangeOutcome, open_clap_table
from student_clap.export.app.library_file import LibraryVectors
from student_clap.export.app.replacement import vector_bytes as checked_bytes
from student_clap.export.app.vector_dump import DumpError, open_dump
from student_clap.export.demo.postgres import Database, PostgresServer
from student_clap.export.demo.schema import (
    LoopbackTrack,
    create_schema,
    delete_tracks,
    unit_vector,
    vector_bytes,
)
from student_clap.ingest.vectors.connection import DatabaseError
from student_clap.store import FeatureStore

from ...power_cut import Disk
from ..conftest import Library
from .reembed_world import SERVERS, World, assert_written, make_world


@pytest.fixture(params=["A", "B"])
def both(
    request: pytest.FixtureRequest, copied_library: Library, exported: Path, database: Database, tmp_path: Path
) -> World:
    """A world of each generation in turn."""
    return make_world(request.param, copied_library, exported, database, tmp_path)


@pytest.fixture
def world(copied_library: Library, exported: Path, database: Database, tmp_path: Path) -> World:
    """For what no generation has a part in."""
    return make_world("B", copied_library, exported, database, tmp_path)


def test_written_and_put_back(both: World) -> None:
    world = both
    before = world.table()
    others = world.query("SELECT * FROM score ORDER BY 1")
    done = world.run("--write-database", "--yes")
    assert done.exit_code == 0, done.output
    assert_written(world)
    assert "12 rows of clap_embedding in the database" in done.stderr
    assert world.database.database in done.stderr
    assert f"generation {world.generation}" in done.stderr
    assert "clap_embedding: 12 rows written (0 planned as new), 0 held theirs" in done.stdout
    assert "start an analysis" in done.stderr.replace("\n", " ")
    assert "score.other_features" in done.stderr
    with world.out.with_suffix(".missing.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["item_id"], row["where"]) == (world.item_of("elsewhere"), "clap_embedding")
    assert "1 rows keep the vector" in done.stderr
    # The dump has the bytes as they were, odd ones too.
    (dump,) = world.dumps()
    dumped = {r.item_id: r.old.embedding for rows in open_dump(dump).rows() for r in rows}
    assert dumped == {item: vector for item, vector in before.items() if item != world.item_of("elsewhere")}
    assert f"--restore {dump}" in done.stderr

    again = world.run("--write-database", "--yes")
    assert "0 rows written (0 planned as new), 12 held theirs" in again.stdout
    assert world.dumps() == [dump]

    back = world.restore(dump)
    assert back.exit_code == 0, back.output
    assert "put 12 rows back from 1 dumps" in back.stdout
    assert world.table() == before
    assert world.query("SELECT * FROM score ORDER BY 1") == others
    assert "put 0 rows back from 1 dumps; 12 held what they had" in world.restore(dump.parent).stdout


def test_without_the_flag_the_database_is_not_even_opened(world: World, postgres_server: PostgresServer) -> None:
    before = world.table()
    done = world.run()
    assert done.exit_code == 0, done.output
    assert world.table() == before
    assert "12 vectors" in done.stdout
    unreachable = world.run("--set", "database.host=/nowhere")
    assert unreachable.exit_code == 0, unreachable.output


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_without_a_yes_nothing_changes(answer: str, world: World) -> None:
    before = world.table()
    done = world.run("--write-database", answer=answer)
    assert done.exit_code == 1
    assert "not confirmed; the database was not changed" in done.stderr
    assert f"12 rows of clap_embedding in the database {world.database.database!r}" in done.stderr
    assert world.table() == before
    assert world.dumps() == []
    # What was made is not made again.
    yes = world.run("--write-database", answer="y\n")
    assert yes.exit_code == 0, yes.output
    assert "0 of them new" in yes.stdout
    assert_written(world)
    (dump,) = world.dumps()
    no = world.run("--restore", dump, model=False, answer=answer)
    assert no.exit_code == 1
    assert_written(world)


def test_a_power_cut_does_not_take_the_dump_of_rows_that_are_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[list[Path]] = []

    def exchange(table: ClapTable, exchanges: Sequence[Exchange]) -> list[ExchangeOutcome]:
        lost.extend(disk.lost(path, world.home) for path in world.dumps())
        return real(table, exchanges)

    real, disk = ClapTable.exchange, Disk(monkeypatch)
    monkeypatch.setattr(ClapTable, "exchange", exchange)
    assert world.run("--write-database", answer="n").exit_code == 1  # makes the folder
    assert world.run("--write-database", "--yes").exit_code == 0
    assert lost == [[]]


def test_rows_that_are_missing_are_added_and_taken_away_again(both: World) -> None:
    world = both
    world.query("DELETE FROM clap_embedding WHERE item_id = ANY(%s)", ([world.item_of("t01"), world.item_of("t02")],))
    before = world.table()
    done = world.run("--write-database", "--yes")
    assert "and 2 rows are added" in done.stderr
    assert "12 rows written (2 planned as new)" in done.stdout
    assert_written(world)
    world.restore(world.dumps()[0])
    assert world.table() == before


def test_what_changed_since_gets_a_dump_of_its_own(world: World) -> None:
    before = world.table()
    world.run("--write-database", "--yes")
    analysed = vector_bytes(unit_vector(500))
    world.put(LoopbackTrack("t03", "Tune 3", "Ada", vector=analysed))
    # An old dump does not write over what reembed did not write.
    back = world.restore(world.dumps()[0])
    assert "1 left because they hold something else" in back.stdout
    assert "--overwrite" in back.stderr
    assert world.table() == before | {world.item_of("t03"): analysed}
    done = world.run("--write-database", "--yes")
    assert "12 rows written" in done.stdout
    first, second = world.dumps()
    assert open_dump(second).n_rows == 1
    # The new dump has one row of twelve, so the way back is the folder.
    assert f"--restore {first.parent}\n" in done.stderr
    assert f"are dumped first, to {first.parent}." in done.stderr
    assert_written(world)
    # A folder of dumps goes back all the way, newest first.
    assert "put 13 rows back from 2 dumps" not in back.stdout
    world.restore(first.parent)
    assert world.table() == before | {world.item_of("t03"): analysed}
    world.restore(first, "--overwrite")
    assert world.table() == before


def test_a_folder_goes_back_newest_first_also_where_the_clock_went_back(world: World) -> None:
    before = world.table()
    world.run("--write-database", "--yes")
    (first,) = world.dumps()
    first.rename(first.with_name("29990101T000000000000Z-x.dump.parquet"))
    world.put(LoopbackTrack("t03", "Tune 3", "Ada", vector=vector_bytes(unit_vector(500))))
    world.run("--write-database", "--yes")
    world.put(LoopbackTrack("t03", "Tune 3", "Ada", vector=before[world.item_of("t03")]))
    world.run("--write-database", "--yes")
    done = world.restore(first.parent)
    assert done.exit_code == 0, done.output
    assert done.stderr.index("29990101T000000000001Z") < done.stderr.index("29990101T000000000000Z")
    assert world.table() == before | {world.item_of("t03"): vector_bytes(unit_vector(500))}


def test_an_item_that_has_gone_is_counted(both: World) -> None:
    world = both
    world.run("--write-database", "--yes")
    delete_tracks(world.database, world.generation, [LoopbackTrack("t03")])
    back = world.restore(world.dumps()[0])
    assert back.exit_code == 0
    assert "put 11 rows back" in back.stdout
    assert "1 items gone" in back.stdout


def test_another_models_vectors_are_never_written_under_this_name(world: World) -> None:
    world.run()
    before = world.table()
    proto = onnx.load(str(world.model))
    proto.doc_string = "another"
    world.model = world.home / "other.onnx"
    onnx.save(proto, str(world.model))
    done = world.run("--write-database", "--yes")
    assert done.exit_code == 1
    assert "was made with another model" in done.stderr
    assert world.table() == before


def test_dumps_of_elsewhere_and_damaged_ones(world: World, postgres_server: PostgresServer) -> None:
    before = world.table()
    world.run("--write-database", "--yes")
    (dump,) = world.dumps()
    written = world.table()
    home = world.database
    world.database = postgres_server.create_database()
    create_schema(world.database, world.generation, servers=SERVERS)
    world.put(*(LoopbackTrack(f"t{i:02d}", vector=written[world.item_of(f"t{i:02d}")]) for i in range(12)))
    refused = world.restore(dump)
    assert refused.exit_code == 1
    assert "of another database" in refused.stderr
    assert world.restore(dump, "--any-database").exit_code == 0
    assert world.table() == {k: v for k, v in before.items() if k != world.item_of("elsewhere")}
    postgres_server.drop_database(world.database)

    world.database = home
    table = pq.read_table(dump)
    forged = dump.with_name("forged.dump.parquet")
    pq.write_table(table.slice(1).replace_schema_metadata(pq.read_metadata(dump).metadata), forged)
    refused = world.restore(forged)
    assert refused.exit_code == 1
    assert "is damaged: 11 rows" in refused.stderr
    data = bytearray(dump.read_bytes())
    data[len(data) // 3] ^= 0xFF
    forged.write_bytes(data)
    assert world.restore(forged).exit_code == 1
    assert "is not a dump" in world.restore(world.out).stderr
    assert "there is no dump" in world.restore(world.home / "absent").stderr
    assert world.table() == written


def test_secrets_are_nowhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    shown = []
    for arguments, model in (
        (("--write-database", "--yes"), True),
        (("--restore", world.home / "clap_embedding-dumps", "--yes"), False),
        (("--write-database", "--yes", "--set", "database.user=nobody"), True),
        (("--write-database", "--yes", "--set", "database.host=/nowhere"), True),
    ):
        shown.append(world.run(*arguments, model=model).output)
    files = [p.read_bytes() for p in (*world.dumps(), world.out, world.out.with_suffix(".missing.csv"))]
    assert len(files) == 3
    everything = "\n".join(shown).encode() + caplog.text.encode() + b"".join(files)
    for secret in (world.database.password, "creds-token-must-not-show"):
        assert secret.encode() not in everything


def config_of(world: World) -> Config:
    return Config.model_validate({"database": world.database.section()})


def test_a_row_that_holds_something_else_is_left(world: World) -> None:
    item, old = world.item_of("t00"), Content(there=True, embedding=vector_bytes(unit_vector(0)))
    new = Content(there=True, embedding=vector_bytes(unit_vector(7)))
    with open_clap_table(config_of(world).database) as table:
        stale = Content(there=True, embedding=b"was there when the plan was made")
        assert table.exchange([Exchange(item, stale.fingerprint, new)]) == [ExchangeOutcome.OTHER]
        assert world.table()[item] == old.embedding
        assert table.exchange([Exchange("absent", stale.fingerprint, new)]) == [ExchangeOutcome.GONE]
        assert table.exchange([Exchange(item, old.fingerprint, new)]) == [ExchangeOutcome.DONE]
        assert table.exchange([Exchange(item, old.fingerprint, new)]) == [ExchangeOutcome.ALREADY]
    assert world.table()[item] == new.embedding


def test_what_does_not_read_back_is_taken_back(world: World) -> None:
    world.query(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.embedding := 'meddled'::bytea; RETURN NEW; END $$;"
        "CREATE TRIGGER meddle BEFORE UPDATE ON clap_embedding FOR EACH ROW EXECUTE FUNCTION meddle()"
    )
    before = world.table()
    done = world.run("--write-database", "--yes")
    assert done.exit_code == 1
    assert "does not hold what was written" in done.stderr
    assert world.table() == before


def test_a_vector_that_is_none_is_never_written() -> None:
    for values in (np.full(512, np.nan), np.ones(512)):
        with pytest.raises(ValueError, match=r"finite|length"):
            checked_bytes(LibraryVectors({}, np.array([values], np.float32)), 0)
    assert len(checked_bytes(LibraryVectors({}, unit_vector(1)[None]), 0)) == 2048


def test_one_that_has_just_ended_is_waited_for(world: World) -> None:
    with ExitStack() as other:
        other.enter_context(open_clap_table(config_of(world).database)).check_writable()
        ends = threading.Timer(0.5, other.close)
        ends.start()
        done = world.run("--write-database", "--yes")
        ends.join()
    assert done.exit_code == 0, done.output


def test_refused_before_the_hours_of_work(world: World) -> None:
    with open_clap_table(config_of(world).database) as table:
        table.check_writable()
        busy = world.run("--write-database", "--yes")
    assert busy.exit_code == 1
    assert "another reembed is running, and writes" in busy.stderr
    with closing(psycopg2.connect(**_as_superuser(world.database))) as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {world.database.database} SET default_transaction_read_only = on")
        connection.commit()
    standby = world.run("--write-database", "--yes")
    assert "is read-only" in standby.stderr
    assert not world.out.exists()


def test_a_model_that_was_not_evaluated_is_refused_before_the_work(world: World) -> None:
    before = world.table()
    world.anyway = False
    refused = world.run("--write-database", "--yes")
    assert refused.exit_code == 1
    assert "was not evaluated" in refused.stderr
    assert "--anyway" in refused.stderr
    assert not world.out.exists()
    assert world.table() == before
    # Making the vectors is no risk.
    assert world.run().exit_code == 0


def _as_superuser(database: Database) -> dict[str, Any]:
    return {"host": database.host, "port": database.port, "user": "postgres", "dbname": "postgres"}


def test_a_store_of_another_library(world: World) -> None:
    with FeatureStore.open(world.library.store, "r+") as store:
        store.update_tracks(list(range(12)), server_id=["some-other-server"] * 12)
    before = world.table()
    done = world.run("--write-database", "--yes")
    assert done.exit_code == 1
    assert "has a track of the store" in done.stderr
    assert world.table() == before


@pytest.fixture
def mapped(copied_library: Library, exported: Path, database: Database, tmp_path: Path) -> World:
    """Generation B with what only it has."""
    create_schema(database, "B", servers=SERVERS)
    world = World(copied_library, database, "B", exported, tmp_path)
    with FeatureStore.open(copied_library.store, "r+") as store:
        store.update_tracks(list(range(12)), server_id=["main"] * 10 + ["second"] * 2)
    old = vector_bytes(unit_vector(1))
    world.put(
        # The surest of its ids is not in the store.
        LoopbackTrack("gone", vector=old, item_id="fp_4dup", duplicates=(("t03", "path"), ("t02", "title_artist"))),
        LoopbackTrack("t01", vector=old, legacy=True),
        LoopbackTrack("t10", vector=old, item_id="fp_4second", server_id="second"),
        # On both servers.
        LoopbackTrack("t11", vector=old, item_id="fp_4both", server_id="second"),
        LoopbackTrack("t04", vector=old, item_id="fp_4both", match_tier="analysis"),
        LoopbackTrack("unmapped", vector=old, item_id="fp_4unmapped", mapped=False),
    )
    return world


def test_which_track_an_item_gets_its_vector_from(mapped: World) -> None:
    done = mapped.run("--write-database", "--yes")
    assert done.exit_code == 0, done.output
    table, new = mapped.table(), mapped.new()
    for item, track_id in {"fp_4dup": "t03", "t01": "t01", "fp_4second": "t10", "fp_4both": "t04"}.items():
        assert table[item] == new[track_id].tobytes(), item
    assert table["fp_4unmapped"] == vector_bytes(unit_vector(1))


def test_one_server_only(mapped: World) -> None:
    done = mapped.run("--write-database", "--yes", "--server", "Second")
    assert done.exit_code == 0, done.output
    table, new = mapped.table(), mapped.new()
    assert table["fp_4second"] == new["t10"].tobytes()
    assert table["fp_4both"] == new["t11"].tobytes()
    assert table["fp_4dup"] == table["t01"] == vector_bytes(unit_vector(1))
    refused = mapped.run("--write-database", "--yes", "--server", "Third")
    assert "knows no server 'Third'" in refused.stderr


def test_a_dump_that_cannot_be_written(mapped: World) -> None:
    before = mapped.table()
    (mapped.home / "file").write_bytes(b"")
    done = mapped.run("--write-database", "--yes", "--dumps", mapped.home / "file" / "below")
    assert done.exit_code == 1
    assert "nothing was changed" in done.stderr
    assert mapped.table() == before


def test_errors_are_users_errors() -> None:
    for kind in (DumpError, DatabaseError):
        assert kind("x").exit_code == 1
