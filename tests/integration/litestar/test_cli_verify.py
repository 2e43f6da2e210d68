"""``litestar granite verify``."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.integration.litestar.cli_support import System, local, system

__all__ = ["local", "system"]


def spoil(system: System, location: str) -> None:
    backend = system.manager.get_backend("main")
    content = bytearray(backend.get(location))
    content[0] ^= 1
    backend.delete(location)
    backend.put_bytes(location, bytes(content))


def test_a_sound_store_is_found_sound(system: System) -> None:
    system.keep(b"12345", pages=(b"1", b"22"))
    report = system.json("verify", "--checksums")
    assert (report["sound"], report["refs"], report["bytes"], report["read"]) == (True, 3, 8, 8)
    assert [(each["backend"], each["held"], each["nobodys"]) for each in report["stores"]] == [
        ("main", 1, 0),
        ("second", 2, 0),
    ]
    assert "All is as the rows say." in system.run("verify").stdout


def test_what_is_wrong_is_named_and_gives_its_own_exit_code(system: System) -> None:
    gone, bad = system.keep(b"gone"), system.keep(b"spoiled")
    assert gone.file is not None
    assert bad.file is not None
    system.manager.get_backend("main").delete(gone.file.location)
    spoil(system, bad.file.location)
    report = system.json("verify", "--checksums", code=1)
    assert report["found"] == {"checksum": 1, "missing": 1}
    assert [(each["kind"], each["column"], each["row"], each["location"]) for each in report["discrepancies"]] == [
        ("missing", "document.file", str(gone.id), gone.file.location),
        ("checksum", "document.file", str(bad.id), bad.file.location),
    ]
    said = system.run("verify", "--checksums").stdout
    assert gone.file.location in said
    assert "another SHA-256" in said
    assert system.json("status")["last"]["verify"]["sound"] is False


def test_a_run_that_was_stopped_is_gone_on_with(local: System) -> None:
    for _ in range(5):
        local.keep()
    first = local.json("verify", "--time-budget", "1ms", code=9)
    assert (first["stopped"], first["refs"]) == (True, 2)
    assert "the same command goes on there" in local.run("verify", "--time-budget", "1ms").stderr
    last = local.json("verify")
    assert (last["resumed"], last["refs"], last["sound"]) == (True, 5, True)
    local.json("verify", "--time-budget", "1ms", code=9)
    assert local.json("verify", "--restart")["resumed"] is False


def test_parts_and_pace_can_be_chosen(local: System) -> None:
    local.keep(pages=(b"1",))
    options = ["--policy", "pages", "--workers", "2", "--byte-rate", "10MB", "--rate-limit", "1000", "--no-stores"]
    report = local.json("verify", "--checksums", *options)
    assert (report["refs"], report["read"], report["stores"]) == (1, 1, [])
    assert local.run("verify", "--policy", "x").exit_code == 6
    assert local.run("verify", "--byte-rate", "fast").exit_code == 2


def test_rows_that_hold_no_ref_are_told_of(local: System) -> None:
    local.keep()
    with local.engine.begin() as connection:
        connection.execute(text("UPDATE document SET file = '{\"size\": 1}'"))
    assert "no ref" in local.run("verify").stdout


@pytest.mark.parametrize("held", ["verify", "sweep"])
def test_it_waits_for_another_verification_only(local: System, held: str) -> None:
    local.hold_lease(held)
    assert local.run("verify").exit_code == (5 if held == "verify" else 0)
