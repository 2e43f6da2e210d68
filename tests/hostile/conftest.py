"""The application under attack, one for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World.made(tmp_path_factory.mktemp("hostile")) as world:
        yield world


@pytest.fixture(autouse=True)
def nothing_escapes_and_nothing_lingers(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: nothing outside of the root, nothing that no row names, no forged line in the log."""
    yield
    if "world" in request.fixturenames:
        world: World = request.getfixturevalue("world")
        world.judge.check_store()
        world.judge.check_logs()
