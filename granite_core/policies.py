"""The rules of one storage slot, and the decisions that follow from them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from granite_core.errors import (
    ConfigurationError,
    ContentTooLargeError,
    ContentTypeMismatchError,
    ContentTypeNotAllowedError,
)
from granite_core.hooks import AfterCommit, BeforeUpload
from granite_core.keys import KeyTemplate, build_key
from granite_core.media import TypeJudgement, clean_content_type, matches_type
from granite_core.options import NO_OPTIONS, WriteOptions
from granite_core.quotas import Quota
from granite_core.validation import Validator

__all__ = ["Delivery", "StoragePolicy", "may_offload", "may_redirect"]

Delivery: TypeAlias = Literal["stream", "redirect", "offload", "auto"]
"""How bytes reach clients: through the application, from the store itself, from the web server in front of the
application, or from whichever of those can."""

_HOOKS: Final = ("before_upload", "validators", "after_commit")

_CHOICES: Final = {
    "disposition": ("auto", "attachment"),
    "mismatch": ("detect", "refuse"),
    "delivery": ("stream", "redirect", "offload", "auto"),
}


@dataclass(frozen=True, slots=True)
class StoragePolicy:
    """The rules of one storage slot.

    Args:
        storage_key: Name of the slot, which refs and fields carry.
        backend_key: Name of the backend that new objects go to; the manager's ``default_backend`` where empty. Old refs
            keep being read where they are.
        max_size: Largest content in bytes; None for no limit.
        key_prefix: First part of every key of this slot; may hold slashes.
        content_types: Media types to accept, exact (``application/pdf``) or ranges (``image/*``), judged on what the
            bytes are; None accepts all.
        disposition: ``"auto"`` shows safe types in the browser and offers the rest for download; ``"attachment"``
            offers everything for download.
        store: What to ask of the backend beside keeping the bytes.
        mismatch: What becomes of a file whose name, or whose sender, says it is of one type while its bytes show
            another: ``"detect"`` stores it as what the bytes show, ``"refuse"`` refuses it.
        key_template: Folders of the keys below ``key_prefix``, in place of model, row and field; names in braces are
            filled in from the ``context`` that is given when a file is stored, and from ``model_name``, ``entity_id``
            and ``field_name`` where they are known. A random name and the suffix always follow.
        before_upload: Functions, synchronous or not, that decide whether an upload may begin, before a byte of it is
            read; see ``Announcement``. What authorises or counts belongs here.
        quotas: How much may be stored in whose name: counted in the database, reserved before a byte is read, and given
            back when the file is gone; see ``Quota``.
        validators: Functions, synchronous or not, that look at each file once it is stored and before anyone gets its
            ref; see ``Candidate``. What one of them refuses is let go.
        after_commit: Functions, synchronous or not, that are told of each file that a committed row came to hold; see
            ``Committed``. They are called in the background, once at most: a process that dies forgets them.
        retention: How much longer than the manager's ``grace`` a file stays that rows have let go, for an undo or for
            backups of the database that still name it. What no row ever held does not wait for it.
        verify_reads: Whether content is held against its SHA-256 when it is read, whoever reads it: the last bytes come
            only if all are what was stored. Before a range of it the whole is read once, so this is not for large
            films. It goes with ``delivery="stream"`` alone.
        delivery: How bytes reach clients: ``"stream"`` passes them through the application; ``"redirect"`` sends
            clients to the store, by an address that it signs, and needs a backend that can; ``"offload"`` has the web
            server in front send the file, and needs one (``GraniteConfig(offload=…)``) and a backend of files;
            ``"auto"`` redirects where the backend can, offloads where there is such a web server, and streams where
            there is neither, on a laptop for instance.
        public: Says that everybody may have these files: their links never end, and a store that is open to all may
            give them away. What is stored is marked with how a browser is to treat it.
        cache_max_age: How long a copy that came by a link may be used without asking. None is until the link ends,
            and for public links an hour, a year with ``immutable``. Addresses of rows are asked each time, whatever
            this says: a row may get another file.
        immutable: Says that even a reload need not ask for what came by a link. A link's file never changes, but it
            may be deleted.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    storage_key: str
    backend_key: str = ""
    max_size: int | None = None
    key_prefix: str | None = None
    content_types: Collection[str] | None = None
    disposition: Literal["auto", "attachment"] = "auto"
    _: KW_ONLY
    store: WriteOptions = NO_OPTIONS

    # What is accepted, and what becomes of it.
    mismatch: Literal["detect", "refuse"] = "detect"
    key_template: str | None = None
    before_upload: Sequence[BeforeUpload] = ()
    quotas: Sequence[Quota] = ()
    validators: Sequence[Validator] = ()
    after_commit: Sequence[AfterCommit] = ()
    retention: timedelta = timedelta(0)
    verify_reads: bool = False

    # How it is delivered, and for how long copies are good.
    delivery: Delivery = "stream"
    public: bool = False
    cache_max_age: timedelta | None = None
    immutable: bool = False

    def __post_init__(self) -> None:
        if not self.storage_key:
            raise ConfigurationError("a policy needs a storage_key")
        for name in ("content_types", "quotas", *_HOOKS):
            if isinstance(value := getattr(self, name), str):
                raise self._cannot_be(name, "must be a list", value)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        self._check_values()
        if self.verify_reads and self.delivery != "stream":
            reason = 'goes with delivery="stream" alone: what a store sends by itself cannot be verified'
            raise self._cannot_be("verify_reads", reason, self.delivery)
        if self.key_prefix:
            build_key("x", prefix=self.key_prefix)
        if self.key_template is not None:
            KeyTemplate(self.key_template)

    def _check_values(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise self._cannot_be(name, f"must be one of {', '.join(map(repr, choices))}", value)
        for name, least in (("max_size", 0), ("retention", timedelta(0)), ("cache_max_age", timedelta(0))):
            if (value := getattr(self, name)) is not None and value < least:
                raise self._cannot_be(name, "must not be negative", value)
        for accepted in self.content_types or ():
            if accepted not in ("*", "*/*") and clean_content_type(accepted.replace("/*", "/x")) is None:
                raise self._cannot_be("content_types", f"must hold media types, not {accepted!r}", accepted)
        if not all(isinstance(each, Quota) for each in self.quotas):
            raise self._cannot_be("quotas", "must hold quotas", self.quotas)
        for name in _HOOKS:
            if not all(map(callable, getattr(self, name))):
                raise self._cannot_be(name, "must hold functions", getattr(self, name))

    def _cannot_be(self, name: str, why: str, value: object) -> ConfigurationError:
        return ConfigurationError(f"{name} of policy {self.storage_key!r} {why}", field=name, value=value)

    def new_key(
        self,
        unique: str,
        *,
        suffix: str = "",
        context: Mapping[str, object] | None = None,
        model_name: str | None = None,
        entity_id: str | None = None,
        field_name: str | None = None,
    ) -> str:
        """Return the key of a new object of this slot.

        Args:
            unique: The random part; see ``keys.unique_part``.
            suffix: A suffix as ``keys.suffix_of`` returns it.
            context: Values for the names in ``key_template``; what follows is used before it.
            model_name: Name of the model, where known.
            entity_id: Primary key of the row as text, where known.
            field_name: Name of the field, where known.

        Raises:
            ConfigurationError: A name in ``key_template`` has no value.
            InvalidKeyError: A piece is no safe part of a key.
        """
        if self.key_template is None:
            return build_key(
                unique,
                prefix=self.key_prefix,
                model_name=model_name,
                entity_id=entity_id,
                field_name=field_name,
                suffix=suffix,
            )
        parts = {"model_name": model_name, "entity_id": entity_id, "field_name": field_name}
        known = {name: value for name, value in parts.items() if value is not None}
        folders = KeyTemplate(self.key_template).fill({**(context or {}), **known})
        return build_key(unique, prefix=self.key_prefix, suffix=suffix, folders=folders)

    def check_size(self, size: int, *, field: str | None = None) -> None:
        """Refuse a size, in bytes, over the limit.

        Raises:
            ContentTooLargeError: It is over ``max_size``.
        """
        if self.max_size is not None and size > self.max_size:
            name = field or self.storage_key
            raise ContentTooLargeError(
                f"{name}: more than the {self.max_size} bytes allowed",
                operation="put",
                field=name,
                limit=self.max_size,
                value=size,
            )

    def check_content(self, judged: TypeJudgement, *, field: str | None = None) -> None:
        """Refuse a content that is not of an accepted type, or, with ``mismatch="refuse"``, not of the type it claims.

        Raises:
            ContentTypeNotAllowedError: It matches none of ``content_types``.
            ContentTypeMismatchError: Its name or its sender says something else.
        """
        self.check_type(judged.content_type, field=field)
        if self.mismatch == "refuse" and judged.contradicted is not None:
            name = field or self.storage_key
            raise ContentTypeMismatchError(
                f"{name}: this is {judged.content_type}, not {judged.contradicted} as it is said to be",
                operation="put",
                field=name,
                limit=judged.content_type,
                value=judged.contradicted,
            )

    def check_type(self, content_type: str, *, field: str | None = None) -> None:
        """Refuse a media type that the policy does not accept.

        Raises:
            ContentTypeNotAllowedError: It matches none of ``content_types``.
        """
        if self.content_types is None or any(matches_type(content_type, each) for each in self.content_types):
            return
        name = field or self.storage_key
        raise ContentTypeNotAllowedError(
            f"{name}: {content_type} is not accepted; accepted are {', '.join(self.content_types)}",
            operation="put",
            field=name,
            limit=tuple(self.content_types),
            value=content_type,
        )


def may_redirect(delivery: Delivery) -> bool:
    """Tell whether a way of delivery sends clients to the store, where that can be done."""
    return delivery in ("redirect", "auto")


def may_offload(delivery: Delivery) -> bool:
    """Tell whether a way of delivery leaves the sending to the web server in front, where there is one."""
    return delivery in ("offload", "auto")
