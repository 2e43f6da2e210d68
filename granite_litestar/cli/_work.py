"""What every command needs: the application's collector, one event loop, an exit code."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click
import rich_click

from granite_core import StorageManager
from granite_core.gc import Collector, GCConfig
from granite_core.integrations.sqlalchemy import SQLAlchemyLedger
from granite_litestar.cli._exits import CommandError, Exit, exit_code, explain
from granite_litestar.cli._output import Output

if TYPE_CHECKING:
    from litestar import Litestar

    from granite_litestar.plugin import GranitePlugin

__all__ = ["DURATION", "RATE_LIMIT", "SIZE", "TIME_BUDGET", "WAIT", "YES", "Work", "command"]

T = TypeVar("T")

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """``90``, ``90s``, ``5m``, ``2h``, ``1d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        number = str(value).rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = str(value)[len(number) :] or "s"
        try:
            return timedelta(seconds=float(number) * _UNITS[unit])
        except (ValueError, KeyError, OverflowError):
            self.fail(f"{value!r} is no length of time; write 90, 90s, 5m, 2h or 1d", param, ctx)


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.5 only
    """``1000``, ``500kB``, ``50MB``, ``2GiB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        number = str(value).rstrip("kKMGTiB ")
        unit = str(value)[len(number) :].strip().removesuffix("B")
        try:
            size = int(float(number) * (1024 if unit.endswith("i") else 1000) ** " KMGT".index(unit[:1].upper() or " "))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no size; write 1000, 500kB, 50MB or 2GiB", param, ctx)
        return size


DURATION: Final = _Duration()
SIZE: Final = _Size()

WAIT: Final = click.option(
    "--wait", type=DURATION, help="Wait so long while another worker holds the lease (90, 5m, 2h)."
)
TIME_BUDGET: Final = click.option(
    "--time-budget", type=DURATION, help="Stop after so long; the next run goes on there."
)
RATE_LIMIT: Final = click.option(
    "--rate-limit", type=click.FloatRange(0, min_open=True), help="Look at so many objects a second at most."
)
YES: Final = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


@dataclass(frozen=True)
class Work:
    """What a command works with.

    Args:
        app: The application.
        plugin: Its plugin.
        out: Where to print.
    """

    app: Litestar
    plugin: GranitePlugin
    out: Output

    @property
    def manager(self) -> StorageManager:
        """The application's manager."""
        return self.plugin.config.manager

    def collector(self, **changes: Any) -> Collector:
        """Return the collector the application has, its configuration changed where a value is given."""
        changes = {name: value for name, value in changes.items() if value is not None}
        return self.plugin.make_collector(self.app, replace(self.plugin.config.gc or GCConfig(), **changes))

    def run(self, collector: Collector, call: Callable[[], Awaitable[T]]) -> T:
        """Run on an event loop of the command's own, and leave nothing open. Ctrl-C ends a run after its step."""

        async def main() -> T:
            try:
                return await call()
            finally:
                await collector.ledger.arun(collector.ledger.close, threading.Event())
                for backend in self.manager.backends.values():
                    backend.close()

        return asyncio.run(main())

    def with_rows(self, call: Callable[[SQLAlchemyLedger], T]) -> T:
        """Run what blocks and looks into the databases, on either colour of engine."""
        collector = self.collector()
        ledger = collector.ledger
        assert isinstance(ledger, SQLAlchemyLedger)  # noqa: S101 - what the plugin makes

        def work() -> T:
            try:
                return call(ledger)
            finally:
                if self.manager.has_notes:
                    collector.keep_notes()  # what a failed commit left behind: nobody else would look at it soon

        return self.run(collector, lambda: ledger.arun(work, threading.Event()))

    def without_rows(self, call: Callable[[], T]) -> T:
        """Run what asks a backend only: no database is needed."""
        try:
            return call()
        finally:
            for backend in self.manager.backends.values():
                backend.close()

    def must_confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something is done that cannot be undone.

        Raises:
            CommandError: The answer was no, or nobody can answer.
        """
        answer = yes or self.out.confirm(question)
        if answer is None:
            raise CommandError(Exit.REFUSED, "nobody can be asked here: say --yes if it is meant")
        if not answer:
            raise CommandError(Exit.REFUSED, "nothing was done")


def command(name: str, *, json: bool = True) -> Callable[[Callable[..., Exit | None]], click.Command]:
    """Make a function a command that has ``--json``, typed errors without a traceback, and an exit code.

    The function takes a ``Work``, then its options.

    Args:
        name: What it is called.
        json: Whether it has ``--json``: not where stdout is a file's content.
    """

    def decorate(function: Callable[..., Exit | None]) -> click.Command:
        @functools.wraps(function)
        def run(context: click.Context, /, as_json: bool = False, **options: Any) -> None:
            out = Output(as_json=as_json)
            try:
                with _without_log_lines():
                    ended = function(_work(context, out), **options)
            except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
                raise  # click's own; and whoever read has gone, which click passes over
            except (KeyboardInterrupt, click.Abort):
                out.note("interrupted")
                context.exit(Exit.INTERRUPTED)
            except Exception as error:  # noqa: BLE001 - what nobody raised on purpose goes on from there
                _fail(context, out, error)
            context.exit(ended or Exit.DONE)

        as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
        made = click.pass_context(run)
        return rich_click.command(name)(as_json(made) if json else made)

    return decorate


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Keep the log lines of runs from the terminal: the command itself tells what they say. Events go on as ever."""
    everything, runs = logging.getLogger("granite"), logging.getLogger("granite.collected")
    nobody = logging.NullHandler()  # in place of Python's last resort, which is stderr

    def drop(_: logging.LogRecord) -> bool:
        return False

    everything.addHandler(nobody)
    runs.addFilter(drop)
    try:
        yield
    finally:
        runs.removeFilter(drop)
        everything.removeHandler(nobody)


def _work(context: click.Context, out: Output) -> Work:
    from granite_litestar.plugin import GranitePlugin

    if callable(context.obj):  # Litestar loads the application when somebody asks for it
        context.obj = context.obj()
    app = context.obj.app
    plugin = app.plugins.get(GranitePlugin)
    if plugin.config.manager.has_quotas:
        plugin.count(app)  # as the application does when it starts
    return Work(app, plugin, out)


def _fail(context: click.Context, out: Output, error: Exception) -> NoReturn:
    code = exit_code(error)
    if code is None:
        raise error
    kind = getattr(error, "code", None)
    if out.as_json:
        name = kind if isinstance(kind, str) else code.name.lower()
        retryable = bool(getattr(error, "retryable", code is Exit.UNAVAILABLE))
        out.document({"error": {"code": name, "message": explain(error), "retryable": retryable}})
    out.note(f"{'refused' if code is Exit.REFUSED else 'error'}: {explain(error)}", style="red")
    context.exit(code)
