"""The old vectors in AudioMuse-AI's table replaced by a library's new ones, and put back.

Every row's state follows from its content: it holds the new vector, or what a dump has of it, or something else. So
both ways may be run again at any time, and go on where a killed process stopped.

Guarantee: before the first row is changed, every row that is to be is in a dump that was read back. A row that another
program changes meanwhile is left as that program made it, and counted. Cost: 2 kB per track in memory for the new
vectors, 100 bytes per row for the plan; a read of the table and a write of the rows that differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from student_clap.export.app.clap_table import ClapTable, Content, Exchange, ExchangeOutcome, Item
from student_clap.export.app.library import why_not_a_vector
from student_clap.export.app.library_file import LibraryVectors
from student_clap.export.app.vector_dump import (
    Dump,
    DumpedRow,
    DumpError,
    covered,
    mark,
    new_dump_path,
    open_dump,
    writing_dump,
)

BATCH_ROWS = 500
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class PlannedRow:
    """A row that is to get another vector."""

    item_id: str
    expected: bytes  # fingerprint of what is there
    at: int  # the new vector's row


@dataclass
class Plan:
    """The rows of the table that are to change, and those that are not."""

    rows: list[PlannedRow] = field(default_factory=list)
    inserts: int = 0  # of rows: items that have no row yet
    already: int = 0  # rows that hold their new vector
    kept: list[tuple[Item, str]] = field(default_factory=list)  # rows that keep an old vector, and why
    dump: Path | None = None  # the new dump, of the rows that older ones lack; None where they have every row
    n_dumped: int = 0  # rows of the new dump

    def back(self, dumps: Path) -> Path:
        """What puts every row back: the new dump where it has them all, else the folder of all dumps."""
        return self.dump if self.dump is not None and self.n_dumped == len(self.rows) else dumps

    @property
    def updates(self) -> int:
        """Rows whose content is replaced."""
        return len(self.rows) - self.inserts


class Declined(Exception):  # noqa: N818  not an error
    """The user did not confirm."""


def vector_bytes(vectors: LibraryVectors, row: int) -> bytes:
    """A vector as the app stores it: 2048 bytes, little-endian float32.

    Raises:
        ValueError: it is not finite, or not of unit length within 1e-6.
    """
    vector = vectors.vectors[row]
    if fault := why_not_a_vector(vector):
        raise ValueError(fault)
    return np.asarray(vector, "<f4").tobytes()


def make_plan(
    table: ClapTable,
    items: Iterable[Item],
    vectors: LibraryVectors,
    dumps: Path,
    metadata: Mapping[str, str],
    confirm: Callable[[Plan], bool],
) -> Plan:
    """Compare the table with the new vectors, dump the rows that differ, and ask.

    Args:
        table: the open table.
        items: what it holds.
        vectors: the new ones.
        dumps: folder of dumps.
        metadata: of the model, for the dump.
        confirm: asked once, when everything is known and nothing is written; False leaves no trace.

    Raises:
        Declined: `confirm` said no.
        DumpError: the dump cannot be written, or does not read back as what was read from the database.
    """
    plan, have = Plan(), covered(dumps, table.identity)
    path = new_dump_path(dumps, table.identity)
    with writing_dump(path, table.identity, metadata) as dump:
        for item in items:
            row = _plan_item(plan, item, vectors)
            if row is not None and mark(row) not in have:
                dump.add(row)
        plan.n_dumped = dump.n_rows
        plan.dump = path if dump.n_rows else None
        if plan.rows and not confirm(plan):
            raise Declined
    if plan.dump is not None:
        written = open_dump(plan.dump)
        if (written.n_rows, written.sha256) != (dump.n_rows, dump.digest.hexdigest()):
            raise DumpError(f"{plan.dump} does not hold what was read from the database; nothing was changed")
        written.verify()
    return plan


def replace_rows(
    table: ClapTable, plan: Plan, vectors: LibraryVectors, advance: Callable[[int], object]
) -> Counter[ExchangeOutcome]:
    """Write the new vectors of the plan's rows, a batch at a time.

    Args:
        table: the open table.
        plan: from `make_plan`; its rows are dumped.
        vectors: those that it was made with.
        advance: called with the rows of each batch that was committed.

    Raises:
        DatabaseError: nothing more can be written. Committed batches stay; run it again.
    """
    outcomes: Counter[ExchangeOutcome] = Counter()
    for batch in _batches(plan.rows):
        wanted = [Content(there=True, embedding=vector_bytes(vectors, row.at)) for row in batch]
        exchanges = [Exchange(r.item_id, r.expected, w) for r, w in zip(batch, wanted, strict=True)]
        outcomes.update(table.exchange(exchanges))
        advance(len(batch))
    return outcomes


def restorable(table: ClapTable, dump: Dump, *, overwrite: bool) -> Counter[ExchangeOutcome]:
    """How `restore_rows` would end, were it run now; changes nothing."""
    outcomes: Counter[ExchangeOutcome] = Counter()
    for rows in dump.rows():
        present = table.contents([row.item_id for row in rows])
        outcomes.update(_found(present.get(row.item_id), row, overwrite=overwrite) for row in rows)
    return outcomes


def restore_rows(
    table: ClapTable, dump: Dump, *, overwrite: bool, advance: Callable[[int], object]
) -> Counter[ExchangeOutcome]:
    """Put back what a dump has, a batch at a time.

    Args:
        table: the open table.
        dump: a whole one.
        overwrite: also over contents that are neither old nor what was written over it.
        advance: called with the rows of each batch that was committed.

    Raises:
        DatabaseError: nothing more can be written. Committed batches stay; run it again.
    """
    outcomes: Counter[ExchangeOutcome] = Counter()
    for rows in dump.rows():
        for batch in _batches(rows):
            if overwrite:
                present = table.contents([row.item_id for row in batch])
                expected = [present[r.item_id].fingerprint if r.item_id in present else r.written for r in batch]
            else:
                expected = [row.written for row in batch]
            exchanges = [Exchange(row.item_id, e, row.old) for row, e in zip(batch, expected, strict=True)]
            outcomes.update(table.exchange(exchanges))
            advance(len(batch))
    return outcomes


def _plan_item(plan: Plan, item: Item, vectors: LibraryVectors) -> DumpedRow | None:
    """Add an item to the plan. Returns its row for the dump; None where it stays as it is."""
    at = vectors.find(item.tracks)
    if at is None:
        if item.content.there:
            plan.kept.append(
                (item, "no new vector of it" if item.tracks else "no media server that was asked for has it")
            )
        return None
    wanted = Content(there=True, embedding=vector_bytes(vectors, at)).fingerprint
    expected = item.content.fingerprint
    if expected == wanted:
        plan.already += 1
        return None
    plan.rows.append(PlannedRow(item.item_id, expected, at))
    plan.inserts += not item.content.there
    return DumpedRow(item.item_id, item.content, wanted)


def _found(present: Content | None, row: DumpedRow, *, overwrite: bool) -> ExchangeOutcome:
    if present is None:
        return ExchangeOutcome.GONE
    if present == row.old:
        return ExchangeOutcome.ALREADY
    return ExchangeOutcome.DONE if overwrite or present.fingerprint == row.written else ExchangeOutcome.OTHER


def _batches(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    return (rows[begin : begin + BATCH_ROWS] for begin in range(0, len(rows), BATCH_ROWS))
