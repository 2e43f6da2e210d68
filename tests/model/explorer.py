"""Breadth-first exploration of every state a model can reach; what it finds first is a shortest counter-example."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

__all__ = ["Exploration", "Step", "explore"]

S = TypeVar("S", bound=Hashable)
L = TypeVar("L")


@dataclass(frozen=True, slots=True)
class Step(Generic[S, L]):
    """One step of a counter-example: what happened, and what came of it. The first one has no label."""

    label: L | None
    state: S


@dataclass(frozen=True, slots=True)
class Exploration(Generic[S, L]):
    """What an exploration has found.

    Args:
        states: How many different states were reached.
        transitions: How many steps between them were tried.
        depth: How many steps the furthest state is away.
        seconds: How long it took.
        complete: Whether every reachable state was reached.
        broken: Which law does not hold in the last state of ``trace``; None when all hold everywhere.
        trace: A shortest way to that state, from an initial one.
    """

    states: int
    transitions: int
    depth: int
    seconds: float
    complete: bool
    broken: str | None = None
    trace: tuple[Step[S, L], ...] = ()


def explore(
    initial: Iterable[S],
    successors: Callable[[S], Iterable[tuple[L, S]]],
    broken: Callable[[S], str | None],
    *,
    max_states: int | None = None,
) -> Exploration[S, L]:
    """Reach every state, in the order of distance.

    Only the predecessor of each state is remembered: the labels of a counter-example are found again from that.

    Args:
        initial: Where to begin.
        successors: The steps that can be taken from a state.
        broken: Which law a state breaks, if any; the exploration ends there.
        max_states: Give up after so many.
    """
    began = time.perf_counter()
    came_from: dict[S, S | None] = {}
    frontier: list[S] = []
    transitions = depth = 0

    def result(*, complete: bool, law: str | None = None, last: S | None = None) -> Exploration[S, L]:
        trace = _trace(came_from, successors, last) if last is not None else ()
        seconds = time.perf_counter() - began
        return Exploration(len(came_from), transitions, depth, seconds, complete, law, trace)

    for state in initial:
        if state not in came_from:
            came_from[state] = None
            frontier.append(state)
            if (law := broken(state)) is not None:
                return result(complete=False, law=law, last=state)
    while frontier:
        following: list[S] = []
        for state in frontier:
            for _, reached in successors(state):
                transitions += 1
                if reached in came_from:
                    continue
                came_from[reached] = state
                if (law := broken(reached)) is not None:
                    return result(complete=False, law=law, last=reached)
                following.append(reached)
        if max_states is not None and len(came_from) > max_states:
            return result(complete=False)
        depth += bool(following)
        frontier = following
    return result(complete=True)


def _trace(
    came_from: dict[S, S | None], successors: Callable[[S], Iterable[tuple[L, S]]], last: S
) -> tuple[Step[S, L], ...]:
    way: list[S] = []
    state: S | None = last
    while state is not None:
        way.append(state)
        state = came_from[state]
    way.reverse()
    steps: list[Step[S, L]] = [Step(None, way[0])]
    for before, after in pairwise(way):
        steps.append(Step(next(label for label, state in successors(before) if state == after), after))
    return tuple(steps)
