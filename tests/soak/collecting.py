"""A collector process: sweeps and reconciles as fast as it may, beside others that do the same."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from granite_core.gc import Collector
from tests.support.many import begin_child

from .journal import Journal, described
from .site import Site

__all__ = ["collect"]

SWEEP_EVERY = 0.4
RECONCILE_EVERY = 2.0


def collect(name: str, life: int, site: Site) -> None:
    """Collect until the end of the process; the reconcile in a thread of its own, as in an application."""
    begin_child(site.folder, name)
    journal = Journal(site.folder, name)
    journal.write("begins", life=life, colour="collector")
    manager, engine = site.manager(journal.hear), site.engine()
    dice = random.Random(f"{site.seed}:{name}:{life}")
    collector = site.collector(manager, engine)
    reconciling = threading.Thread(target=_reconcile, args=(collector, journal, dice.random()), daemon=True)
    reconciling.start()
    while True:
        _told(journal, "sweep", collector.sweep)
        time.sleep(SWEEP_EVERY * (0.5 + dice.random()))


def _reconcile(collector: Collector, journal: Journal, first: float) -> None:
    time.sleep(first * RECONCILE_EVERY)
    while True:
        _told(journal, "reconcile", lambda: collector.reconcile(not_within=timedelta(seconds=RECONCILE_EVERY)))
        time.sleep(RECONCILE_EVERY / 2)


def _told(journal: Journal, kind: str, run: Any) -> None:
    try:
        report = run()
    except Exception as error:
        journal.write("ended", end="error", **described(error))
        return
    if report.did_anything:
        facts = {key: value for key, value in asdict(report).items() if value and key != "examples"}
        journal.write(kind, **facts)
