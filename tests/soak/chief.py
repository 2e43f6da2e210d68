"""A soak: starts the team, kills and pauses it at seeded moments, audits meanwhile, and settles the account."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import select, text

from granite_core.integrations.sqlalchemy import tables_of
from tests.support.many import Child, preload
from tests.support.processes import wait_until

from .audit import Audit
from .collecting import collect
from .figures import Figures, count
from .models import Base
from .site import Site
from .worker import work

__all__ = ["Soak"]

preload("tests.soak.collecting", "tests.soak.worker")

SLACK = 1.0
"""So many seconds more than the grace are waited at the end, for the first and last moment of a tombstone."""
LEASES = ("lease:sweep", "lease:reconcile")


@dataclass(frozen=True)
class Team:
    """How many there are, and how long they live."""

    workers: int = 4
    collectors: int = 2
    seconds: float = 120
    kill_every: float = 1.5
    """Seconds between two kills or pauses, on average."""


@dataclass
class Blows:
    """What was done to the team."""

    workers: int = 0
    collectors: int = 0
    while_collecting: int = 0
    pauses: int = 0
    bereaved: dict[str, str] = field(default_factory=dict)
    """Leases whose holder was killed, and who that was."""
    takeovers: int = 0


class Soak:
    """One run.

    Args:
        site: Where.
        team: Who, and for how long.
        say: Told how it goes.
    """

    def __init__(self, site: Site, team: Team, say: Callable[[str], object] = print) -> None:
        self.site = site
        self.team = team
        self._say = say
        self._dice = random.Random(site.seed)
        self._blows = Blows()
        self._engine = site.engine()
        self._workers = [
            Child(f"worker-{number}", work, site, number % 2 == 1) for number in range(1, team.workers + 1)
        ]
        self._collectors = [Child(f"collector-{number}", collect, site) for number in range(1, team.collectors + 1)]
        self._unasked: list[str] = []

    def run(self) -> Figures:
        """Run to the end, and tell what came of it."""
        Base.metadata.create_all(self._engine)
        audit = Audit(self.site)
        team = [*self._workers, *self._collectors]
        began = time.monotonic()
        try:
            for each in team:
                each.start()
            wait_until(lambda: all((self.site.folder / f"{each.name}.jsonl").exists() for each in team), patience=120)
            audit.start()
            self._strike_until(time.monotonic() + self.team.seconds)
            for each in team:
                self._kill(each)
            audit.stop()
            lingering = self._settle(audit)
        finally:
            for each in team:
                each.kill()
        idle = self._wait_for_idle()
        self._engine.dispose()
        return count(
            self.site,
            seconds=time.monotonic() - began,
            audit=audit,
            blows=self._blows,
            lingering=lingering,
            not_idle=idle,
            unasked=self._unasked,
        )

    # -- blows ---------------------------------------------------------------------------------------------------------

    def _strike_until(self, end: float) -> None:
        paused: list[tuple[float, Child]] = []
        told = time.monotonic()
        strike = told + 2 + self._dice.expovariate(1 / self.team.kill_every)
        while (now := time.monotonic()) < end:
            for at, each in paused[:]:
                if now >= at:
                    each.signal(signal.SIGCONT)
                    paused.remove((at, each))
            self._replace_whoever_ended()
            self._see_takeovers()
            if now >= strike:
                strike = now + self._dice.expovariate(1 / self.team.kill_every)
                self._strike(paused, now)
            if now - told > 10:
                told = now
                kills = self._blows.workers + self._blows.collectors
                self._say(f"{end - now:6.0f} s left, {kills} kills, {self._blows.takeovers} takeovers")
            time.sleep(0.02)
        for _, each in paused:
            each.signal(signal.SIGCONT)

    def _strike(self, paused: list[tuple[float, Child]], now: float) -> None:
        stopped = [each for _, each in paused]
        awake = [each for each in (*self._workers, *self._collectors) if each not in stopped]
        victim = self._dice.choice(awake)
        if self._dice.random() < 0.2:
            # A worker's COMMIT must take less than a quarter of the grace: that is assumed. A collector may sleep on.
            longest = 2 * self.site.lease if victim in self._collectors else self.site.grace / 10
            victim.signal(signal.SIGSTOP)
            paused.append((now + longest * self._dice.uniform(0.2, 1), victim))
            self._blows.pauses += 1
            return
        if victim in self._collectors and self._dice.random() < 0.7:
            self._wait_until_it_collects(victim)
        self._kill(victim)
        time.sleep(self._dice.uniform(0, 0.3))
        victim.start()

    def _wait_until_it_collects(self, victim: Child) -> None:
        """Hit it while it holds a lease, if that is soon."""
        until = time.monotonic() + 1
        while time.monotonic() < until and victim.pid not in (pid for pid, _ in self._holders().values()):
            time.sleep(0.002)

    def _kill(self, victim: Child) -> None:
        pid = victim.pid
        victim.kill()
        if victim in self._workers:
            self._blows.workers += 1
            return
        self._blows.collectors += 1
        held = {lease: holder for lease, (its, holder) in self._holders().items() if its == pid}
        self._blows.bereaved |= held
        self._blows.while_collecting += bool(held)

    def _replace_whoever_ended(self) -> None:
        for each in (*self._workers, *self._collectors):
            if (code := each.has_ended) is not None:
                self._unasked.append(f"{each.name} ended by itself with {code}")
                each.kill()
                each.start()

    def _see_takeovers(self) -> None:
        if not self._blows.bereaved:
            return
        holders = self._holders()
        for lease, dead in [*self._blows.bereaved.items()]:
            if lease in holders and holders[lease][1] != dead:
                self._blows.takeovers += 1
                del self._blows.bereaved[lease]

    def _holders(self) -> dict[str, tuple[int, str]]:
        """Who holds the leases: the process, and its name for itself."""
        tables = tables_of(Base.metadata)
        assert tables is not None
        t = tables.state.c
        with self._engine.connect() as connection:
            rows = connection.execute(select(t.name, t.holder).where(t.name.in_(LEASES), t.holder.is_not(None)))
            return {name: (int(holder.split(":")[1]), holder) for name, holder in rows}

    # -- the account ---------------------------------------------------------------------------------------------------

    def _settle(self, audit: Audit) -> list[str]:
        """A whole reconcile, the grace, one sweep: then the store must be what the rows name. Returns what is too much.

        A reconcile that goes on where a dead one stood has not seen what became garbage behind it: the next one does.
        """
        manager = self.site.manager()
        collector = self.site.collector(manager, self._engine)
        self._say("settling: uploads that nobody ends grow old, a reconcile, the grace, a sweep")
        time.sleep(self.site.unfinished + SLACK)
        patience = timedelta(seconds=2 * self.site.lease)
        while any(each.resumed for each in collector.reconcile(wait=patience).backends):
            pass
        time.sleep(self.site.grace + SLACK)
        collector.sweep(wait=patience)
        named = audit.look(whole=True)
        extra = sorted(audit.store.listing() - named)
        extra += [f"unfinished: {each}" for each in audit.store.unfinished()]
        extra += [f"{left} tombstones"] if (left := audit.tombstones()) else []
        for backend in manager.backends.values():
            backend.close()
        return extra

    def _wait_for_idle(self) -> list[str]:
        """Connections that are in a transaction although nobody is at work: none, after a moment."""
        if self.site.is_sqlite:
            return []
        query = text(
            "SELECT pid || ' ' || state || ' ' || left(query, 80) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
        )
        until = time.monotonic() + 10
        while True:
            with self._engine.connect() as connection:
                left = [*connection.scalars(query)]
            if not left or time.monotonic() > until:
                return left
            time.sleep(0.1)
