"""What one form did hold: what came so far, and everything that is wrong with it. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from granite_core import ContentTooLargeError, StagedFile, ValidationFailedError
from granite_litestar._form_plan import FileField, FormPlan, TextField, UploadDTO
from granite_litestar.exceptions import FieldError
from granite_litestar.multipart import PartHead

__all__ = ["FormDraft", "TokenPart", "token_error"]

JSON: Final = "application/json"

# Charsets that keep ASCII as it is: others could hide a boundary in what is written out again.
_CHARSETS: Final = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "utf-8", "iso-8859-1": "latin-1"}

# Fields that frameworks and browsers add: never unknown (RFC 7578 section 4.6; Litestar's CSRF protection).
_ADDED_FIELDS: Final = ("_charset_", "_csrf_token")

_WITHOUT_SECONDS: Final = re.compile(r"(\d{4,}-\d\d-\d\d[T ])?\d\d:\d\d\Z", re.ASCII)

NOT_GOOD: Final = "token_refused"
"""Code of every token that is not taken, whatever is wrong with it."""

_WORDS_FOR_BOOL: Final = {"on": "true", "yes": "true", "off": "false", "no": "false"}


Fate = Literal["store", "text", "token", "ignore"]


class TokenPart(msgspec.Struct, eq=False):
    """A token that came in place of a file.

    Args:
        spec: The field it came for.
        text: As it came.
        staged: The file, once it is found that the token is good.
    """

    spec: FileField
    text: str
    staged: StagedFile | None = None


class FormDraft(msgspec.Struct):
    """A form while it arrives: what came so far, and everything that is wrong with it.

    Args:
        plan: What it may hold.
        dec_hook: Converts to types that msgspec does not know; called with the type and the value.
    """

    plan: FormPlan
    dec_hook: Callable[[type, Any], Any] | None = None
    errors: list[FieldError] = msgspec.field(default_factory=list)
    texts: list[tuple[str, str]] = msgspec.field(default_factory=list)
    """The text fields as they came, unknown ones too: what else reads the form finds them there."""
    kept: Mapping[str, Sequence[Any]] = msgspec.field(default_factory=dict)
    """What is told of the files that are kept, by the name of their field, where the form does not validate."""
    redeemed: list[TokenPart] = msgspec.field(default_factory=list)
    """The tokens that were exchanged for their files."""
    _built: UploadDTO | None = None
    _values: dict[str, Any] = msgspec.field(default_factory=dict)
    _lists: dict[str, list[Any]] = msgspec.field(default_factory=dict)
    _tokens: dict[str, TokenPart] = msgspec.field(default_factory=dict)
    _seen: dict[str, int] = msgspec.field(default_factory=dict)
    _passed_over: set[str] = msgspec.field(default_factory=set)
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
            if spec.tokens is not None and head.filename is None and plain:
                return "token"
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
        if not self._count(spec, spec.name):
            return False
        # A form that is not valid already is only read on to tell all that is wrong with it, and to keep its files.
        worth = not self.errors or (self.plan.keeps_files and spec.tokens is not None)
        if not worth:
            self._passed_over.add(spec.name)
        return worth

    def _count(self, spec: FileField, counted: str) -> bool:
        count = self._seen[counted] = self._seen.get(counted, 0) + 1
        if count <= spec.max_count:
            return True
        if spec.many:
            message = f"at most {spec.max_count} files are taken"
            if count == spec.max_count + 1:
                self._wrong(spec.name, "too_many", message, limit=spec.max_count, value=count)
        elif count == 2:
            self._wrong(spec.name, "duplicate", "only one file is taken")
        return False

    def add_file(self, spec: FileField, staged: StagedFile) -> None:
        """Take a file that was stored."""
        if spec.many:
            self._lists.setdefault(spec.name, []).append(staged)
        else:
            self._values[spec.attribute] = staged

    def add_token(self, spec: FileField, data: bytes | str) -> None:
        """Take a token that came in place of a file. An empty one is absence: a hidden input that holds none."""
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        if not (text := text.strip()):
            return
        # A file beside a token is a file that was chosen anew.
        if not self._count(spec, spec.name if spec.many else f"{spec.name} token"):
            return
        part = TokenPart(spec, text)
        if spec.many:
            self._lists.setdefault(spec.name, []).append(part)
        else:
            self._tokens[spec.name] = part

    def tokens(self) -> list[TokenPart]:
        """Return the tokens that matter, in the order of the fields."""
        found: list[TokenPart] = []
        for spec in self.plan.files():
            if spec.many:
                found += [each for each in self._lists.get(spec.name, ()) if isinstance(each, TokenPart)]
            elif spec.name in self._tokens and spec.attribute not in self._values:
                found.append(self._tokens[spec.name])
        return found

    def settle(self, redeemed: Mapping[TokenPart, StagedFile]) -> None:
        """Put the files of good tokens in their places, and refuse the other tokens, all in one way."""
        taken: set[str] = set()
        for part in self.tokens():
            staged = redeemed.get(part)
            if staged is None or staged.location in taken:
                self.refuse_token(part)
                continue
            part.staged = staged
            self.redeemed.append(part)
            if staged.upload is not None:
                taken.add(staged.location)

    def refuse_token(self, part: TokenPart) -> None:
        """Note that a token is not taken."""
        self.errors.append(token_error(part.spec.name))

    def uploads(self) -> Iterator[tuple[FileField, StagedFile, TokenPart | None]]:
        """Yield the files of fields that take tokens, in the order they came, each with the token it came by."""
        for spec in self.plan.files():
            if spec.tokens is None:
                continue
            for each in self._lists.get(spec.name, ()) if spec.many else (self._single(spec),):
                if isinstance(each, TokenPart) and each.staged is not None:
                    yield spec, each.staged, each
                elif isinstance(each, StagedFile):
                    yield spec, each, None

    def _single(self, spec: FileField) -> object:
        part, value = self._tokens.get(spec.name), self._values.get(spec.attribute)
        return part if part is not None and value in (None, part.staged) else value

    def add_json(self, found: Mapping[str, Any]) -> None:
        """Take a whole form that came as JSON: tokens stand for files."""
        for name, value in found.items():
            spec = self.plan.fields.get(name)
            if isinstance(spec, TextField):
                self._seen[name] = 1
                self._convert(spec, value, strict=True)
            elif spec is not None:
                self._add_json_tokens(spec, value)
            elif self.plan.forbid_unknown:
                self._wrong(name, "unknown", "this field is not known")
            if isinstance(value, str) and isinstance(spec, TextField | None):
                self.texts.append((name, value))

    def _add_json_tokens(self, spec: FileField, value: object) -> None:
        if value is None:
            return
        values = value if spec.many and isinstance(value, list) else [value]
        tokens = [each for each in values if isinstance(each, str)]
        if spec.tokens is None:
            self._wrong(spec.name, "not_a_file", "a file is expected: send a form")
        elif len(tokens) < len(values):
            self._wrong(spec.name, "invalid", "the token of an upload is expected")
        else:
            for token in tokens:
                self.add_token(spec, token)

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
            if isinstance(spec, FileField) and spec.name in wrong:
                continue
            if self._lists.get(spec.name):
                self._convert(spec, [_file_of(each) for each in self._lists[spec.name]])
            elif isinstance(spec, FileField) and spec.name in self._tokens and spec.attribute not in self._values:
                self._values[spec.attribute] = self._tokens[spec.name].staged
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
        if self.errors or self._built is not None:
            return None if self.errors else self._built
        try:
            self._built = self.plan.dto(**self._values)
        except (ValueError, TypeError) as error:
            # What a __post_init__ found wrong with the fields together.
            self._wrong("", "invalid", str(error))
        return self._built

    def _convert_text(self, spec: TextField, value: Any) -> None:
        prepared = _prepared(spec, value)
        if prepared == "" and not spec.holds_text:
            # An input that was left empty: absent, since nothing else can be meant.
            return
        self._convert(spec, prepared)

    def _convert(self, spec: TextField | FileField, value: Any, *, strict: bool = False) -> None:
        try:
            self._values[spec.attribute] = msgspec.convert(value, spec.type, strict=strict, dec_hook=self.dec_hook)
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
            message = str(error).partition(" - at ")[0].replace("`", "")
            self._wrong(spec.name, "invalid", message)

    def _wrong(self, name: str, code: str, message: str, *, limit: object = None, value: object = None) -> None:
        self.errors.append(FieldError(name, code, message, limit=limit, value=value))


def token_error(name: str) -> FieldError:
    """What is told of a token that is not taken: the same of every one, so that nobody learns what it once was."""
    return FieldError(name, NOT_GOOD, "this upload cannot be used, or not any more: choose the file again")


def _file_of(each: Any) -> Any:
    return each.staged if isinstance(each, TokenPart) else each


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
