"""What a form may hold, decided once at start-up. Pure: no I/O."""

from __future__ import annotations

import datetime as dt
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Union, dataclass_transform, get_args, get_origin

import msgspec

from granite_core import ConfigurationError, StagedFile, StoredObjectRef
from granite_litestar.multipart import FormLimits

__all__ = [
    "FileField",
    "FormPlan",
    "TextField",
    "TokenRules",
    "Upload",
    "UploadDTO",
    "plan_form",
    "purpose_of",
    "storage_key_of",
]

MAX_FILES: Final = 100
"""How many files a list field takes unless it says otherwise."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens a field takes in place of a file.

    Args:
        purpose: What they must have been given for beside the field's policy: a name, or a mapped attribute. None: any
            token without a purpose.
        once: Whether the row that gets the file ends the token; otherwise it is good until it expires.
    """

    purpose: object = None
    once: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """Marks a field of an ``UploadDTO`` as a file, and says by which rules it is stored.

    Args:
        target: The ``storage_key`` of a policy, or the mapped attribute of a file field, whose policy is used.
        max_count: Most files that a list field takes.
        description: What the API documentation says of the field.
        tokens: Whether the field takes the token of a file that was uploaded before, and which; see ``TokenRules``.
    """

    target: object
    max_count: int = MAX_FILES
    description: str | None = None
    tokens: bool | TokenRules = False


