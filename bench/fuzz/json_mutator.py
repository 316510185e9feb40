"""Mutations of JSON that stay JSON, for targets whose input is a byte and then JSON documents, one a line."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "0", "1",
    "a" * 300, "\ud800", "\x00", "\x1b[31m", "../x", "/etc/passwd", "file:///a#1", "//[", [], {}, [[]], [{}], [None],
    {"": None},
)  # fmt: skip


_LARGE = 500  # characters


def mutated(data: bytes, random_: random.Random) -> bytes | None:
    """The input with one to four values of one of its documents changed; None where there is no document."""
    head, lines = data[:1], data[1:].split(b"\n")
    number = random_.randrange(len(lines))
    try:
        box = [json.loads(lines[number])]
        for _ in range(random_.randint(1, 4)):
            _change(box, random_)
        lines[number] = json.dumps(box[0]).encode()
    except (ValueError, RecursionError):
        return None
    return head + b"\n".join(lines)


def _change(box: list[Any], random_: random.Random) -> None:
    around, key = random_.choice(list(_places(box)))
    kind = random_.randrange(5)
    if kind == 0 and around is not box:
        del around[key]
    elif kind == 1 and isinstance(around, list) and around is not box:
        around.extend(_copies(around[key], random_.randint(1, 5)))
    elif kind == 2:
        other, place = random_.choice(list(_places(box)))
        around[key] = next(iter(_copies(other[place], 1)), None)
    elif kind == 3 and isinstance(around[key], int | float):
        around[key] = random_.choice([-around[key], around[key] + 1, around[key] - 1, str(around[key])])
    else:
        around[key] = copy.deepcopy(random_.choice(_ODD))


def _copies(value: Any, n: int) -> list[Any]:
    """Copies of a value; none of a large one, or the input would grow without end."""
    text = json.dumps(value)
    return [json.loads(text) for _ in range(n)] if len(text) <= _LARGE else []


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key of a value in it."""
    found = []
    left = [value]
    while left:
        inner = left.pop()
        items = enumerate(inner) if isinstance(inner, list) else inner.items() if isinstance(inner, dict) else ()
        for key, item in items:
            found.append((inner, key))
            left.append(item)
    return found
