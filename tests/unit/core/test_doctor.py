"""What the doctor makes of configuration, clocks, runs and disks: pure rules."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from granite_core import Finding, LocalStorageBackend, MemoryStorageBackend, Severity, StoragePolicy, WriteOptions
from granite_core.backends._disk import DiskFacts, judge_disk, look_at_disk
from granite_core.doctor._probe import _skew
from granite_core.doctor._rules import (
    judge_backends,
    judge_clock,
    judge_grace,
    judge_policies,
    judge_requests,
    judge_runs,
)
from granite_core.findings import sorted_findings
from granite_core.gc import GCConfig

GRACE = timedelta(hours=2)
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
GIB = 1024**3


def said(findings: Iterable[Finding]) -> dict[str, str]:
    return {each.code: each.severity.value for each in findings}


class TestClock:
    @pytest.mark.parametrize(
        ("skew", "margin", "severity"),
        [
            (0.0, 0.0, "ok"),
            (1.9, 0.0, "ok"),
            (-30.0, 29.0, "ok"),
            (3.0, 0.0, "warning"),
            (-60.0, 0.5, "warning"),
            (900.0, 0.0, "error"),
            (-100_000.0, 0.0, "error"),
        ],
    )
    def test_it_is_judged_by_the_quarter_that_a_file_has(self, skew: float, margin: float, severity: str) -> None:
        assert judge_clock(skew, margin, GRACE).severity == severity

    def test_a_short_grace_makes_it_stricter(self) -> None:
        assert judge_clock(1.5, 0, timedelta(seconds=8)).severity is Severity.ERROR
        assert judge_clock(1.5, 0, GRACE).severity is Severity.OK

    def test_which_way_it_is_off_is_said(self) -> None:
        assert "60.0 s ahead of ours" in judge_clock(60, 0, GRACE).found
        assert "60.0 s behind ours" in judge_clock(-60, 0, GRACE).found
        assert "another host may be refused" in judge_clock(60, 0, GRACE).found

    @pytest.mark.parametrize(
        ("modified", "skew"),
        [
            (NOW, 0.0),
            (NOW + timedelta(seconds=1), 0.0),
            (NOW - timedelta(seconds=1), 0.0),
            (NOW + timedelta(seconds=60), 58.5),
            (NOW - timedelta(seconds=60), -59.0),
            (NOW - timedelta(seconds=60, microseconds=1), -60.0),
        ],
    )
    def test_a_stores_clock_is_told_from_when_it_says_it_wrote(self, modified: datetime, skew: float) -> None:
        found, margin = _skew(modified, NOW, NOW + timedelta(seconds=1.5))
        assert found == pytest.approx(skew, abs=0.001)
        assert 0 <= margin <= 2.5


class TestConfiguration:
    def test_a_short_grace_is_told_of(self) -> None:
        assert said(judge_grace(timedelta(seconds=20))) == {"grace-short": "warning"}
        assert said(judge_grace(GRACE)) == {}

    def test_requests_that_outlive_the_grace_are_told_of(self) -> None:
        assert said(judge_requests({"films": GRACE + timedelta(seconds=1)}, GRACE)) == {"requests-long": "warning"}
        assert said(judge_requests({"films": GRACE}, GRACE)) == {}

    def test_backends_inside_each_other_are_an_error_and_aliases_a_note(self, tmp_path: Any) -> None:
        outer, inner = LocalStorageBackend(tmp_path), LocalStorageBackend(tmp_path / "inner")
        assert said(judge_backends({"a": outer, "b": inner})) == {"backends-overlap": "error"}
        assert said(judge_backends({"a": outer, "b": LocalStorageBackend(tmp_path)})) == {"backends-alias": "note"}
        (finding,) = judge_backends({"m": MemoryStorageBackend()})
        assert (finding.code, finding.subject) == ("backend-memory", "backend 'm'")

    def test_policies_are_held_against_their_backends(self, tmp_path: Any) -> None:
        backends = {"main": LocalStorageBackend(tmp_path), "memory": MemoryStorageBackend()}
        asked = WriteOptions(storage_class="GLACIER", durable=True)
        policies = {
            "plain": StoragePolicy("plain", "main", max_size=5),
            "large": StoragePolicy("large", "main"),
            "cold": StoragePolicy("cold", "main", max_size=5, store=asked),
            "sent": StoragePolicy("sent", "main", max_size=5, delivery="redirect"),
            "left": StoragePolicy("left", "memory", max_size=5, delivery="offload"),
        }
        found = list(judge_policies(policies, backends, {"plain", "large", "cold", "left"}))
        assert [(each.code, each.subject, each.severity.value) for each in found] == [
            ("policy-size", "policy 'large'", "note"),
            ("policy-store", "policy 'cold'", "note"),
            ("policy-delivery", "policy 'sent'", "error"),
            ("policy-unused", "policy 'sent'", "note"),
            ("policy-delivery", "policy 'left'", "error"),
        ]
        assert "storage_class" in found[1].found
        assert said(judge_policies({"plain": policies["plain"]}, backends, ())) == {}


class TestRuns:
    def ended(self, ago: timedelta, **more: Any) -> dict[str, Any]:
        return {"ended_at": (NOW - ago).isoformat(), **more}

    def test_what_never_ran_is_told_of_once_there_is_anything(self) -> None:
        assert said(judge_runs({}, None, NOW, anything=False)) == {}
        assert said(judge_runs({}, None, NOW, anything=True)) == {
            "sweep-never": "warning",
            "reconcile-never": "warning",
        }

    def test_what_is_overdue_is_told_of(self) -> None:
        fresh = {"sweep": self.ended(timedelta(minutes=5)), "reconcile": self.ended(timedelta(hours=5))}
        assert said(judge_runs(fresh, None, NOW, anything=True)) == {}
        old = {"sweep": self.ended(timedelta(hours=5)), "reconcile": self.ended(timedelta(days=5))}
        assert said(judge_runs(old, None, NOW, anything=True)) == {"sweep-late": "warning", "reconcile-late": "warning"}
        weekly = GCConfig(sweep_every=timedelta(hours=4), reconcile_every=timedelta(days=7))
        assert said(judge_runs(old, weekly, NOW, anything=True)) == {}

    def test_a_refusal_and_damage_are_errors(self) -> None:
        last = {
            "sweep": self.ended(timedelta(minutes=1), refused="no reason"),
            "reconcile": self.ended(timedelta(minutes=1)),
            "verify": self.ended(timedelta(minutes=1), sound=False, found={"missing": 2}),
        }
        found = list(judge_runs(last, None, NOW, anything=True))
        assert said(found) == {"sweep-refused": "error", "verify-unsound": "error"}
        assert "missing" in found[1].found


class TestDisk:
    roomy = DiskFacts("/srv/files", True, 0o750, 50 * GIB, 100 * GIB, 900, 1000, "/srv", "ext4")

    def test_a_roomy_disk_is_fine(self) -> None:
        assert said(judge_disk(self.roomy, durable=True)) == {"disk-full": "ok"}

    @pytest.mark.parametrize(
        ("change", "code", "severity"),
        [
            ({"free": 4 * GIB}, "disk-full", "warning"),
            ({"free": 50 * 1024**2}, "disk-full", "error"),
            ({"free": 9 * 1024**2, "size": 100 * 1024**2}, "disk-full", "error"),
            ({"free": 50 * 1024**2, "size": 100 * 1024**2}, "disk-full", "ok"),
            ({"free_inodes": 40}, "disk-inodes", "warning"),
            ({"free_inodes": 5}, "disk-inodes", "error"),
            ({"kind": "tmpfs"}, "disk-volatile", "error"),
            ({"kind": "overlay"}, "disk-volatile", "warning"),
            ({"kind": "vfat"}, "disk-links", "error"),
            ({"kind": "nfs4"}, "disk-remote", "note"),
            ({"kind": "fuse.sshfs"}, "disk-remote", "note"),
            ({"read_only": True}, "disk-read-only", "error"),
            ({"mode": 0o777}, "disk-open", "warning"),
            ({"exists": False, "mode": 0o777}, "disk-folder", "note"),
        ],
    )
    def test_what_is_wrong_with_one_is_told(self, change: dict[str, Any], code: str, severity: str) -> None:
        assert said(judge_disk(replace(self.roomy, **change), durable=True))[code] == severity

    def test_a_store_that_is_not_durable_is_told_of(self) -> None:
        assert said(judge_disk(self.roomy, durable=False))["disk-not-durable"] == "warning"

    def test_uncounted_inodes_are_no_trouble(self) -> None:
        assert "disk-inodes" not in said(judge_disk(replace(self.roomy, free_inodes=None, inodes=0), durable=True))

    def test_the_system_is_asked_about_the_nearest_folder_there_is(self, tmp_path: Any) -> None:
        facts = look_at_disk(str(tmp_path / "a" / "b"))
        assert not facts.exists
        assert facts.size > facts.free > 0
        assert look_at_disk(str(tmp_path)).exists
        assert facts.mount_point.startswith("/")
        assert str(tmp_path).startswith(facts.mount_point)


def test_what_matters_most_comes_first() -> None:
    findings = [Finding(str(number), severity, "") for number, severity in enumerate(reversed(Severity))]
    again = [*findings, Finding("last", Severity.ERROR, "")]
    assert [each.code for each in sorted_findings(again)] == ["3", "last", "2", "1", "0"]
    assert findings[0].about("a").about("b").subject == "a"
