"""What a worker does next: transactions made up from a seed, before any row is seen."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["BORROWING", "GROWING", "Content", "Plan", "Step", "Verb", "plans"]

Verb = Literal[
    "add",
    "add large",
    "insert",
    "replace",
    "clear",
    "delete",
    "share",
    "move",
    "remember",
    "album",
    "append",
    "shorten",
    "reorder",
    "exchange",
    "drop album",
    "update statement",
    "delete statement",
    "delete beneath",
    "clear beneath",
    "abandon",
    "break off",
]

Kind = Literal["plain", "autocommit", "joined"]
_KINDS: tuple[Kind, ...] = get_args(Kind)

_CONTENTS: dict[Verb, tuple[int, int]] = {
    "add": (1, 3),
    "add large": (1, 1),
    "insert": (1, 3),
    "replace": (1, 1),
    "album": (0, 4),
    "append": (1, 2),
    "exchange": (1, 1),
    "update statement": (1, 1),
    "abandon": (1, 2),
    "break off": (1, 1),
}
"""From how many to how many contents a verb takes."""

BORROWING: frozenset[Verb] = frozenset({"share", "move", "remember"})
"""Verbs that give a row a file which is another row's, and may be let go in the same moment: a refusal is right."""

GROWING: frozenset[Verb] = frozenset({"add", "add large", "insert", "share", "remember", "album"})
_RARE: frozenset[Verb] = frozenset({"add large", "break off", "delete statement", "delete beneath", "drop album"})
_SIZES = (0, 1, 300, 5_000, 64 * 1024, 300_000)


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that can be told again from their seed."""

    seed: int
    size: int

    def make(self) -> bytes:
        return random.Random(self.seed).randbytes(self.size)

    @staticmethod
    def digest(made: bytes) -> str:
        return hashlib.sha256(made).hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing a transaction does.

    Args:
        verb: What.
        rows: Which rows, as fractions of those there are.
        contents: What to store for it.
        staged: Whether that is stored before the transaction; else the flush does.
        savepoint: Whether it is done in a savepoint, and what becomes of that.
    """

    verb: Verb
    rows: tuple[float, ...]
    contents: tuple[Content, ...]
    staged: bool
    savepoint: Literal["none", "released", "undone"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction.

    Args:
        number: Its number in this worker's life.
        session: A session of its own; one on an engine that commits every statement; one joined to a transaction of a
            connection's.
        steps: What it does.
        locks: Whether it locks its rows before it changes them.
        flushes: Whether it flushes before it ends.
        ending: How it ends; "again" rolls back, and commits the same files in new rows.
        rest: How many seconds pass after it.
    """

    number: int
    session: Kind
    steps: tuple[Step, ...]
    locks: bool
    flushes: bool
    ending: Literal["commit", "rollback", "close", "again"]
    rest: float

    @property
    def borrows(self) -> bool:
        return any(step.verb in BORROWING for step in self.steps)


def plans(seed: str, *, large: int, pause: float) -> Iterator[Plan]:
    """Yield transactions without end, always the same ones for a seed.

    Args:
        seed: Where they begin.
        large: From so many bytes on, an object is stored in parts.
        pause: How many seconds to rest between two, on average.
    """
    dice = random.Random(seed)
    number = 0
    while True:
        number += 1
        count = dice.choices((1, 2, 3), (6, 3, 1))[0]
        session: Kind = dice.choices(_KINDS, (6, 1, 1))[0]
        steps = tuple(_step(dice, large, session) for _ in range(count))
        yield Plan(
            number,
            session,
            steps,
            locks=count > 1 or len(steps[0].rows) > 1 or dice.random() < 0.5,
            flushes=dice.random() < 0.5,
            ending=dice.choices(("commit", "rollback", "close", "again"), (16, 2, 1, 1))[0],
            rest=dice.expovariate(1 / pause) if pause else 0,
        )


def _step(dice: random.Random, large: int, session: Kind) -> Step:
    verbs = get_args(Verb)
    verb: Verb = dice.choices(verbs, [0.25 if each in _RARE else 2 if each == "add" else 1 for each in verbs])[0]
    contents = []
    for _ in range(dice.randint(*_CONTENTS.get(verb, (0, 0)))):
        size = dice.choice(_SIZES)
        if verb in ("add large", "break off"):
            size = large + dice.randrange(1, large // 2)
        contents.append(Content(dice.getrandbits(64), size))
    count = {"move": 2, "delete statement": dice.randint(1, 6), "delete beneath": dice.randint(1, 6)}.get(verb, 1)
    return Step(
        verb,
        tuple(dice.random() for _ in range(count)),
        tuple(contents),
        staged=verb in ("abandon", "break off") or dice.random() < 0.6,
        # There is none where every statement commits.
        savepoint=dice.choices(("none", "released", "undone"), (6, 1, 1) if session != "autocommit" else (1, 0, 0))[0],
    )
