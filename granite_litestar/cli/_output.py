"""What a command prints: tables and progress for people, JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any, BinaryIO, Final, cast

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from granite_core.gc import Progress

__all__ = ["Output", "as_age", "as_bytes", "as_time"]

_PIPED_WIDTH: Final = 1000
"""Columns of what goes into a file or a pipe: nothing is cut there."""


class Output:
    """What a command prints.

    Args:
        as_json: One JSON document on stdout, and nothing else there.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json: Final = as_json
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)

    def document(self, data: Mapping[str, Any]) -> None:
        """Print the command's one JSON document."""
        click.echo(json.dumps(data, indent=2, default=str, ensure_ascii=False))

    def line(self, data: Mapping[str, Any]) -> None:
        """Print a line of JSON."""
        click.echo(json.dumps(data, default=str, ensure_ascii=False))

    def say(self, text: str) -> None:
        """Print a sentence for people: on stdout, or not at all where a script reads."""
        if not self.as_json:
            self._out.print(escape(text), highlight=False, soft_wrap=True)

    def marked(self, mark: str, text: str, *, style: str) -> None:
        """Print a sentence after a coloured word."""
        self._out.print(f"[{style}]{escape(mark):8}[/] {escape(text)}", highlight=False, soft_wrap=True)

    def note(self, text: str, *, style: str | None = None) -> None:
        """Print a sentence for people, on stderr."""
        self._err.print(escape(text), highlight=False, soft_wrap=True, style=style)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table. Columns whose name begins with ``#`` hold numbers."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False)
        for each in columns:
            table.add_column(each.removeprefix("#"), justify="right" if each[0] == "#" else "left", overflow="fold")
        for row in rows:
            table.add_row(*("" if each is None else escape(str(each)) for each in row))
        if table.row_count:
            self._out.print(table)

    @contextmanager
    def progress(self, what: str, *, found: str, total: int | None = None) -> Iterator[Callable[[Progress], None]]:
        """Show on a terminal where a run stands.

        Args:
            what: What is being done.
            found: What the second number counts.
            total: How many objects there are to look at, where that is known.
        """
        if not self._err.is_terminal:
            yield lambda _: None
            return
        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        with Bar(*columns, TextColumn("{task.fields[rest]}"), console=self._err, transient=True) as bar:
            task = bar.add_task(what, total=total, rest="")
            ended: dict[str, int] = {}

            def show(at: Progress) -> None:
                ended[at.place] = at.done  # places come one after the other, each counting from nothing
                rest = f"{at.found} {found}" + (f", {as_bytes(at.bytes)}" if at.bytes else "")
                place = f" {at.place}" if at.place else ""
                bar.update(task, description=f"{what}{place}", completed=sum(ended.values()), rest=rest)

            yield show

    @contextmanager
    def status(self, what: str) -> Iterator[Callable[[str], object]]:
        """Show on a terminal what is being looked at."""
        if not self._err.is_terminal:
            yield lambda _: None
            return
        with self._err.status(what) as status:
            yield lambda at: status.update(f"{what} {escape(at)}")

    @contextmanager
    def reading(self, file: IO[bytes], what: str) -> Iterator[IO[bytes]]:
        """Show on a terminal how far a file has been read."""
        if not self._err.is_terminal:
            yield file
            return
        try:
            total = os.fstat(file.fileno()).st_size or None  # a pipe has none
        except OSError:
            total = None
        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn()]
        with Bar(*columns, TransferSpeedColumn(), console=self._err, transient=True) as bar:
            yield bar.wrap_file(cast("BinaryIO", file), total=total, description=what)

    def confirm(self, question: str) -> bool | None:
        """Ask; None where nobody can answer."""
        if not sys.stdin.isatty():
            return None
        return click.confirm(question, err=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_PIPED_WIDTH)


def as_bytes(size: float | None) -> str:
    """Return a size as people read it."""
    if size is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} PiB"


def as_age(seconds: float | None) -> str:
    """Return a length of time as people read it."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def as_time(milliseconds: int | None) -> str:
    """Return a moment as people read it, in UTC."""
    if milliseconds is None:
        return ""
    return (
        datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    )
