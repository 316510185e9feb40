"""README, CONTRIBUTING and docs/*.md as a reader of commands sees them: blocks, commands, links.

A block is fenced, or indented by four columns more than the text that it stands in. A block is a shell's where a line
of it begins with a program that is known here; then every line of it is a command, or, where lines begin with `$ `,
those lines alone are, and the others are what the commands print.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = (
    "(?:accelerate|apptainer|apt|apt-get|buildah|cd|cp|crane|curl|dask|docker|export|git|helm|kill|kubectl|make|mkdir|mv"
    "|nano|oras|pip|podman|psql|pytest|python3?|rsync|sbatch|scancel|sed|scontrol|skopeo|srun|ssh|student-clap|sudo"
    "|tensorboard|torchrun|uv)"
)
_BEGINS = re.compile(rf"(?:exec |[A-Za-z_]+=\$\(|(?:[A-Z_]+=\S+ )+)*{_PROGRAM}(?:[ \n]|$)")
_SPAN = re.compile(r"(?<!`)`((?:student-clap|make|python|pip)\s[^`]+)`(?!`)")
_FENCE = re.compile(r"( *)(`{3,}|~{3,})(\S*)")
_LIST_ITEM = re.compile(r"( *)(?:[-*]|\d+\.) +")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)|!\[[^\]]*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of a page."""

    line: int  # of its first line, from 1
    language: str  # as the fence says; "" where it says none
    text: str

    @property
    def is_shell(self) -> bool:
        """Whether its lines are commands."""
        if self.language:
            return self.language in {"sh", "bash", "shell", "console"}
        return any(_BEGINS.match(line.removeprefix("$ ")) for line in self.text.splitlines())


@dataclass(frozen=True)
class Command:
    """A command as the page has it, on one line, without its comment; or a script that the shell is given."""

    page: str  # relative to the repository
    line: int
    text: str
    inline: bool = False  # a span of a sentence
    error: str = ""  # how the error begins that the page shows below it

    @property
    def place(self) -> str:
        """Where it stands, for a message."""
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Page:
    """A page and what it shows."""

    name: str
    text: str
    blocks: tuple[Block, ...]
    prose: tuple[tuple[int, str], ...]  # number and text of the lines that are in no block

    @property
    def commands(self) -> list[Command]:
        """All of its blocks in their order, then those in sentences, each text once."""
        shown: list[Command] = []
        for block, below in zip_longest(self.blocks, self.blocks[1:]):
            if block.is_shell:
                shown += _commands(self.name, block)
                lines = block.text.count("\n")
                if below and below.text.startswith("Error: ") and below.line <= block.line + lines + 3:
                    shown[-1] = replace(shown[-1], error=below.text[:40])
        prose = "\n".join(text for _, text in self.prose)
        numbers = [number for number, text in self.prose]
        spans = [
            Command(self.name, numbers[prose.count("\n", 0, found.start())], " ".join(found[1].split()), inline=True)
            for found in _SPAN.finditer(prose)
        ]
        unseen = {command.text: command for command in reversed(spans) if command.text not in {c.text for c in shown}}
        return [*shown, *reversed(unseen.values())]

    @property
    def scripts(self) -> list[Command]:
        """Its blocks of Python, each as the command that runs it."""
        text = "python - <<'PYTHON'\n{}PYTHON"
        return [Command(self.name, b.line, text.format(b.text)) for b in self.blocks if b.language == "python"]

    @property
    def links(self) -> list[str]:
        """Targets of its links and pictures."""
        prose = re.sub(r"`[^`]*`", "", "\n".join(text for _, text in self.prose))
        return [found[1] or found[2] for found in _LINK.finditer(prose)]

    @property
    def anchors(self) -> set[str]:
        """What a link's `#...` may name, as GitHub makes it of the headings."""
        names: list[str] = []
        for _, text in self.prose:
            if match := re.match(r"#{1,6} +(.+?) *$", text):
                plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
                name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
                names.append(f"{name}-{names.count(name)}" if name in names else name)
        return set(names)


@cache
def pages() -> tuple[Page, ...]:
    """README first, then CONTRIBUTING, then docs in the order of their names."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return tuple(read_page(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


def read_page(name: str, text: str) -> Page:
    """Tell a page's blocks from its sentences."""
    lines = text.splitlines()
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    place, margin = 0, 0  # margin: columns by which the list that we are in indents its text
    while place < len(lines):
        line = lines[place]
        start = place
        if fence := _FENCE.match(line):
            place += 1
            while place < len(lines) and not lines[place].strip().startswith(fence[2]):
                place += 1
            blocks.append(Block(start + 2, fence[3], _dedented(lines[start + 1 : place], len(fence[1]))))
            place += 1
            continue
        indent = len(line) - len(line.lstrip())
        if item := _LIST_ITEM.match(line):
            inside = indent < margin + 4
            margin = item.end() if inside else margin
        elif line.strip() and indent < margin:
            margin = indent if indent < 2 else margin  # a paragraph at the margin ends the list
        if line.strip() and indent >= margin + 4 and (start == 0 or not lines[start - 1].strip()):
            while place < len(lines) and (not lines[place].strip() or _indent(lines[place]) >= margin + 4):
                place += 1
            blocks.append(Block(start + 1, "", _dedented(lines[start:place], margin + 4)))
            continue
        prose.append((start + 1, line))
        place += 1
    return Page(name, text, tuple(blocks), tuple(prose))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _dedented(lines: list[str], columns: int) -> str:
    return "\n".join(line[columns:] if line.strip() else "" for line in lines).rstrip() + "\n"


def _commands(page: str, block: Block) -> Iterator[Command]:
    lines = block.text.splitlines()
    prompted = any(line.startswith("$ ") for line in lines)
    number = 0
    while number < len(lines):
        first, line = number, lines[number]
        number += 1
        while number < len(lines) and (line.endswith("\\") or lines[number].lstrip().startswith("[")):
            line = f"{line.removesuffix(chr(92)).rstrip()} {lines[number].strip()}"
            number += 1
        if prompted and not line.startswith("$ "):
            continue
        if text := re.sub(r"(?:^|\s+)#.*$", "", line.removeprefix("$ ")).strip():
            yield Command(page, block.line + first, text)
