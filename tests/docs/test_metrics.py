"""The listeners of the how-to count what happens."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from granite_core import ContentTooLargeError, MemoryStorageBackend, StorageManager, StoragePolicy
from granite_core.events import Attached, Collected, ObjectEvent, Released, Served

DOCS = Path(__file__).parents[2] / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_listeners_count() -> None:
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("docs", max_size=100)])
    load("metrics").watch(manager, registry, MeterProvider([reader]))
    ref = manager.put_bytes("docs", content=b"x" * 60)
    manager.delete(ref)
    with pytest.raises(ContentTooLargeError):
        manager.put_bytes("docs", content=b"x" * 101)
    name = manager.name_of(ref)
    manager.events.emit(Attached(**name, size=60, field=None))
    manager.events.emit(Attached(**name, size=40, field=None))
    manager.events.emit(Released(**name, size=60, field="a.b"))
    manager.events.emit(Served(**name, method="GET", status=200, size=60, sent=20, seconds=1.0, complete=False))
    manager.events.emit(Collected(kind="sweep", dry_run=False, seconds=1.0, skipped="the lease is held"))
    manager.events.emit(Collected(kind="sweep", dry_run=True, seconds=1.0))

    def value(sample: str, **labels: str) -> float | None:
        return registry.get_sample_value(sample, labels)

    assert value("files_stored_bytes_total", policy="docs", backend="main") == 60
    assert value("files_storing_seconds_count", policy="docs") == 1
    assert value("files_attached_bytes", policy="docs") == 40
    assert value("files_deleted_total", policy="docs", reason="deleted") == 1
    assert value("files_refused_total", policy="docs", code="content_too_large") == 1
    assert value("files_served_bytes_total", policy="docs", status="200") == 20
    assert value("files_unfinished_total", policy="docs", error="client left") == 1
    assert value("files_collections_total", kind="sweep", outcome="skipped") == 1
    assert value("files_collections_total", kind="sweep", outcome="done") is None

    metrics: dict[str, Any] = {
        metric.name: metric.data.data_points[0]
        for resource in reader.get_metrics_data().resource_metrics  # type: ignore[union-attr]
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert metrics["files.stored"].value == 60
    assert metrics["files.served"].value == 20
    assert metrics["files.serve.duration"].count == 1
    assert metrics["files.served"].attributes == {"policy": "docs", "http.response.status_code": 200}


def test_the_page_lists_every_logger_and_no_other() -> None:
    page = (DOCS / "how-to" / "logging-and-metrics.md").read_text()
    used = {f"granite.{kind.name}" for kind in ObjectEvent.__subclasses__()} | {"granite.refused", "granite.collected"}
    for package in ("granite_core", "granite_litestar"):
        for path in (DOCS.parent / package).rglob("*.py"):
            used.update(re.findall(r'getLogger\("(granite\..*?)"\)', path.read_text()))
    assert set(re.findall(r"^\| `(granite\..*?)`", page, re.MULTILINE)) == used


def test_a_json_formatter_of_ten_lines_gets_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("json_logs")
    logger = logging.getLogger("granite")
    before = logger.handlers[:], logger.level
    try:
        example.main()
    finally:
        logger.handlers[:], level = before
        logger.setLevel(level)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["event"] for each in lines] == ["stored", "deleted"]
    assert lines[0]["object_id"] == lines[1]["object_id"]
    assert lines[0]["size"] == 5