class _UploadDTOMeta(msgspec.StructMeta):
    """Makes the fields of every subclass keyword-only, so that required ones may follow optional ones."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **config: Any) -> Any:
        config.setdefault("kw_only", True)
        return super().__new__(mcs, name, bases, namespace, **config)


@dataclass_transform(kw_only_default=True, field_specifiers=(msgspec.field,))
class UploadDTO(msgspec.Struct, metaclass=_UploadDTOMeta):
    """Base of a multipart form: its text fields are validated, its files are stored while they arrive.

    A file is ``Annotated[StagedFile, Upload(…)]``, ``StagedFile | None`` where it may be absent, ``list[StagedFile]``
    for several. Every other field is text, converted and checked by msgspec (``msgspec.Meta`` for constraints).
    ``forbid_unknown_fields=True`` refuses fields that are not declared; otherwise they are passed over.

    Attributes:
        __form_limits__: What a form of this class may cost beside its files; None for the plugin's setting.
        __keep_files__: Whether the files of a form that does not validate are kept for a while, and the refusal tells
            their tokens, so that the form can be shown again; those of fields that take tokens.
    """

    __form_limits__: ClassVar[FormLimits | None] = None
    __keep_files__: ClassVar[bool] = False


class TextField(msgspec.Struct, frozen=True):
    """A text field of a form.

    Args:
        name: Its name in the form.
        attribute: Its name in the class.
        type: What it is converted to.
        required: Whether the form must have it.
        many: Whether it may come more than once.
        absent_is_none: Whether None stands for its absence, there being no default.
        holds_text: Whether an empty text is a value; where it is none, it means absence.
        holds_bool: Whether the words of a checkbox are understood.
        holds_time: Whether a time without seconds is understood, as browsers send it.
    """

    name: str
    attribute: str
    type: Any
    required: bool
    many: bool
    absent_is_none: bool
    holds_text: bool
    holds_bool: bool
    holds_time: bool


class FileField(msgspec.Struct, frozen=True):
    """A file field of a form.

    Args:
        name: Its name in the form.
        attribute: Its name in the class.
        type: What the files are checked against: constraints on the length of a list.
        required: Whether the form must have it.
        many: Whether it takes several files.
        absent_is_none: Whether None stands for its absence, there being no default.
        storage_key: The policy its files are stored under.
        max_count: How many files it takes.
        description: What the API documentation says of it.
        target: What the declaration names: the policy, or the mapped attribute.
        tokens: Which tokens it takes in place of a file; None for none.
    """

    name: str
    attribute: str
    type: Any
    required: bool
    many: bool
    absent_is_none: bool
    storage_key: str
    max_count: int
    description: str | None
    target: object = None
    tokens: TokenRules | None = None


class FormPlan(msgspec.Struct, frozen=True):
    """What a form may hold.

    Args:
        dto: The class that the form becomes.
        fields: Its fields by their name in the form, in the order they are declared.
        limits: What it may cost beside its files.
        forbid_unknown: Whether a field that is not declared is an error.
        keeps_files: Whether the files of a form that does not validate are kept for a while.
    """

    dto: type[UploadDTO]
    fields: Mapping[str, TextField | FileField]
    limits: FormLimits
    forbid_unknown: bool
    keeps_files: bool = False

    def files(self) -> Iterator[FileField]:
        """Yield the file fields."""
        return (each for each in self.fields.values() if isinstance(each, FileField))

    @property
    def takes_tokens(self) -> bool:
        """Whether a field takes tokens."""
        return any(each.tokens is not None for each in self.files())

    @property
    def takes_json(self) -> bool:
        """Whether it can come as JSON: every file that must be there may be a token."""
        return self.takes_tokens and all(each.tokens is not None or not each.required for each in self.files())


def plan_form(dto: type[UploadDTO], *, limits: FormLimits, namespace: Mapping[str, Any] | None = None) -> FormPlan:
    """Read from an ``UploadDTO`` what its forms may hold.

    Args:
        dto: The class.
        limits: Used where the class has none of its own.
        namespace: Further names for annotations written as strings.

    Raises:
        ConfigurationError: A field that cannot work, or an annotation that cannot be resolved.
    """
    try:
        hints = typing.get_type_hints(dto, localns=dict(namespace or {}), include_extras=True)
    except NameError as error:
        raise ConfigurationError(
            f"{dto.__name__}: {error}; import the name where the class is defined (not only for type checking), or "
            "put it into signature_namespace"
        ) from error
    attributes = dto.__struct_fields__
    # The defaults belong to the last fields.
    defaults = (msgspec.NODEFAULT,) * (len(attributes) - len(dto.__struct_defaults__)) + dto.__struct_defaults__
    fields: dict[str, TextField | FileField] = {}
    for attribute, name, default in zip(attributes, dto.__struct_encode_fields__, defaults, strict=True):
        required = default is msgspec.NODEFAULT
        fields[name] = _plan_field(dto, attribute, name, hints[attribute], required)
    if not any(isinstance(each, FileField) for each in fields.values()):
        raise ConfigurationError(f"{dto.__name__} has no file: give it a field Annotated[StagedFile, Upload(…)]")
    plan = FormPlan(
        dto=dto,
        fields=fields,
        limits=dto.__form_limits__ or limits,
        forbid_unknown=dto.__struct_config__.forbid_unknown_fields,
        keeps_files=dto.__keep_files__,
    )
    if plan.keeps_files and not plan.takes_tokens:
        raise ConfigurationError(
            f"{dto.__name__}: __keep_files__ needs a field that takes tokens: Upload(…, tokens=True)"
        )
    return plan


def _plan_field(dto: type, attribute: str, name: str, hint: Any, required: bool) -> TextField | FileField:
    marker, leaves = _find_marker(hint), list(_leaves(hint))
    optional = type(None) in leaves
    is_file = any(isinstance(leaf, type) and issubclass(leaf, StoredObjectRef) for leaf in leaves)
    many = _is_list(hint)
    where = f"{dto.__name__}.{attribute}"
    if marker is None:
        if is_file:
            raise ConfigurationError(f"{where}: a file needs its rules: Annotated[StagedFile, Upload(…)]")
        return TextField(
            name=name,
            attribute=attribute,
            type=hint,
            required=required and not optional,
            many=many,
            absent_is_none=required and optional,
            holds_text=any(leaf in (str, Any, object) for leaf in leaves),
            holds_bool=bool in leaves and str not in leaves,
            holds_time=any(leaf in (dt.datetime, dt.time) for leaf in leaves) and str not in leaves,
        )
    files = [leaf for leaf in leaves if leaf is not type(None)]
    if files not in ([StagedFile], [StoredObjectRef]):
        raise ConfigurationError(f"{where}: Upload(…) goes with StagedFile, StagedFile | None or list[StagedFile]")
    if marker.max_count < 1:
        raise ConfigurationError(f"{where}: max_count must be at least 1", value=marker.max_count)
    return FileField(
        name=name,
        attribute=attribute,
        type=hint,
        required=required and not optional,
        many=many,
        absent_is_none=required and optional,
        storage_key=storage_key_of(marker.target, where=where),
        max_count=marker.max_count if many else 1,
        description=marker.description,
        target=marker.target,
        tokens=_token_rules(marker.tokens),
    )


def _token_rules(tokens: bool | TokenRules) -> TokenRules | None:
    if isinstance(tokens, TokenRules):
        purpose_of(tokens.purpose)
        return tokens
    return TokenRules() if tokens else None


def purpose_of(purpose: object) -> str:
    """Return the text that a purpose stands for: nothing, a name, or a mapped attribute.

    Raises:
        ConfigurationError: It is none of these.
    """
    if purpose is None or isinstance(purpose, str):
        return purpose or ""
    owner, key = getattr(purpose, "class_", None), getattr(purpose, "key", None)
    if owner is None or not isinstance(key, str):
        raise ConfigurationError(f"the purpose of a token is a name or a mapped attribute, not {purpose!r}")
    # The table, not the class: a token lives longer than a refactoring.
    return f"{getattr(owner, '__table__', owner.__name__)}.{key}"


def storage_key_of(target: object, *, where: str) -> str:
    """Return the policy's name that a storage key or a mapped attribute stands for.

    Args:
        target: What ``Upload`` or ``RawUpload`` was given.
        where: Who asks, for the error.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(target, str):
        return target
    columns = getattr(getattr(target, "property", None), "columns", None)
    column_type = columns[0].type if columns else getattr(target, "type", None)
    key = getattr(column_type, "storage_key", None)
    if not isinstance(key, str):
        raise ConfigurationError(f"{where}: {target!r} is neither a storage_key nor a mapped file field")
    return key


def _find_marker(hint: Any) -> Upload | None:
    if get_origin(hint) is Annotated:
        for extra in get_args(hint)[1:]:
            if isinstance(extra, Upload):
                return extra
            if extra is Upload:
                raise ConfigurationError("Upload needs its target: Upload(Document.file) or Upload('documents')")
    return next((found for arg in _inner(hint) if (found := _find_marker(arg))), None)


def _inner(hint: Any) -> tuple[Any, ...]:
    """The types inside an annotation, a union or a list; nothing inside other types matters here."""
    origin = get_origin(hint)
    if origin is Annotated:
        return get_args(hint)[:1]
    if origin in (Union, UnionType, list, set, tuple, frozenset):
        return get_args(hint)
    return ()


def _leaves(hint: Any) -> Iterator[Any]:
    inner = _inner(hint)
    if not inner:
        yield hint
    for each in inner:
        yield from _leaves(each)


def _is_list(hint: Any) -> bool:
    if get_origin(hint) in (Annotated, Union, UnionType):
        return any(_is_list(each) for each in _inner(hint))
    return (get_origin(hint) or hint) in (list, set, tuple, frozenset)
