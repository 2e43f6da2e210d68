"""``litestar granite …``: what an operator does with the store. Click and rich are imported here only."""

from __future__ import annotations

import rich_click

from granite_litestar.cli._collect import adopt, lower_grace, reconcile, status, sweep
from granite_litestar.cli._doctor import doctor
from granite_litestar.cli._find import find
from granite_litestar.cli._look import cat, ls
from granite_litestar.cli._quota import quota
from granite_litestar.cli._remove import rm
from granite_litestar.cli._store import cp, put
from granite_litestar.cli._verify import verify

__all__ = ["granite_group"]


@rich_click.group("granite")
def granite_group() -> None:
    """Look after an application's files: collect, verify, look, mend."""


for each in (adopt, cat, cp, doctor, find, lower_grace, ls, put, quota, reconcile, rm, status, sweep, verify):
    granite_group.add_command(each)
