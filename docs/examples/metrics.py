"""Metrics of a store: the same events for Prometheus and for OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.metrics import Meter, MeterProvider
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from granite_core import ContentTooLargeError, MemoryStorageBackend, StorageManager, StoragePolicy
from granite_core.events import Attached, Collected, Deleted, Event, Refused, Released, Served, Stored


# the part "prometheus" begins
def prometheus_listener(registry: CollectorRegistry) -> Callable[[Event], None]:
    stored = Counter("files_stored_bytes", "Bytes stored", ["policy", "backend"], registry=registry)
    storing = Histogram("files_storing_seconds", "Time from first byte to durable", ["policy"], registry=registry)
    attached = Gauge("files_attached_bytes", "Bytes attached less bytes released", ["policy"], registry=registry)
    deleted = Counter("files_deleted", "Objects deleted", ["policy", "reason"], registry=registry)
    refused = Counter("files_refused", "Contents refused", ["policy", "code"], registry=registry)
    served = Counter("files_served_bytes", "Bytes sent", ["policy", "status"], registry=registry)
    unfinished = Counter("files_unfinished", "Downloads that ended early", ["policy", "error"], registry=registry)
    runs = Counter("files_collections", "Runs of the collector", ["kind", "outcome"], registry=registry)

    def count(event: Event) -> None:
        match event:
            case Stored():
                stored.labels(event.storage_key, event.backend_key).inc(event.size)
                storing.labels(event.storage_key).observe(event.seconds)
            case Attached():
                attached.labels(event.storage_key).inc(event.size)
            case Released():
                attached.labels(event.storage_key).dec(event.size)
            case Deleted():
                deleted.labels(event.storage_key, event.reason).inc()
            case Refused():
                refused.labels(event.storage_key, event.code).inc()
            case Served():
                served.labels(event.storage_key, event.status).inc(event.sent)
                if not event.complete:
                    unfinished.labels(event.storage_key, event.error or "client left").inc()
            case Collected(dry_run=False):
                outcome = "failed" if event.error else "skipped" if event.skipped else "done"
                runs.labels(event.kind, outcome).inc()

    return count
    # the part "prometheus" ends


# the part "opentelemetry" begins
def opentelemetry_listener(meter: Meter) -> Callable[[Event], None]:
    stored = meter.create_counter("files.stored", unit="By")
    served = meter.create_counter("files.served", unit="By")
    duration = meter.create_histogram("files.serve.duration", unit="s")
    events = meter.create_counter("files.events", unit="{event}")

    def count(event: Event) -> None:
        events.add(1, {"event": event.name})
        match event:
            case Stored():
                stored.add(event.size, {"policy": event.storage_key})
            case Served():
                labels = {"policy": event.storage_key, "http.response.status_code": event.status}
                served.add(event.sent, labels)
                duration.record(event.seconds, labels)

    return count
    # the part "opentelemetry" ends


# the part "listen" begins
def watch(manager: StorageManager, registry: CollectorRegistry, provider: MeterProvider) -> None:
    manager.listen(prometheus_listener(registry))
    manager.listen(opentelemetry_listener(provider.get_meter("files")), Stored, Served)
    # the part "listen" ends


def main() -> None:
    from opentelemetry.sdk.metrics import MeterProvider as SDKMeterProvider

    registry = CollectorRegistry()
    manager = StorageManager({"main": MemoryStorageBackend()}, [StoragePolicy("reports", max_size=1000)])
    watch(manager, registry, SDKMeterProvider())
    manager.delete(manager.put_bytes("reports", content=b"x" * 500))
    try:
        manager.put_bytes("reports", content=b"x" * 1001)
    except ContentTooLargeError:
        print(generate_latest(registry).decode())


if __name__ == "__main__":
    main()
