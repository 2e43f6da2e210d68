"""A counter-example as one reads it: a line for each step, the ticks that have passed, what is stored and committed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from tests.model.bounds import Bounds
from tests.model.explorer import Exploration
from tests.model.state import NOTHING, Kind, Label, Mode, Status, World
from tests.model.system import Event, Packed, System

__all__ = ["tell"]

_MODES = {
    Mode.READ_COMMITTED: "READ COMMITTED",
    Mode.SNAPSHOT: "REPEATABLE READ",
    Mode.AUTOCOMMIT: "AUTOCOMMIT",
    Mode.JOINED: "in an outer transaction, READ COMMITTED",
    Mode.JOINED_SNAPSHOT: "in an outer transaction, REPEATABLE READ",
    Mode.SQLITE: "SQLite",
}
_COLLECTORS = {Kind.SWEEP: "sweep", Kind.RECONCILE: "reconcile"}
_FLUSHES = ("flushes", "puts past the flush", "buries, and clears later,")


def tell(system: System, found: Exploration[Packed, Event]) -> str:
    """What an exploration has found, in words: the figures, and the counter-example if there is one."""
    bounds = system.bounds
    figures = f"{found.states} states, {found.transitions} steps, {found.seconds:.1f} s"
    if found.broken is None:
        return f"{'all laws hold' if found.complete else 'nothing found so far'}: {figures}"
    lines = [f"{found.broken} ({len(found.trace) - 1} steps; {figures}; a tick is 1/{4 * bounds.quarter} of the grace)"]
    told = [*_lines(system, found)]
    width = max(len(text) for _, text, _ in told)
    return "\n".join([*lines, *(f"  {tick:>3}  {text:<{width}}  {world}" for tick, text, world in told)])


def _lines(system: System, found: Exploration[Packed, Event]) -> Iterator[tuple[int, str, str]]:
    tick = 0
    for step in found.trace:
        world = system.view(step.state).world
        if step.label is None:
            text = "at the beginning"
        elif step.label[1] == ("time passes",):
            tick += 1
            continue
        else:
            text = _sentence(system, *step.label)
        yield tick, text, _world(world)


def _sentence(system: System, place: int, label: Label) -> str:
    bounds, first = system.bounds, system.first_collector
    verb, *rest = label
    if place == 0:
        if verb == "is staged":
            return f"file {rest[0]} {verb}"
        who = "the replica" if verb == "catches up" else "another process"
        return f"{who} {verb}"
    if place >= first:
        kind = bounds.collectors[place - first]
        many = bounds.collectors.count(kind) > 1
        who = f"{_COLLECTORS[kind]} {place - first + 1}" if many else f"the {_COLLECTORS[kind]}"
        of = f" file {rest[0]}" if rest else ""
        verb = f"{verb} at" if verb == "looks" else verb
        return f"{who} {verb}{of}{': ' + str(rest[1]) if len(rest) > 1 else ''}"
    who = f"writer {place}"
    if verb == "begins":
        return f"{who} begins ({_MODES[bounds.modes[place - 1]]})"
    if verb in _FLUSHES:
        return f"{who} {verb} {', '.join(_put(bounds, *change) for change in cast('list[tuple[int, int]]', rest))}"
    if verb == "writes":
        return f"{who} writes {_put(bounds, *cast('list[int]', rest))}"
    if verb == "copies":
        source, target = (_row(bounds, row) for row in cast("list[int]", rest))
        return f"{who} copies {source} into {target}"
    if verb == "reads":
        return f"{who} reads {', '.join(_row(bounds, row) for row in cast('list[int]', rest))}"
    if verb == "is committed in database":
        return f"{who} {verb} {rest[0]}"
    return f"{who} {verb}{f' file {rest[0]}' if rest else ''}"


def _put(bounds: Bounds, row: int, held: int) -> str:
    return f"{f'file {held}' if held != NOTHING else 'nothing'} into {_row(bounds, row)}"


def _row(bounds: Bounds, row: int) -> str:
    return f"row {row + 1}" if row < bounds.rows else "the upload session"


def _world(world: World) -> str:
    rows = " ".join("-" if held == NOTHING else str(held) for held in world.rows)
    stored = [str(each) for each, found in enumerate(world.objects, 1) if found.status == Status.STORED]
    ages = [f"{each}: {', '.join(str(age) for age, _ in row)}" for each, row in enumerate(world.tombs, 1) if row]
    return f"rows [{rows}]  stored {{{', '.join(stored)}}}  tombstones {{{'; '.join(ages)}}}"
