"""The text of a model card: Markdown behind a head of YAML (`front_matter`). Pure.

Guarantee: text that comes from elsewhere (names of artists, of the teacher, of files) stands in code spans on one line,
so that no name can be markup, a link or a line of its own. With the library's facts left out none of them is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from student_clap.config.runtime.text import counted, one_line
from student_clap.config.schema import EMBEDDING_DIM
from student_clap.export.card.facts import Facts
from student_clap.export.card.front_matter import front_matter
from student_clap.export.model.app_settings import app_mel, app_variables
from student_clap.export.model.metadata import ANY_BATCH
from student_clap.featurize.onnx.input_spec import WAVEFORM_NAME

_LIMITS = """\
It imitates the teacher on music like that of the library it was trained on; on other music, speech or noise nobody \
has measured it, and it is never better than its teacher.
Its vectors are near the teacher's, not equal. Old and new vectors should not share an index: give the whole library \
new ones (`student-clap reembed`).
It finds what sounds alike to the teacher. It knows no words of a song, no names, no dates.
The file was tried in onnxruntime on a CPU; `student-clap check --provider all` tries it on what another machine has.\
""".splitlines()
_NAMED_ARTISTS = 50
_LONGEST = 120


def code(text: object) -> str:
    r"""Foreign text as a code span on one line, in which Markdown knows no markup.

    >>> code("a\n`b` <script>"), code("")
    ("`a 'b' <script>`", '`(no name)`')
    """
    line = one_line(text, _LONGEST).strip().replace("`", "'")
    return f"`{line or '(no name)'}`"


def card_text(facts: Facts) -> str:
    """The whole card."""
    parts = (
        [f"# {code(facts.file)}", *_what_it_is(facts)],
        ["## Input and output", *_ends(facts)],
        ["## Teacher and space", *_teacher(facts)],
        ["## How good it is", *_figures(facts)],
        ["## What was held out", *_held_out(facts)],
        *([["## Fewer bits", *_quantised(facts)]] if facts.quantisation else []),
        ["## Limits", *_limits(facts)],
        ["## What this tells of the library", *_library(facts)],
        ["## Check it", *_check(facts)],
    )
    return front_matter(facts) + "\n" + "\n\n".join("\n\n".join(part) for part in parts) + "\n"


def _what_it_is(facts: Facts) -> Iterator[str]:
    said = facts.metadata
    parameters = said.get("parameters", "")
    size = f"{facts.n_bytes / 1e6:.2f} MB" + (f", {int(parameters):,} parameters" if parameters.isdecimal() else "")
    yield (
        "A small audio encoder, distilled from a CLAP teacher by student-clap. It turns ten seconds of music into "
        f"{EMBEDDING_DIM} numbers in the teacher's space, where the teacher's text encoder searches. Architecture "
        f"{code(said.get('architecture', ''))}; {size}; written by student-clap"
        f" {code(said.get('package_version', ''))}."
    )
    if facts.spec.waveform:
        yield "It takes samples and makes its own mel: for clients that have none, and not for AudioMuse-AI."
    elif said.get("batch") == ANY_BATCH:
        yield "It takes any number of segments a run: for those who feed batches, and not for AudioMuse-AI."
    else:
        yield "It takes the place of AudioMuse-AI's audio model (`student-clap deploy`)."
    if facts.terms.weights:
        yield (
            "The file also carries the student as it was trained, in float32, so that another training can begin with "
            f"it: `student-clap train --from {_argument(facts.file)}`."
        )
    if facts.terms.licence:
        yield f"Licence, as its maker named it: {code(facts.terms.licence)}."
    else:
        yield (
            "Licence: its maker has named none (`student-clap export --license ID` does). student-clap's code is under "
            "AGPL-3.0; that says nothing of weights, and the teacher's own licence may."
        )


def _ends(facts: Facts) -> Iterator[str]:
    spec, recipe, rate = facts.spec, facts.spec.recipe, facts.spec.recipe.sample_rate
    rows: list[tuple[str, str]] = []
    band = f"{recipe.fmin_hz:g} to {recipe.fmax_hz:g} Hz"
    length, step = recipe.segment_samples / rate, recipe.segment_hop_samples / rate
    if spec.waveform:
        rows.append(("input", f"`{WAVEFORM_NAME}`, float32 `[batch, samples]`, 48 kHz mono, ten seconds or less"))
    else:
        batch, *rest = spec.shape.full
        first = "batch" if facts.metadata.get("batch") == ANY_BATCH else str(batch)
        rows.append(("input", f"{code(spec.name)}, float32 `[{first}, {', '.join(map(str, rest))}]`, decibels"))
    rows += [
        ("output", f"float32 `[{'batch' if spec.any_batch else 1}, {EMBEDDING_DIM}]`, unit length"),
        ("audio", f"{rate} Hz, mono, through 16 bits; the first {recipe.max_samples / rate:g} s of a track"),
        ("mel", f"{recipe.n_mels} bands (Slaney) of {band}, FFT {recipe.n_fft}, hop {recipe.hop_samples}"),
        ("its values", "10 log10 of the power, -100 dB at least"),
        ("segments", f"{length:g} s, one every {step:g} s; a longer track ends with its last {length:g} s"),
        ("a track's vector", "the mean of its segments' vectors, brought to unit length"),
        ("recipe's fingerprint", code(recipe.fingerprint)),
    ]
    yield "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows)])
    if not spec.waveform and facts.metadata.get("batch") != ANY_BATCH:
        others = app_variables(spec)
        yield (
            "AudioMuse-AI's settings for it"
            + (
                ", of which these differ from the app's defaults: " + ", ".join(f"`{key}`" for key in others)
                if others
                else ", which are the app's defaults"
            )
            + ":"
        )
        yield "\n".join(["```", *(f"{key}={value}" for key, value in app_mel(spec).items()), "```"])


def _teacher(facts: Facts) -> Iterator[str]:
    if facts.teacher:
        yield f"The teacher, as the maker declared it: {code(facts.teacher)}. A database of vectors does not name it."
    else:
        yield "The maker has not declared whose vectors the student learnt (`teacher.name`)."
    if facts.teacher_digest:
        digest = code(facts.teacher_digest)
        yield f"The student learnt vectors of single segments; the digest of the teacher's files is {digest}."
    else:
        yield "The teacher's file was not at hand, so that no digest of it is known."
    yield (
        "`space.json` has the identity of the space for programs. Vectors of two models may be compared where its `id` "
        "is the same; they should still not share one index (see Limits)."
    )


def _figures(facts: Facts) -> Iterator[str]:
    seen = facts.evaluation
    if seen is None:
        figures = facts.trained_figures
        if not figures:
            yield "No figures are known: the model was not evaluated (`student-clap evaluate`)."
            return
        whose = "the float student's, measured" if facts.quantisation else "measured"
        yield (
            f"These are {whose} by training on its validation tracks, from the store's features. Those tracks chose "
            "the epoch, so the figures flatter; they have no intervals. `student-clap evaluate` puts its own here."
            + _known_before(facts.heard, facts)
        )
        yield _table(("figure", "student"), [(name, f"{value:.3f}") for _, name, value in figures])
        return
    of = f"{seen.n_tracks} {seen.on} tracks" if facts.terms.library_facts else f"the {seen.on} tracks"
    if facts.terms.library_facts and seen.n_artists is not None:
        of += f" by {counted(seen.n_artists, 'artist')}"
    chose = (
        "Nothing was chosen by them."
        if seen.on == "test"
        else "They chose the epoch, so the figures flatter a little; a run with `split.test_folds` keeps others."
    )
    yield (
        f"Measured by `student-clap evaluate` on {of}{', none of which was trained on' if seen.heard == 0 else ''}. "
        f"{chose} 1 is best. In brackets 95 % intervals by bootstrap over tracks; with few artists the truth is wider. "
        "Two predictors that know nothing of the single track stand beside it: the training tracks' mean vector, and "
        f"another track's vector.{_known_before(seen.heard, facts)}"
    )
    rows = []
    for figure in seen.figures:
        interval = "" if figure.interval is None else " ({:.3f} to {:.3f})".format(*figure.interval)
        rows.append(
            (figure.name, f"{_number(figure.student)}{interval}", _number(figure.mean_vector), _number(figure.shuffled))
        )
    yield _table(("figure", "student", "mean vector", "another track's"), rows)


def _known_before(heard: int | None, facts: Facts) -> str:
    """What is to be said where the model may know the tracks that it is judged by; "" where it does not."""
    if heard is None:
        return (
            " Nothing tells whether it, or the student that its run began with, was trained on these tracks; if so, "
            "the figures flatter."
        )
    if not heard:
        return ""
    some = counted(heard, "track") if facts.terms.library_facts else "some of the tracks"
    return (
        f" The student that its run began with may have been trained on the artists of {some} that the run held out, "
        "so the figures flatter."
    )


def _held_out(facts: Facts) -> Iterator[str]:
    yield (
        "Whole artists were held out, so that no track of an artist is on two sides: those of the validation side "
        "chose the epoch; those of the test side, where the run kept one, chose nothing."
    )
    if not facts.terms.library_facts:
        yield "How many, and who, is left out."
        return
    held = facts.held_out
    sides = {"training": held.training_tracks, "validation": held.validation_tracks, "test": held.test_tracks}
    known = [f"{count} {side} tracks" for side, count in sides.items() if count]
    if known:
        yield f"The run had {', '.join(known)}."
    for side, artists in (("Validation", held.validation_artists), ("Test", held.test_artists)):
        if artists:
            yield f"{side} artists ({len(artists)}): {_names(artists)}."
    if not (known or held.validation_artists or held.test_artists):
        yield "The run's own record was not at hand."


def _quantised(facts: Facts) -> Iterator[str]:
    said = facts.quantisation
    quality = said.get("quality")
    yield f"Made of the float student: {code(said.get('method', ''))}."
    if isinstance(quality, dict) and isinstance(quality.get("mean"), float | int):
        yield f"Mean centred cosine to the float student on segments of validation tracks: {quality['mean']:.4f}."
    speed = said.get("speed")
    if isinstance(speed, dict) and isinstance(speed.get("speedup"), float | int):
        yield f"{speed['speedup']:.2f} times as fast, measured on {code(said.get('measured_on', ''))}."
    else:
        yield (
            f"It was made for {code(said.get('for', 'another machine'))} on another machine, and **nobody has timed it "
            "there**. It may be slower than the float student. On the machine that is to run it:"
        )
        yield "\n".join(["```", f"student-clap bench {_argument(facts.file)} --against student.onnx", "```"])
        yield (
            "`student.onnx` is the float student. A ratio above 1 in its line says that it takes longer, so that this "
            "file pays; with less than 1.05 take the float student."
        )


def _limits(facts: Facts) -> Iterator[str]:
    recipe = facts.spec.recipe
    heard = f"Of a track it hears the first {recipe.max_samples / recipe.sample_rate:g} seconds."
    yield "\n".join(f"- {line}" for line in (*_LIMITS, heard))


def _library(facts: Facts) -> Iterator[str]:
    if not facts.terms.library_facts:
        yield (
            "This model was exported with `--no-library-facts`: neither this card nor the file's metadata has names or "
            "numbers of artists or tracks, the store's identity, or the names of run and checkpoint. The weights "
            "themselves were learnt from the library, and the figures were measured on it."
        )
        return
    yield (
        "This card names the artists that were held out and says how many tracks there were. The ONNX file's metadata "
        "has the store's random identity, the names of run and checkpoint and, of some forms, numbers of tracks and "
        "segments. No file of the model has titles or audio. `student-clap export --no-library-facts` leaves all of "
        "that out. The run's folder has much more (`split.json`, `evaluation/`, checkpoints), and is not part of the "
        "model."
    )


def _check(facts: Facts) -> Iterator[str]:
    yield f"SHA-256 of the file: `{facts.sha256}`."
    yield "\n".join(
        ["```", "sha256sum -c --ignore-missing SHA256SUMS", f"student-clap check {_argument(facts.file)}", "```"]
    )


def _names(artists: Sequence[str]) -> str:
    more = len(artists) - _NAMED_ARTISTS
    return ", ".join(map(code, artists[:_NAMED_ARTISTS])) + (f" and {more} more" if more > 0 else "")


def _argument(file: str) -> str:
    """A file's name in a block of commands; one that a shell would not take as it is, in words."""
    plain = all(c.isalnum() or c in "._-" for c in file) and not file.startswith("-")
    return file if plain else "MODEL.onnx"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cell(text: str) -> str:
    """Text for a table's cell: a bar would end it, in a code span too."""
    return text.replace("|", "\\|")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
