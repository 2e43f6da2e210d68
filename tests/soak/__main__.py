"""Run a soak and print its figures: python -m tests.soak [--minutes 60] [--seed 7] [--workers 6] …

Exits with 0 where nothing was lost, nothing lingers and nothing went wrong; else with 1, and the journals stay.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.broker import VARIABLE, Broker, ask

from .chief import Soak, Team
from .figures import Figures
from .site import Bucket, Site

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _parser().parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="granite-soak-"))
    seconds = options.minutes * 60 if options.seconds is None else options.seconds
    team = Team(options.workers, options.collectors, seconds, options.kill_every)
    store = "local" if options.sqlite else options.store
    database = "SQLite" if options.sqlite else "PostgreSQL"
    print(f"soak: seed {seed}, {seconds:g} s, {team.workers} workers, {team.collectors} collectors, ", end="")
    print(f"{database}, {store}, journals in {folder}", flush=True)
    with _site(options, store, seed, folder) as site:
        figures = Soak(site, team, say=lambda text: print(text, file=sys.stderr, flush=True)).run()
    (folder / "figures.json").write_text(json.dumps(figures.to_dict(), indent=2))
    print(figures)
    if options.json is not None:
        options.json.write_text(json.dumps(figures.to_dict(), indent=2))
    if figures.sound and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    elif not figures.sound:
        _complain(figures, folder)
    return 0 if figures.sound else 1


def _complain(figures: Figures, folder: Path) -> None:
    for title, found in (
        ("lost", figures.lost),
        ("lingering", figures.lingering),
        ("not idle", figures.not_idle),
        ("went wrong", figures.errors),
    ):
        for each in found[:10]:
            print(f"{title}: {each}")
    if not figures.conclusive:
        print("inconclusive: a COMMIT took longer than a quarter of the grace, which is assumed not to be")
    print(f"the journals are in {folder}; again: --seed {figures.seed}")


@contextlib.contextmanager
def _site(options: argparse.Namespace, store: str, seed: int, folder: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        bucket: Bucket | None = None
        if store != "local" or not options.sqlite:
            stack.enter_context(_servers())
        if store != "local":
            server = ask({"rgw": "ceph"}.get(store, store))
            bucket = Bucket(server, server.create_bucket())
            stack.callback(server.drop_bucket, bucket.name)
        if options.sqlite:
            path = folder / "soak.sqlite3"
            sync_url, async_url = f"sqlite:///{path}", f"sqlite+aiosqlite:///{path}"
        else:
            database = stack.enter_context(ask("postgres").database())
            sync_url, async_url = database.sync_url, database.async_url
        yield Site(folder, sync_url, async_url, bucket, seed, grace=options.grace)


@contextlib.contextmanager
def _servers() -> Iterator[None]:
    """Those that are up already, or our own."""
    if VARIABLE in os.environ:
        yield
        return
    broker = Broker()
    os.environ[VARIABLE] = broker.address
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        broker.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2, help="how long the load goes on")
    parser.add_argument("--seconds", type=float, help="the same, in seconds")
    parser.add_argument("--seed", type=int, help="where all randomness begins")
    parser.add_argument("--workers", type=int, default=4, help="processes that write; every second one is async")
    parser.add_argument("--collectors", type=int, default=2, help="processes that collect")
    parser.add_argument("--kill-every", type=float, default=1.5, help="seconds between two blows, on average")
    parser.add_argument("--grace", type=float, default=10, help="in seconds; a commit must fall into a quarter of it")
    parser.add_argument("--store", choices=("rgw", "ministack", "local"), default="rgw", help="where objects go")
    parser.add_argument("--sqlite", action="store_true", help="SQLite and a local folder instead")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep the journals, whatever came of it")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
