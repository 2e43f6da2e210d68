"""A backend from one line of configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from granite_core.backends.base import StorageBackend
from granite_core.backends.local import LocalStorageBackend
from granite_core.backends.memory import MemoryStorageBackend
from granite_core.errors import ConfigurationError

__all__ = ["backend_from_url"]


def backend_from_url(url: str) -> StorageBackend:
    """Make a backend from a URL.

    - ``file:var/files`` or ``file:///srv/files``; ``?durable=false`` for data that may be lost in a power cut,
      ``?make_root=false`` where the folder is on a disk of its own and must be there.
    - ``s3://bucket/prefix``; ``?endpoint_url=https://…``, ``region``, ``part_size`` (bytes), ``atomic_create``,
      ``delete_versions``, ``presign_endpoint_url``, ``public_url``, ``connect_timeout``, ``read_timeout`` (seconds) and
      ``max_attempts`` are those of ``S3StorageBackend``. Credentials come from where boto3 finds them, never from the
      URL.
    - ``obstore+s3://bucket/prefix``: the same bucket through obstore, with the same options;
      ``obstore+gs://bucket/prefix`` and ``obstore+az://account/container/prefix`` with those that are not of S3
      alone. Credentials come from where obstore finds them.
    - ``memory:``.

    Args:
        url: As above; ``%xx`` in paths and options is decoded.

    Raises:
        ConfigurationError: The URL says something that is not understood.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("credentials do not belong into a storage URL: set them in the environment")
    if parts.fragment:
        raise ConfigurationError(f"a storage URL has no fragment: {url!r}; write # as %23", value=url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = unquote(parts.path)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and path:
        return LocalStorageBackend(path, **_read(options, {"durable": _boolean, "make_root": _boolean}))
    if parts.scheme == "s3" and parts.netloc:
        from granite_core.backends.s3 import S3StorageBackend

        return S3StorageBackend(parts.netloc, path, **_read(options, _BUCKET | _S3))
    if parts.scheme in ("obstore+s3", "obstore+gs", "obstore+az") and parts.netloc:
        from granite_core.backends.obstore import ObstoreStorageBackend

        store = parts.scheme.removeprefix("obstore+")
        known = _BUCKET | _S3 if store == "s3" else _BUCKET
        return ObstoreStorageBackend(f"{store}://{parts.netloc}{parts.path}", **_read(options, known))
    if parts.scheme == "memory" and not parts.netloc and not path:
        _read(options, {})
        return MemoryStorageBackend()
    raise ConfigurationError(
        f"not a storage URL: {url!r}; they look like file:var/files, s3://bucket/prefix, obstore+s3://bucket/prefix or"
        " memory:",
        value=url,
    )


def _read(options: Mapping[str, str], known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    for name in options:
        if name not in known:
            raise ConfigurationError(f"unknown option {name!r}; known are {', '.join(known) or 'none'}", value=name)
    try:
        return {name: known[name](value) for name, value in options.items()}
    except ValueError as error:
        raise ConfigurationError(f"a storage URL's option: {error}") from error


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise ValueError(f"{text!r} is neither true nor false") from None


_BUCKET: Final[dict[str, Callable[[str], Any]]] = {
    "atomic_create": _boolean,
    "connect_timeout": float,
    "max_attempts": int,
    "part_size": int,
    "public_url": str,
    "read_timeout": float,
}
_S3: Final[dict[str, Callable[[str], Any]]] = {
    "delete_versions": _boolean,
    "endpoint_url": str,
    "presign_endpoint_url": str,
    "region": str,
}
