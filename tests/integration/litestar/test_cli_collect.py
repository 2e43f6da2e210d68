"""``litestar granite sweep``, ``reconcile``, ``adopt``, ``lower-grace`` and ``status``."""

from __future__ import annotations

import json

import pytest

from granite_core.gc.marker import MARKER_KEY
from tests.integration.litestar.cli_support import System, local, system

__all__ = ["local", "system"]


class TestSweep:
    def test_it_deletes_what_was_let_go_and_is_due(self, system: System) -> None:
        kept, gone = system.keep(b"kept"), system.keep(b"gone")
        ref = system.clear(gone)
        assert system.json("sweep")["examined"] == 0
        system.let_time_pass()
        plan = system.json("sweep", "--dry-run")
        assert (plan["dry_run"], plan["deleted"], plan["examples"]) == (True, 1, [ref.location])
        assert ref.location in system.stored()
        report = system.json("sweep")
        assert (report["deleted"], report["failed"]) == (1, 0)
        assert system.stored() == {kept.file.location}  # type: ignore[union-attr]

    def test_people_read_what_goes(self, local: System) -> None:
        ref = local.clear(local.keep())
        local.let_time_pass()
        said = local.run("sweep", "--dry-run").stdout
        assert "1 objects would be deleted" in said
        assert ref.location in said

    def test_it_works_where_the_application_itself_does_not_collect(
        self, local: System, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPERATED_GC", "none")
        local.clear(local.keep())
        local.let_time_pass()
        assert local.json("sweep")["deleted"] == 1

    def test_another_worker_is_left_alone(self, system: System) -> None:
        system.clear(system.keep())
        system.let_time_pass()
        system.hold_lease("sweep")
        report = system.json("sweep", code=5)
        assert report["skipped"] == "the lease is held by another:1"
        assert "another:1" in system.run("sweep").stderr
        system.let_lease_end("sweep", in_seconds=2)
        assert system.json("sweep", "--wait", "1m")["deleted"] == 1

    def test_what_cannot_be_deleted_is_told_of(self, local: System) -> None:
        ref = local.clear(local.keep())
        t = local.tables.tombstone
        with local.engine.begin() as connection:
            connection.execute(t.update().values(backend="gone", written_at=1))
        result = local.run("sweep")
        assert result.exit_code == 1
        assert f"gone, {ref.location}: " in result.stderr

    @pytest.mark.parametrize("wait", ["soon", "3x", "m"])
    def test_a_duration_that_is_none_is_a_usage_error(self, local: System, wait: str) -> None:
        result = local.run("sweep", "--wait", wait)
        assert result.exit_code == 2
        assert "90s" in result.stderr


class TestReconcile:
    def test_it_notes_what_nobody_holds_and_the_sweep_takes_it(self, system: System) -> None:
        kept = system.keep()
        system.manager.get_backend("main").put_bytes("documents/lost", b"123")
        plan = system.json("reconcile", "--dry-run")
        assert (plan["listed"], plan["noted"], system.tombstones()) == (2, 1, set())
        (place, second) = system.json("reconcile")["backends"]
        assert (place["backend"], place["noted"], place["noted_bytes"], place["released"]) == ("main", 1, 3, True)
        assert second["listed"] == 0
        assert system.tombstones() == {"documents/lost"}
        system.let_time_pass()
        assert system.json("sweep")["deleted"] == 1
        assert system.stored() == {kept.file.location}  # type: ignore[union-attr]

    def test_a_run_that_would_take_too_much_is_refused_until_told_to(self, system: System) -> None:
        for number in range(8):
            system.manager.get_backend("main").put_bytes(f"documents/{number}", b"")
        result = system.run("reconcile")
        assert result.exit_code == 3
        assert "more than the share" in result.stderr
        assert system.tombstones() == set()
        assert system.json("reconcile", code=3)["error"]["code"] == "collection_refused"
        assert system.json("reconcile", "--max-share", "1")["noted"] == 8

    def test_a_run_that_was_stopped_is_gone_on_with(self, local: System) -> None:
        for _ in range(3):
            local.keep()
        first = local.json("reconcile", "--backend", "main", "--time-budget", "1ms", code=9)
        assert (first["listed"], first["stopped"]) == (2, True)
        assert local.json("status")["stores"][0]["under_way"] == 2
        (place,) = local.json("reconcile", "--backend", "main")["backends"]
        assert (place["listed"], place["resumed"], place["complete"]) == (3, True, True)
        (place,) = local.json("reconcile", "--backend", "main", "--not-within", "1h")["backends"]
        assert place["skipped"].startswith("it was reconciled at")

    def test_one_backend_can_be_named(self, local: System) -> None:
        assert [each["backend"] for each in local.json("reconcile", "--backend", "second")["backends"]] == ["second"]
        result = local.run("reconcile", "--backend", "third")
        assert result.exit_code == 6
        assert "there are 'main', 'second'" in result.stderr

    def test_people_read_a_table(self, local: System) -> None:
        local.manager.get_backend("main").put_bytes("documents/lost", b"123")
        said = local.run("reconcile").stdout
        assert "nobody's" in said
        assert "documents/lost" in said
        assert "the sweep looks at them when the grace has passed" in said


class TestAdopt:
    def test_a_store_of_another_database_is_taken_over(self, system: System) -> None:
        system.manager.get_backend("main").put_bytes(MARKER_KEY, b'{"database": "production"}')
        result = system.run("sweep")
        assert result.exit_code == 3
        assert "belongs to another database (production" in result.stderr
        result = system.run("adopt", "main")
        assert (result.exit_code, "--yes" in result.stderr) == (3, True)
        assert system.json("sweep", code=3)["error"]["code"] == "collection_refused"
        assert system.json("adopt", "main", "--yes") == {"backend": "main", "adopted": True}
        assert system.run("sweep").exit_code == 0

    def test_a_backend_that_is_not_there_is_told_before_anything_is_asked(self, local: System) -> None:
        assert local.run("adopt", "third").exit_code == 6


class TestLowerGrace:
    def test_sweeps_wait_for_the_longest_until_told_otherwise(
        self, system: System, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        system.keep()  # by a process with two hours
        monkeypatch.setenv("OPERATED_GRACE", "720")
        found = system.json("status")
        assert (found["grace"], found["longest_grace"]) == (720, 7200)
        assert "lower-grace" in system.run("status").stderr
        assert system.json("sweep")["grace"] == 7200
        result = system.run("lower-grace")
        assert (result.exit_code, "--yes" in result.stderr) == (3, True)
        assert system.json("lower-grace", "--yes") == {"grace": 720, "forgotten": [7200]}
        assert system.json("sweep")["grace"] == 720
        assert "No process has worked with a longer grace" in system.run("lower-grace", "--yes").stdout


class TestStatus:
    def test_everything_is_in_the_document(self, system: System) -> None:
        system.keep(b"12345", pages=(b"123", b"4"))
        system.clear(system.keep(b"gone"))
        system.json("reconcile")
        system.hold_lease("verify")
        found = system.json("status", "--store")
        assert [(each["storage_key"], each["objects"], each["bytes"]) for each in found["usage"]] == [
            ("documents", 1, 5),
            ("pages", 2, 4),
        ]
        (database,) = found["databases"]
        assert (database["waiting"], database["due"]) == (1, 0)
        main, second = found["stores"]
        assert (main["objects"], main["bytes"], second["objects"]) == (2, 9, 2)
        assert main["reconciled_at"] > 1_700_000_000_000
        assert found["last"]["reconcile"]["listed"] == 4
        assert [each["name"] for each in found["leases"]] == ["verify"]

    def test_people_read_tables(self, local: System) -> None:
        local.keep(b"12345")
        local.json("sweep")
        said = local.run("status", "--store").stdout
        for each in ("Rows hold", "documents", "5 B", "Stores", "Waiting to be deleted", "Last runs", "grace is 2 h"):
            assert each in said, each

    def test_a_database_without_tables_is_told_of(self, local: System) -> None:
        local.tables.tombstone.drop(local.engine)
        result = local.run("status")
        assert result.exit_code == 1
        assert "granite_tombstone" in result.stderr


class TestTrouble:
    def test_a_database_that_is_away_is_no_traceback(self, local: System, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPERATED_DATABASE", "postgresql+asyncpg://me:secret@127.0.0.1:1/nowhere")
        for command in ("sweep", "reconcile", "status"):
            result = local.run(command, "--json")
            assert result.exit_code == 4, result.output
            error = json.loads(result.stdout)["error"]
            assert error["retryable"] is True
            assert "Traceback" not in result.output
            assert "secret" not in result.output

    def test_a_bug_is_not_hidden(self, local: System, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("granite_core.gc.collector.Sweep.run", lambda self: 1 / 0)
        assert isinstance(local.run("sweep").exception, ZeroDivisionError)
