"""The teacher's vectors: whether ingest would get any from the place that `ingest.vectors` names."""

from __future__ import annotations

from collections.abc import Iterator

from student_clap.export.doctor.check import Area, Check, Finding, failure, passed, refused, warning
from student_clap.export.doctor.subject import Subject
from student_clap.ingest.vectors.open import kind_of, open_vector_source


def _look(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    if subject.takes_vectors_from_database:
        facts = subject.known_database()
        if facts is not None and facts.why_no_tracks:
            yield refused(facts.why_no_tracks)
        elif facts is not None:
            yield passed(f"{facts.n_tracks} of {facts.server} in the database")
    elif not kind_of(config).has_vectors:
        yield from _by_the_teacher(subject)
    elif subject.settings.unset:
        yield warning("not looked at, because a setting is missing", "see configuration")
    else:
        with open_vector_source(config, None) as source:
            n_tracks = source.count()
            number = "vectors" if n_tracks is None else f"{n_tracks} vectors"
            yield passed(f"{number} of {source.server} ({config.ingest.vectors})")


def _by_the_teacher(subject: Subject) -> Iterator[Finding]:
    model = subject.config.teacher.model
    if model is None:
        yield warning(
            "none yet: the teacher makes them", "set teacher.model, or `student-clap featurize --teacher ONNX`"
        )
    elif not model.is_file():
        yield failure(f"teacher.model {model} is not there", "correct its path")
    else:
        yield passed(f"the teacher {model} makes them")


CHECK = Check("vectors", Area.SOURCES, _look)
