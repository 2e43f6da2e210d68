"""Which store is meant: from an obstore store, or from a URL and settings; made once in each process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

from granite_core.backends._bucket import web_address
from granite_core.backends.obstore.library import library, obstore_errors
from granite_core.errors import ConfigurationError

__all__ = ["Patience", "Place", "place_of", "place_of_url"]

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 60.0
ATTEMPTS: Final = 4
RETRY_SECONDS: Final = 120

Kind = Literal["s3", "gs", "az", "file", "memory"]

_KINDS: Final[Mapping[str, Kind]] = {
    "S3Store": "s3",
    "GCSStore": "gs",
    "AzureStore": "az",
    "LocalStore": "file",
    "MemoryStore": "memory",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store is waited for: seconds, and how often; None for our own measure."""

    connect_timeout: float | None = None
    read_timeout: float | None = None
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where objects are kept, and by which store they are reached.

    Args:
        kind: What kind of store.
        identity: Where the bytes physically are, without our prefix.
        make: Makes the store; called once in each process.
        bucket: The bucket's name, where there is one.
        inside: What the store itself puts before each key: empty, or a folder with a slash at its end.
        endpoint: The address of an S3 that is not AWS.
        region: The region of an S3.
        virtual_host: Whether the endpoint of an S3 names the bucket itself.
        credentials: What signs addresses of an S3: its settings, or a function that returns them.
    """

    kind: Kind
    identity: tuple[str, ...]
    make: Callable[[], Any] = field(compare=False, repr=False)
    bucket: str = ""
    inside: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    virtual_host: bool = False
    credentials: Any = field(default=None, compare=False, repr=False)


def place_of(store: Any) -> Place:
    """Find out where a given store keeps its objects.

    Raises:
        ConfigurationError: It is no store that can be written to and listed.
    """
    names = [each.__name__ for each in type(store).__mro__ if each.__module__.partition(".")[0] == "obstore"]
    kind = next((_KINDS[each] for each in names if each in _KINDS), None)
    inside = "" if kind in (None, "file", "memory") or not store.prefix else f"{store.prefix}/"
    folders = tuple(inside.split("/")[:-1])
    if kind == "s3":
        return _s3_place(store.config, inside, lambda: store, provider=store.credential_provider)
    if kind == "gs":
        return Place(kind, ("gs", store.config["bucket"], *folders), lambda: store, store.config["bucket"], inside)
    if kind == "az":
        account = str(store.config.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", ""))
        container = store.config["container_name"]
        return Place(kind, ("az", account, container, *folders), lambda: store, container, inside)
    if kind == "file":
        return Place(kind, ("file", *Path(os.path.realpath(store.prefix or "/")).parts), lambda: store)
    if kind == "memory":
        return Place(kind, ("memory", f"obstore-{id(store):x}"), lambda: store)
    raise ConfigurationError(
        f"a store of obstore's is wanted (S3Store, GCSStore, AzureStore, LocalStore, MemoryStore), or a URL such as"
        f" s3://bucket/prefix; not {type(store).__name__}"
    )


def place_of_url(
    url: str, patience: Patience, *, endpoint_url: str | None = None, region: str | None = None
) -> tuple[Place, str]:
    """Find out where a URL leads, and return it with the folder that the URL names.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``az://account/container/prefix``.
        patience: How long the store is waited for.
        endpoint_url: Address of an S3 that is not AWS; without one, what the environment says.
        region: The region of an S3; without one, what the environment says.

    Raises:
        ConfigurationError: It leads nowhere.
    """
    parts = urlsplit(url)
    bucket, path = parts.netloc, unquote(parts.path)
    if "@" in bucket or parts.query or parts.fragment or not bucket or parts.scheme not in ("s3", "gs", "az"):
        raise ConfigurationError(
            "a store's URL looks like s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix, without"
            " credentials and options"
        )
    if parts.scheme == "s3":
        endpoint = web_address("endpoint_url", endpoint_url or _from_environment("ENDPOINT_URL_S3", "ENDPOINT_URL"))
        config = _s3_config(bucket, endpoint, region)
        return _s3_place(config, "", lambda: _make("S3Store", bucket, patience, config=config, endpoint=endpoint)), path
    if endpoint_url or region:
        raise ConfigurationError("endpoint_url and region are for S3")
    if parts.scheme == "gs":
        return Place("gs", ("gs", bucket), lambda: _make("GCSStore", bucket, patience), bucket), path
    account, (container, _, path) = bucket, path.strip("/").partition("/")
    if not container:
        raise ConfigurationError("a URL of Azure looks like az://account/container/prefix", value=url)
    place = Place(
        "az",
        ("az", account, container),
        lambda: _make("AzureStore", container, patience, config={"account_name": account}),
        container,
    )
    return place, path


def _s3_config(bucket: str, endpoint: str | None, region: str | None) -> dict[str, str]:
    config = {
        "bucket": bucket,
        "region": region or _from_environment("REGION", "DEFAULT_REGION") or "us-east-1",
        "disable_bulk_delete": "true",  # one DELETE for one object: less work, and every store knows it
        "virtual_hosted_style_request": str(not endpoint and "." not in bucket).lower(),
    }
    if endpoint:
        config["endpoint"] = endpoint
    if not endpoint or endpoint.startswith("https:"):
        config["unsigned_payload"] = "true"  # TLS protects it; hashing it again would double what a put costs
    else:
        config["checksum_algorithm"] = "sha256"  # computed for the signature anyway
    if not endpoint:
        config["checksum_algorithm"] = "crc64nvme"  # the one that AWS computes by itself; others may not know it
    return config


def _s3_place(config: Mapping[str, Any], inside: str, make: Callable[[], Any], *, provider: Any = None) -> Place:
    def setting(*names: str) -> str | None:
        found = next((str(config[each.lower()]) for each in names if config.get(each.lower())), None)
        return found or _from_environment(*names)

    bucket = setting("BUCKET", "BUCKET_NAME") or ""
    endpoint = setting("ENDPOINT_URL_S3", "ENDPOINT", "ENDPOINT_URL")
    virtual_host = (setting("VIRTUAL_HOSTED_STYLE_REQUEST") or "false").lower() in ("true", "1", "yes")
    address = urlsplit(endpoint or "").netloc.rpartition("@")[2].lower()
    if virtual_host:
        address = address.removeprefix(f"{bucket}.".lower())
    if not address or address.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        address = "aws"  # one bucket answers under many names there
    static = {name: setting(name.upper()) for name in ("access_key_id", "secret_access_key")}
    known = {**static, "token": setting("SESSION_TOKEN", "TOKEN")} if all(static.values()) else None
    return Place(
        "s3",
        ("s3", address, bucket, *inside.split("/")[:-1]),
        make,
        bucket,
        inside,
        endpoint,
        setting("REGION", "DEFAULT_REGION") or "us-east-1",
        virtual_host,
        provider or known,
    )


def _from_environment(*names: str) -> str | None:
    return next((found for each in names if (found := os.environ.get(f"AWS_{each}"))), None)


def _make(
    kind: str, bucket: str, patience: Patience, *, config: Mapping[str, str] | None = None, endpoint: str | None = None
) -> Any:
    """Make a store whose calls end: bounded in connecting, in waiting for the next bytes, and in retries."""
    library()
    from obstore import store

    try:
        return getattr(store, kind)(
            bucket,
            config={name: value for name, value in (config or {}).items() if name != "bucket"},
            client_options={
                "connect_timeout": timedelta(seconds=patience.connect_timeout or CONNECT_SECONDS),
                "read_timeout": timedelta(seconds=patience.read_timeout or READ_SECONDS),
                "timeout": timedelta(days=7),  # of a whole answer: a client may take hours to read a film through us
                "allow_http": bool(endpoint and endpoint.startswith("http:")),
            },
            retry_config={
                "max_retries": (patience.max_attempts or ATTEMPTS) - 1,
                "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            },
        )
    except obstore_errors() as error:
        raise ConfigurationError(f"obstore cannot make its {kind}: see the cause", backend="obstore") from error
