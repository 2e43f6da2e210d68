"""``litestar granite doctor``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.integration.litestar.cli_support import System, local, operated, system
from tests.support.s3 import S3Server

__all__ = ["local", "system"]

PAGE = "https://app.example"


@pytest.fixture
def ceph(
    rgw: S3Server,
    s3_bucket: Callable[..., tuple[Any, str]],
    postgres_database: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[System]:
    """An application on PostgreSQL and Ceph."""
    _, bucket = s3_bucket(rgw)
    stores = {"main": f"s3://{bucket}/main?endpoint_url={rgw.endpoint}&region=us-east-1&atomic_create=false"}
    keys = {"AWS_ACCESS_KEY_ID": rgw.access_key, "AWS_SECRET_ACCESS_KEY": rgw.secret_key}
    database = postgres_database
    with operated(monkeypatch, database.async_url, database.sync_url, stores, **keys) as found:
        yield found


def ours(findings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By code; without what is about the models of other tests, which live in this process too."""
    return {each["code"]: each for each in findings if not each["subject"].startswith("model ")}


def test_a_sound_application_is_found_sound(system: System) -> None:
    system.keep()
    system.json("sweep")
    system.json("reconcile")
    answer = system.json("doctor", code=0)
    found = ours(answer["findings"])
    assert not [each for each in found.values() if each["severity"] in ("error", "warning")], found
    assert {"database", "verbs", "clock"} <= found.keys()
    assert found["verbs"]["subject"].startswith("backend '")
    assert answer["counts"]["error"] == 0
    assert len(system.stored()) == 1


def test_what_is_wrong_is_told_with_what_to_do(local: System) -> None:
    with local.engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_document_file_location"))
        connection.execute(text("DROP TABLE granite_column"))
    result = local.run("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("ERROR"), "what matters most comes first"
    assert any("there is no table granite_column  [table-missing]" in line for line in lines)
    assert any("alembic" in line for line in lines)
    assert any(line.startswith("WARNING") and "[index-missing]" in line for line in lines)


def test_tables_that_only_quotas_need_may_come_later(local: System) -> None:
    with local.engine.begin() as connection:
        connection.execute(text("DROP TABLE granite_usage"))
    result = local.run("doctor")
    assert result.exit_code == 0
    assert any(
        line.startswith("WARNING") and "granite_usage, which policies with quotas need" in line
        for line in result.stdout.splitlines()
    )


def test_warnings_count_where_they_are_said_to(local: System) -> None:
    with local.engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_document_file_location"))
    assert local.run("doctor").exit_code == 0
    assert local.run("doctor", "--strict").exit_code == 1


def test_a_bucket_and_its_rules_are_looked_at(ceph: System) -> None:
    found = ours(ceph.json("doctor", "--origin", PAGE)["findings"])
    assert found["s3-cors"]["severity"] == "warning"
    assert "put-bucket-cors" in found["s3-cors"]["advice"]
    assert found["s3-unfinished"]["severity"] == "note"
    assert ceph.stored() == set()


def test_a_bucket_that_clients_send_to_must_let_pages_send(ceph: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATED_DIRECT", "1")
    found = ours(ceph.json("doctor", "--origin", PAGE)["findings"])
    assert "may not read from the store, and send files to it" in found["s3-cors"]["found"]
    assert '"PUT"' in found["s3-cors"]["advice"]


def test_a_store_that_is_away_is_told_and_no_secret_is(local: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATED_STORES", '{"main": "s3://bucket?endpoint_url=http://127.0.0.1:1&region=us-east-1"}')
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    result = local.run("doctor")
    assert result.exit_code == 1
    assert "[s3-bucket]" in result.stdout
    assert "very-secret" not in result.output
