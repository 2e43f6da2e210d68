"""The same as `collection` with ten million objects; no part of a usual run, since it takes half an hour and 15 GB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.benchmarks.bench_collection import reconcile, sweep
from tests.benchmarks.harness import Case


def cases(*, quick: bool) -> list[Case]:
    databases: Sequence[str] = ("SQLite", "PostgreSQL")
    objects, garbage = (3000, 100) if quick else (10_000_000, 10_000)
    found = [
        case for on in databases for case in (reconcile(objects, on, rounds=2), sweep(garbage, objects, on, rounds=3))
    ]
    # granite-storage keeps a gigabyte for each million.
    ours = [
        replace(each, contenders=[one for one in each.contenders if one.kind != "peer"], goals=()) for each in found
    ]
    return [replace(each, on_disk=True) for each in ours]


__all__ = ["cases"]
