"""The bucket that a contender has of its own, and every client that reaches it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.content import MIB, with_source
from tests.benchmarks.servers import Address, nginx, nginx_missing
from tests.benchmarks.worker import Task
from tests.support.broker import ask
from tests.support.parts import find_program, why_missing
from tests.support.processes import run as run_program
from tests.support.s3 import S3Server

__all__ = ["AT_ONCE", "Store", "check_objects", "empty", "part", "reached", "set_up"]

AT_ONCE = 32

_PROXY = """
        location / {{
            proxy_pass http://store;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
        }}
    }}
    upstream store {{
        server {address};
        keepalive 64;
"""


@dataclass(frozen=True)
class Store:
    """A bucket, as one contender reaches it."""

    endpoint: str
    server: S3Server
    bucket: str
    certificate: str | None

    def client(self) -> Any:
        """boto3's, with as many connections as are used at once; the server knows no checksums in trailers."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.server.access_key,
            aws_secret_access_key=self.server.secret_key,
            region_name=self.server.region,
            verify=self.certificate,
            config=Config(
                max_pool_connections=AT_ONCE,
                proxies={},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )

    def obstore(self, **options: Any) -> Any:
        from obstore.store import S3Store

        return S3Store(
            self.bucket,
            endpoint=self.endpoint,
            access_key_id=self.server.access_key,
            secret_access_key=self.server.secret_key,
            region=self.server.region,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True, "allow_invalid_certificates": True, "timeout": "300s"},
            **options,
        )

    def s3fs(self) -> Any:
        from s3fs import S3FileSystem

        return S3FileSystem(
            key=self.server.access_key,
            secret=self.server.secret_key,
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": self.server.region, "verify": self.certificate},
            config_kwargs={
                "max_pool_connections": AT_ONCE,
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                "s3": {"addressing_style": "path"},
            },
            asynchronous=True,
        )

    def granite(self) -> Any:
        """Ours, as an application has it."""
        from granite_core import S3StorageBackend, StorageManager, StoragePolicy

        os.environ["AWS_ACCESS_KEY_ID"] = self.server.access_key
        os.environ["AWS_SECRET_ACCESS_KEY"] = self.server.secret_key
        if self.certificate:
            os.environ["AWS_CA_BUNDLE"] = self.certificate
        backend = S3StorageBackend(
            self.bucket,
            endpoint_url=self.endpoint,
            region=self.server.region,
            atomic_create=self.server.name != "rgw",
            max_workers=AT_ONCE,
        )
        return StorageManager({"main": backend}, [StoragePolicy("files", "main")])

    def granite_obstore(self) -> Any:
        """Ours through obstore, which is given a store that trusts the certificate."""
        from granite_core import ObstoreStorageBackend, StorageManager, StoragePolicy

        store = self.obstore(unsigned_payload=self.endpoint.startswith("https:"), disable_bulk_delete=True)
        backend = ObstoreStorageBackend(store, max_workers=AT_ONCE)
        return StorageManager({"main": backend}, [StoragePolicy("files", "main")])

    def granite_storage(self) -> Any:
        from granite_storage import StorageManager, StoragePolicy
        from granite_storage.backends.s3 import S3StorageBackend

        backend = S3StorageBackend(bucket=self.bucket, client=self.client())
        return StorageManager({"main": backend}, {"files": StoragePolicy("files", "main")})


# ------------------------------------------------------------------------------------------------------------ set-up
def part(*, quick: bool) -> str:
    """Ceph, a real one; where it is not there, or time is short, the stand-in."""
    names = ("ministack", "ceph") if quick else ("ceph", "ministack")
    return next((each for each in names if why_missing(each) is None), names[0])


def set_up(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    server: S3Server = ask(values["part"])
    found = {**with_source(folder, values), "server": server, "certificate": None}
    openssl = find_program("openssl")
    if openssl is not None and nginx_missing() is None:
        certificate, private = folder / "certificate.pem", folder / "key.pem"
        name = [
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=CA:TRUE",
        ]
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        run_program([openssl, "req", *kind, *name, "-keyout", private, "-out", certificate])
        found.update(certificate=str(certificate), key=str(private))
    return found


@contextmanager
def reached(task: Task) -> Iterator[Store]:
    """A bucket of one's own, through TLS where that can be had."""
    server: S3Server = task["server"]
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ.pop(name, None)
    front: AbstractContextManager[Address | None] = nullcontext()
    if task["certificate"]:
        proxy = _PROXY.format(address=urlsplit(server.endpoint).netloc)
        front = nginx(task.folder, proxy, tls=(Path(task["certificate"]), Path(task["key"])))
    bucket = server.create_bucket()
    try:
        with front as address:
            endpoint = f"https://127.0.0.1:{address.port}" if address else server.endpoint
            yield Store(endpoint, server, bucket, task["certificate"])
    finally:
        server.drop_bucket(bucket)


def empty(store: Store) -> None:
    client = store.server.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket):
        if found := page.get("Contents"):
            keys = [{"Key": each["Key"]} for each in found]
            client.delete_objects(Bucket=store.bucket, Delete={"Objects": keys, "Quiet": True})
    client.close()


def check_objects(store: Store, sha256: str, count: int) -> None:
    client = store.server.client()
    keys = [
        each["Key"]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket)
        for each in page.get("Contents", [])
    ]
    assert len(keys) == count, f"{len(keys)} objects where {count} were stored"
    for each in keys[:: max(1, count // 10)]:
        digest = hashlib.sha256()
        body = client.get_object(Bucket=store.bucket, Key=each)["Body"]
        while data := body.read(MIB):
            digest.update(data)
        assert digest.hexdigest() == sha256, each
    client.close()
