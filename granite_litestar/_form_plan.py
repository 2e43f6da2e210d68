"""What a form may hold, decided once at start-up, and what one form did hold. Pure: no I/O."""

from __future__ import annotations

import datetime as dt
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, Union, dataclass_transform, get_args, get_origin

import msgspec

from granite_core import ConfigurationError, ContentTooLargeError, StagedFile, StoredObjectRef, ValidationFailedError
from granite_litestar.exceptions import FieldError
from granite_litestar.multipart import FormLimits, PartHead

__all__ = ["FileField", "FormDraft", "FormPlan", "TextField", "Upload", "UploadDTO", "plan_form", "storage_key_of"]

MAX_FILES: Final = 100
"""How many files a list field takes unless it says otherwise."""

JSON: Final = "application/json"

# Charsets that keep ASCII as it is: others could hide a boundary in what is written out again.
_CHARSETS: Final = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "utf-8", "iso-8859-1": "latin-1"}

# Fields that frameworks and browsers add: never unknown (RFC 7578 section 4.6; Litestar's CSRF protection).
_ADDED_FIELDS: Final = ("_charset_", "_csrf_token")

_WITHOUT_SECONDS: Final = re.compile(r"(\d{4,}-\d\d-\d\d[T ])?\d\d:\d\d\Z", re.ASCII)

