"""AudioMuse-AI's database: reachable, its generation and servers, and what its user may do there."""

from __future__ import annotations

from collections.abc import Iterator

from student_clap.export.app.app_config import WRITES
from student_clap.export.doctor.check import Area, Check, Finding, passed, warning
from student_clap.export.doctor.subject import Subject


def _look(subject: Subject) -> Iterator[Finding]:
    if not subject.config.database.is_named:
        if subject.takes_vectors_from_database:
            yield warning(
                "the configuration names none, and ingest takes vectors from it",
                "set database.host and what belongs to it (DB_HOST, ... in .env), or another ingest.vectors",
            )
        return
    facts = subject.database()
    named = ", ".join(str(server) for server in facts.servers)
    n = len(facts.servers)
    servers = f"{n} media server{'s' if n > 1 else ''}: {named}" if n else "one media server, without a name"
    yield passed(f"{facts.where}: generation {facts.generation}, {servers}")
    lacking = [facts.why_no_writing] if facts.why_no_writing else []
    if facts.app.has_table and not facts.app.may_write:
        lacking.append(facts.app.why_not or f"GRANT {WRITES} to database.user for `deploy --write-settings`")
    if lacking:
        yield warning(
            f"reading is allowed, which is enough to train; writing is not: {'; '.join(lacking)}",
            "only `reembed --write-database` and `deploy --write-settings` need that",
        )
    else:
        yield passed("its user may write what `reembed` and `deploy` write")


CHECK = Check("database", Area.SOURCES, _look)
