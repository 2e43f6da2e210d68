"""The application under attack, one for each module."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.hostile.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World.made(tmp_path_factory.mktemp("hostile")) as world:
        yield world


@pytest.fixture(autouse=True)
def nothing_escapes_and_nothing_lingers(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[None]:
    """After each test: nothing outside of the root, nothing that no row names, no forged line in the log."""
    world: World | None = request.getfixturevalue("world") if "world" in request.fixturenames else None
    before = world.judge.judged if world is not None else 0
    yield
    if world is not None:
        world.judge.check_store()
        world.judge.check_logs()
        record_property("counted", f"Hostile input: {request.path.stem}|{world.judge.judged - before}|answers judged")