_WORDS_FOR_BOOL: Final = {"on": "true", "yes": "true", "off": "false", "no": "false"}


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """Marks a field of an ``UploadDTO`` as a file, and says by which rules it is stored.

    Args:
        target: The ``storage_key`` of a policy, or the mapped attribute of a file field, whose policy is used.
        max_count: Most files that a list field takes.
        description: What the API documentation says of the field.
    """

    target: object
    max_count: int = MAX_FILES
    description: str | None = None


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
    """

    __form_limits__: ClassVar[FormLimits | None] = None


@dataclass(frozen=True, slots=True)
class TextField:
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


@dataclass(frozen=True, slots=True)
class FileField:
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


@dataclass(frozen=True, slots=True)
class FormPlan:
    """What a form may hold.

    Args:
        dto: The class that the form becomes.
        fields: Its fields by their name in the form, in the order they are declared.
        limits: What it may cost beside its files.
        forbid_unknown: Whether a field that is not declared is an error.
    """

    dto: type[UploadDTO]
    fields: Mapping[str, TextField | FileField]
    limits: FormLimits
    forbid_unknown: bool

    def files(self) -> Iterator[FileField]:
        """Yield the file fields."""
        return (each for each in self.fields.values() if isinstance(each, FileField))


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
    return FormPlan(
        dto=dto,
        fields=fields,
        limits=dto.__form_limits__ or limits,
        forbid_unknown=dto.__struct_config__.forbid_unknown_fields,
    )


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
    )


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


Fate = Literal["store", "text", "ignore"]


@dataclass(slots=True)
class FormDraft:
    """A form while it arrives: what came so far, and everything that is wrong with it.

    Args:
        plan: What it may hold.
        dec_hook: Converts to types that msgspec does not know; called with the type and the value.
    """

    plan: FormPlan
    dec_hook: Callable[[type, Any], Any] | None = None
    errors: list[FieldError] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    """The text fields as they came, unknown ones too: what else reads the form finds them there."""
    _values: dict[str, Any] = field(default_factory=dict)
    _lists: dict[str, list[Any]] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    _passed_over: set[str] = field(default_factory=set)
    _text_size: int = 0
    _ignored: int = 0

    def fate_of(self, head: PartHead) -> Fate:
        """Decide what becomes of a part, noting what is wrong with it."""
        spec = self.plan.fields.get(head.name)
        plain = head.content_type in (None, "text/plain")
        if spec is None:
            if self.plan.forbid_unknown and head.name not in _ADDED_FIELDS:
                self._wrong(head.name, "unknown", "this field is not known")
            return "text" if head.filename is None and plain else "ignore"
        if isinstance(spec, FileField):
            # Whether an unnamed part without a type is a file that was forgotten shows in whether it has bytes.
            return "store"
        if head.filename is not None and head.content_type != JSON:
            if head.filename:
                self._wrong(head.name, "not_text", "text is expected, not a file")
            return "ignore"
        return "text"

    def admit_file(self, spec: FileField, head: PartHead) -> bool:
        """Decide, at the first byte of a file, whether it is worth storing, noting why not."""
        if head.filename is None and head.content_type in (None, "text/plain"):
            self._wrong(spec.name, "not_a_file", "a file is expected, not text")
            return False
        count = self._seen[spec.name] = self._seen.get(spec.name, 0) + 1
        if count > spec.max_count:
            if spec.many:
                message = f"at most {spec.max_count} files are taken"
                if count == spec.max_count + 1:
                    self._wrong(spec.name, "too_many", message, limit=spec.max_count, value=count)
            elif count == 2:
                self._wrong(spec.name, "duplicate", "only one file is taken")
            return False
        # A form that is not valid already is only read on to tell all that is wrong with it.
        if self.errors:
            self._passed_over.add(spec.name)
        return not self.errors

    def add_file(self, spec: FileField, staged: StagedFile) -> None:
        """Take a file that was stored."""
        if spec.many:
            self._lists.setdefault(spec.name, []).append(staged)
        else:
            self._values[spec.attribute] = staged

    def refuse_file(self, spec: FileField, error: ValidationFailedError) -> None:
        """Note that a validator refused a file, which is gone again."""
        self._wrong(spec.name, error.code, error.reason, limit=error.limit, value=error.value)

    def admit_text(self, name: str, size: int, added: int) -> None:
        """Count the bytes of a text field.

        Args:
            name: Its name.
            size: Its bytes so far.
            added: How many of them are new.

        Raises:
            ContentTooLargeError: The field, or all text together, is over its limit.
        """
        self._text_size += added
        for limit, value in (
            (self.plan.limits.max_field_size, size),
            (self.plan.limits.max_text_size, self._text_size),
        ):
            if value > limit:
                raise _too_large(name, limit, value)

    def add_text(self, head: PartHead, data: bytes) -> None:
        """Take a whole text field, and convert it where it stands alone."""
        try:
            text = data.decode(_CHARSETS.get(head.charset or "utf-8", "utf-8"))
        except UnicodeDecodeError:
            self._wrong(head.name, "invalid", "this is not text in UTF-8")
            return
        self.texts.append((head.name, text))
        spec = self.plan.fields.get(head.name)
        if not isinstance(spec, TextField):
            return
        self._seen[spec.name] = self._seen.get(spec.name, 0) + 1
        value: Any = text
        if head.content_type == JSON:
            try:
                value = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError):
                self._wrong(spec.name, "invalid", "this is not JSON, or too deep")
                return
        if spec.many:
            items = value if isinstance(value, list) else [value]
            prepared = [_prepared(spec, item) for item in items]
            self._lists.setdefault(spec.name, []).extend(each for each in prepared if each != "" or spec.holds_text)
        elif self._seen[spec.name] == 1:
            self._convert_text(spec, value)
        elif self._seen[spec.name] == 2:
            self._wrong(spec.name, "duplicate", "only one value is taken")

    def ignore(self, name: str, added: int) -> bool:
        """Count bytes that are thrown away. False when it is time to stop reading and tell what is wrong.

        Raises:
            ContentTooLargeError: Too many, with nothing else wrong.
        """
        self._ignored += added
        if self._ignored <= self.plan.limits.max_ignored_size:
            return True
        if self.errors:
            return False
        raise _too_large(name or "form", self.plan.limits.max_ignored_size, self._ignored)

    def finish(self) -> None:
        """Note what is missing and convert what is only known at the end."""
        wrong = {error.field for error in self.errors}
        for spec in self.plan.fields.values():
            if self._lists.get(spec.name):
                self._convert(spec, self._lists[spec.name])
            elif spec.attribute in self._values or spec.name in wrong or spec.name in self._passed_over:
                continue
            elif spec.required:
                self._wrong(spec.name, "required", "this field is required")
            elif spec.absent_is_none:
                self._values[spec.attribute] = None
        order = {name: index for index, name in enumerate(self.plan.fields)}
        self.errors.sort(key=lambda error: order.get(error.field, len(order)))

    def build(self) -> UploadDTO | None:
        """Return what the form became, or None where something is wrong with it."""
        if self.errors:
            return None
        try:
            return self.plan.dto(**self._values)
        except (ValueError, TypeError) as error:
            # What a __post_init__ found wrong with the fields together.
            self._wrong("", "invalid", str(error))
            return None

    def _convert_text(self, spec: TextField, value: Any) -> None:
        prepared = _prepared(spec, value)
        if prepared == "" and not spec.holds_text:
            # An input that was left empty: absent, since nothing else can be meant.
            return
        self._convert(spec, prepared)

    def _convert(self, spec: TextField | FileField, value: Any) -> None:
        try:
            self._values[spec.attribute] = msgspec.convert(value, spec.type, strict=False, dec_hook=self.dec_hook)
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
            message = str(error).partition(" - at ")[0].replace("`", "")
            self._wrong(spec.name, "invalid", message)

    def _wrong(self, name: str, code: str, message: str, *, limit: object = None, value: object = None) -> None:
        self.errors.append(FieldError(name, code, message, limit=limit, value=value))


def _prepared(spec: TextField, value: Any) -> Any:
    """What HTML calls a value, as msgspec wants it."""
    if spec.holds_bool and isinstance(value, str):
        return _WORDS_FOR_BOOL.get(value.lower(), value)
    if spec.holds_time and isinstance(value, str) and _WITHOUT_SECONDS.match(value):
        return f"{value}:00"
    return value


def _too_large(name: str, limit: int, value: int) -> ContentTooLargeError:
    return ContentTooLargeError(
        f"{name}: more than the {limit} bytes allowed", operation="put", field=name, limit=limit, value=value
    )
