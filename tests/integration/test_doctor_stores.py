"""The doctor at real stores: buckets with and without their rules, credentials that may not write, disks."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from granite_core import Finding, LocalStorageBackend, MemoryStorageBackend, S3StorageBackend, StorageBackend
from granite_core.doctor._probe import Probed, probe
from granite_core.errors import AccessDeniedError, BackendError, BackendUnavailableError
from granite_core.testing.faults import FaultyBackend
from tests.support.ceph import GUEST
from tests.support.processes import free_port
from tests.support.s3 import S3Server

MakeBucket = Callable[..., tuple[Any, str]]


def said(findings: Any) -> dict[str, str]:
    return {each.code: each.severity.value for each in findings}


def left_over(backend: StorageBackend) -> list[str]:
    inner = backend.inner if isinstance(backend, FaultyBackend) else backend
    assert isinstance(inner, MemoryStorageBackend)
    return [key.decode() for key in inner._keys]


class TestProbe:
    def test_a_backend_that_works_is_found_to_work_and_nothing_stays(self) -> None:
        backend = MemoryStorageBackend()
        found = probe(backend)
        assert said(found.findings) == {"verbs": "ok"}
        assert abs(found.skew or 0) <= found.margin + 1
        assert left_over(backend) == []

    @pytest.mark.parametrize("verb", ["write", "read", "stat", "list", "copy", "delete"])
    def test_each_verb_that_fails_is_named(self, verb: str) -> None:
        backend = FaultyBackend(MemoryStorageBackend())
        operation: Any = {"write": "commit", "read": "open_reader"}.get(verb, verb)
        backend.fail(operation, AccessDeniedError("denied"), times=None)
        found = {each.code: each for each in probe(backend).findings}
        assert found[verb].severity == "error"
        assert found[verb].advice.endswith(verb)
        if verb != "delete":
            assert left_over(backend) == []

    def test_what_waiting_would_mend_is_said_so(self) -> None:
        backend = FaultyBackend(MemoryStorageBackend())
        backend.fail("commit", BackendUnavailableError("away"), times=None)
        assert "is up" in probe(backend).findings[0].advice

    def test_a_store_that_returns_something_else_is_found_out(self) -> None:
        class Liar(MemoryStorageBackend):
            def get(self, location: str) -> bytes:
                return b"something else"

            def delete(self, location: Any) -> None:
                pass

        assert said(probe(Liar()).findings) == {"read": "error", "delete": "error"}


class TestBuckets:
    def test_a_bare_bucket_and_then_the_rules_that_were_advised(
        self, s3_server: S3Server, s3_bucket: MakeBucket
    ) -> None:
        client, bucket = s3_bucket(s3_server)
        backend = S3StorageBackend(bucket, "files", client, atomic_create=False)
        assert said(probe(backend).findings) == {"verbs": "ok"}
        found = {each.code: each for each in backend.diagnose(origins=["https://app.example"])}
        assert found["s3-unfinished"].severity == "note"
        assert found["s3-cors"].severity == "warning"
        assert "s3-versions" not in found
        rules = argument(found["s3-unfinished"], "--lifecycle-configuration")
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
        client.put_bucket_cors(Bucket=bucket, CORSConfiguration=argument(found["s3-cors"], "--cors-configuration"))
        again = said(backend.diagnose(origins=["https://app.example"]))
        assert (again["s3-unfinished"], again["s3-cors"]) == ("ok", "ok")
        assert said(backend.diagnose(origins=["https://other.example"]))["s3-cors"] == "warning"

    def test_versions_that_nobody_removes(self, s3_server: S3Server, s3_bucket: MakeBucket) -> None:
        client, bucket = s3_bucket(s3_server, versioned=True)
        keeping = S3StorageBackend(bucket, "files", client, atomic_create=False, delete_versions=False)
        found = {each.code: each for each in keeping.diagnose()}
        assert found["s3-versions"].severity == "error"
        rules = argument(found["s3-versions"], "--lifecycle-configuration")
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
        assert said(keeping.diagnose())["s3-versions"] == "ok"
        removing = S3StorageBackend(bucket, "files", client, atomic_create=False)
        assert said(removing.diagnose())["s3-versions"] == "ok"
        assert said(probe(removing).findings) == {"verbs": "ok"}
        assert not client.list_object_versions(Bucket=bucket).get("Versions")

    def test_a_rule_that_deletes_what_rows_hold(self, s3_server: S3Server, s3_bucket: MakeBucket) -> None:
        client, bucket = s3_bucket(s3_server)
        rule = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
        found = {each.code: each for each in S3StorageBackend(bucket, "files", client).diagnose()}
        assert found["s3-expiry"].severity == "error"
        assert "'tidy' deletes objects after 30 days" in found["s3-expiry"].found

    def test_a_bucket_that_is_not_there(self, s3_server: S3Server) -> None:
        backend = S3StorageBackend("granite-none", client=s3_server.client(), atomic_create=False)
        assert said(backend.diagnose()) == {"s3-bucket": "error"}
        assert set(said(probe(backend).findings).values()) == {"error"}

    def test_credentials_that_may_only_read(self, rgw: S3Server, s3_bucket: MakeBucket) -> None:
        client, bucket = s3_bucket(rgw)
        reader = replace(rgw, access_key=GUEST[0], secret_key=GUEST[1]).client()
        backend = S3StorageBackend(bucket, client=reader, atomic_create=False)
        assert said(backend.diagnose()) == {"s3-bucket": "error"}, "they may do nothing yet"
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": ["arn:aws:iam:::user/guest"]},
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        client.put_bucket_policy(Bucket=bucket, Policy=policy)
        found = {each.code: each for each in probe(backend).findings}
        assert found.keys() == {"write"}
        assert "AccessDenied" in found["write"].found
        diagnosis = {each.code: each for each in backend.diagnose()}
        assert diagnosis["s3-unfinished"].severity == "warning"
        assert "s3:GetLifecycleConfiguration" in diagnosis["s3-untold"].advice
        reader.close()

    def test_wrong_credentials_are_told_and_not_shown(self, rgw: S3Server, s3_bucket: MakeBucket) -> None:
        _, bucket = s3_bucket(rgw)
        wrong = replace(rgw, secret_key="not-the-secret").client()
        backend = S3StorageBackend(bucket, client=wrong, atomic_create=False)
        everything = repr([*probe(backend).findings, *backend.diagnose()])
        assert "'s3-bucket'" in everything
        assert "not-the-secret" not in everything
        wrong.close()

    def test_a_store_that_is_away(self) -> None:
        away = S3Server("away", f"http://127.0.0.1:{free_port()}", "k", "s").client(
            retries={"total_max_attempts": 1}, connect_timeout=1
        )
        backend = S3StorageBackend("bucket", client=away)
        (finding,) = backend.diagnose()
        assert "cannot be asked" in finding.found
        assert {each.advice.partition(",")[0] for each in probe(backend).findings} == {"see that the store is up"}


def argument(finding: Finding, name: str) -> Any:
    words = shlex.split(finding.advice.splitlines()[-1])
    return json.loads(words[words.index(name) + 1])


class TestDisks:
    def test_a_folder_that_works(self, tmp_path: Path) -> None:
        backend = LocalStorageBackend(tmp_path / "files")
        assert "disk-folder" in said(backend.diagnose())
        assert said(probe(backend).findings) == {"verbs": "ok"}
        found = said(backend.diagnose())
        assert "disk-folder" not in found
        assert "error" not in found.values()

    def test_a_mount_that_is_read_only(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "mnt", "tmpfs", "size=1m,ro") as folder:
            backend = LocalStorageBackend(folder)
            found = said(backend.diagnose())
            assert (found["disk-read-only"], found["disk-volatile"]) == ("error", "error")
            (finding,) = probe(backend).findings
            assert finding.code == "write"
            assert "ead-only" in finding.found

    def test_a_disk_that_is_full(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "mnt", "tmpfs", "size=1m,nr_inodes=400") as folder:
            (folder / "ballast").write_bytes(b"x" * 1_040_000)
            for number in range(397):
                (folder / f"{number}").touch()
            backend = LocalStorageBackend(folder)
            found = said(backend.diagnose())
            assert (found["disk-full"], found["disk-inodes"]) == ("error", "error")
            assert "write" in said(probe(backend).findings)

    def test_a_user_who_may_not_write(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("another user is needed: this one is not root")
        script = """if True:
            import os, sys
            from granite_core import LocalStorageBackend
            from granite_core.doctor._probe import probe
            backend = LocalStorageBackend(sys.argv[1])
            backend.diagnose()
            os.setgid(65534), os.setuid(65534)
            print([(each.code, each.severity.value, each.advice) for each in probe(backend).findings])
        """
        # Not below tmp_path: whoever begins another run of pytest closes that to other users again.
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[('write', 'error', 'let these credentials, or this user, write')]"

    def test_a_backend_of_ones_own_has_nothing_to_add(self) -> None:
        assert MemoryStorageBackend().diagnose() == ()
        backend = FaultyBackend(LocalStorageBackend("/tmp"))
        assert "disk-full" in said(backend.diagnose())


@contextmanager
def mounted(folder: Path, kind: str, options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", kind, "-o", options, "none", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this user may not mount: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_errors_are_findings_whatever_they_are() -> None:
    class Broken(MemoryStorageBackend):
        def list_objects(self, **_: Any) -> Any:
            raise BackendError("list: NotImplemented")

    found: Probed = probe(Broken())
    assert said(found.findings) == {"list": "error"}
