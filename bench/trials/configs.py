"""The table of hostile configurations: each is one clear line that names the file, without a traceback, soon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from trials.trial import Trial

_MOST_CPU_S = 3.0  # of the whole command, its start included
_LONGEST_LINE = 700  # characters
_PATIENCE_S = 60.0


def _bomb(depth: int) -> str:
    """Lists of nine aliases to the list before: 9 ** depth values in a few hundred bytes."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


def _merges(depth: int) -> str:
    """Sections that merge the section before, nine times each."""
    lines = ["m0: &m0 {x: 1}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


_TEXTS: dict[str, str | bytes] = {
    "an alias bomb": _bomb(12),
    "an alias bomb in a setting": "ingest:\n  map: &d [*d, *d]\n",
    "a bomb of merges": _merges(12),
    "2000 lists in one another": "a: " + "[" * 2000 + "]" * 2000,
    "100000 lists that never end": "[" * 100_000,
    "sections in one another": "".join(" " * n + "a:\n" for n in range(900)),
    "60000 keys": "".join(f"k{n}: 1\n" for n in range(60_000)),
    "a megabyte of text": "a: " + "x " * 500_000,
    "a number of 100000 digits": "training:\n  epochs: " + "9" * 100_000 + "\n",
    "a power without end": "training:\n  learning_rate: 1e999999999\n",
    "an infinite rate": "training:\n  learning_rate: .inf\n",
    "not a number": "training:\n  learning_rate: .nan\n",
    "a negative number": "training:\n  epochs: -3\n",
    "a list for a number": "training:\n  epochs: [1, 2]\n",
    "a text for a section": "training: many\n",
    "a list for the file": "- training\n- store\n",
    "a number for the file": "42\n",
    "an unknown key with an escape code": '"\\e[2J\\e[31mstore": 1\n',
    "a key with a line break": '"store\\nError: all is lost": 1\n',
    "a key that overrides the text's direction": '"\\u202egnirts": 1\n',
    "a call of Python": "store: !!python/object/apply:os.system [id]\n",
    "a tag that nobody knows": "store: !secret {path: x}\n",
    "the same key twice": "training:\n  epochs: 1\n  epochs: 2\n",
    "the same section twice": "training: {epochs: 1}\ntraining: {epochs: 2}\n",
    "one setting by two names": "training:\n  lr: 0.1\n  learning_rate: 0.2\n",
    "tabs": "training:\n\tepochs: 1\n",
    "a variable without its end": "database:\n  port: ${HOME\n",
    "a size of words": "featurize:\n  memory_limit: lots\n",
    "a time of words": "featurize:\n  walltime: soon\n",
    "an empty path": 'store:\n  path: ""\n',
    "a path with a zero byte": 'store:\n  path: "a\\0b"\n',
    "an address of another scheme": "jellyfin:\n  url: file:///etc/passwd\n",
    "two documents": "store: {path: a}\n---\nstore: {path: b}\n",
    "half a document": "training: {epochs: 1, \n",
    "a directive of YAML 9": "%YAML 9.9\n---\n{}\n",
    "a surrogate": b"store: \xed\xa0\x80\n",
    "bytes that are no text": bytes(range(128, 256)),
    "zeros": bytes(5000),
    "a ZIP": b"PK\x03\x04" + bytes(range(256)) * 20,
}
HOSTILE = {name: text if isinstance(text, bytes) else text.encode() for name, text in _TEXTS.items()}


def configs_table(folder: Path, given: Path | None) -> Iterator[Trial]:
    """Try them all, and the *.yaml of `given`."""
    for name, content in HOSTILE.items():
        path = folder / "config.yaml"
        path.write_bytes(content)
        yield _tried(path, name)
    for path in sorted(given.glob("*.yaml")) if given is not None else ():
        yield _tried(path, f"given: {path.name}")


def _tried(path: Path, name: str) -> Trial:
    before = os.times()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "student_clap.config", "config", "--config", path],
            capture_output=True, cwd=path.parent, timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Trial(name, "no end", f"no end within {_PATIENCE_S:.0f} s")
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    said = done.stderr.decode(errors="backslashreplace").strip()
    # The record is committed: it names no folder of this machine.
    shown = said.replace(str(path.parent.resolve()), "DIR").replace(str(path.parent), "DIR")
    figures = {"exit": done.returncode, "cpu_s": round(cpu_s, 2), "said": shown[:400]}
    if done.returncode == 0:
        return Trial(name, "taken", "it is taken as it is", figures)
    return Trial(name, "one line", _fault(said, done.returncode, cpu_s, path), figures)


def _fault(said: str, exit_code: int, cpu_s: float, path: Path) -> str:
    heading, *lines = said.splitlines() or [""]
    if exit_code != 1 or "Traceback" in said:
        return f"exit code {exit_code}: {said[-300:]}"
    if heading != f"Error: {path}:" or len(lines) != 1:
        return f"{len(lines)} lines under {heading!r}"
    if len(lines[0]) > _LONGEST_LINE or not lines[0].isprintable():
        return f"the line is {len(lines[0])} characters long, or not printable"
    return f"{cpu_s:.1f} s of CPU" if cpu_s > _MOST_CPU_S else ""
