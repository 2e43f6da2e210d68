"""Ready-made validators for policies: ``StoragePolicy("avatars", validators=[ImageValidator(max_width=2000)])``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from granite_core.clamav import ClamAV
from granite_core.errors import ConfigurationError, MissingExtraError, StorageError, ValidationFailedError

if TYPE_CHECKING:
    from granite_core.validation import Candidate

__all__ = ["ClamAV", "ImageValidator"]

_ORIENTATION: Final = 0x0112  # Exif 2.32, tag 274
_TURNED: Final = (5, 6, 7, 8)
_WITH_EXIF: Final = ("JPEG", "MPO", "TIFF", "WEBP")
_WITH_OTHER_PROGRAMS: Final = ("EPS",)  # decoding it would start Ghostscript


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageValidator:
    """Accepts pictures that can be read and have a shape that fits. Needs the extra ``images`` (Pillow).

    Width and height are those a viewer sees: a photo that its camera marks as turned is judged as it is shown. Only
    the head of a picture is decoded, in little memory, unless ``decode`` is set.

    Args:
        min_width: Smallest width in pixels.
        min_height: Smallest height in pixels.
        max_width: Largest width in pixels.
        max_height: Largest height in pixels.
        min_aspect_ratio: Smallest width by height: 1 refuses pictures that are higher than wide.
        max_aspect_ratio: Largest width by height.
        formats: Pillow's names of the formats to accept (``"JPEG"``, ``"PNG"``), which are the only parsers that see
            the bytes; None for all that it reads by itself.
        max_pixels: Largest width times height, against small files that fill the memory of whoever decodes them; None
            for Pillow's own limit.
        decode: Whether to decode the whole picture, which finds truncated and damaged ones. It takes about four bytes
            of memory for each pixel, so have ``max_pixels`` fit.

    Raises:
        ConfigurationError: A minimum is over its maximum, or a limit is not positive.
        MissingExtraError: Pillow is not installed.
    """

    min_width: int | None = None
    min_height: int | None = None
    max_width: int | None = None
    max_height: int | None = None
    min_aspect_ratio: float | None = None
    max_aspect_ratio: float | None = None
    formats: Collection[str] | None = None
    max_pixels: int | None = 50_000_000
    decode: bool = False

    def __post_init__(self) -> None:
        if find_spec("PIL") is None:
            raise MissingExtraError("images", "ImageValidator")
        for name in ("width", "height", "aspect_ratio"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least is not None and most is not None and least > most:
                raise ConfigurationError(f"ImageValidator: min_{name} is over max_{name}", limit=most, value=least)
        for name in ("min_width", "min_height", "max_width", "max_height", "max_pixels"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigurationError(f"ImageValidator: {name} must be at least 1", value=value)
        if isinstance(self.formats, str):
            raise ConfigurationError("ImageValidator: formats must be a list of names", value=self.formats)
        if self.formats is not None:
            object.__setattr__(self, "formats", tuple(each.upper() for each in self.formats))

    def __call__(self, candidate: Candidate) -> None:
        """Look at a picture.

        Raises:
            ValidationFailedError: It cannot be read, or does not fit.
            BackendError: The stored bytes cannot be read.
        """
        image_module = _pillow()
        formats = self._known_formats(image_module)
        with candidate.open() as file:
            try:
                with image_module.open(file, formats=formats) as image:
                    # Before anything else: looking closer may decode it.
                    self._check_pixels(*image.size)
                    width, height = _as_shown(image)
                    if self.decode:
                        image.load()
            except StorageError:
                raise
            except image_module.UnidentifiedImageError as error:
                raise self._unidentified() from error
            except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
                raise _refused("too_many_pixels", "the picture has too many pixels", limit=self.max_pixels) from error
            except Exception as error:  # what Pillow raises of a broken file is any of a dozen kinds
                raise _refused("unreadable", "this is no picture that can be read") from error
        self._check_shape(width, height)

    def _check_pixels(self, width: int, height: int) -> None:
        if self.max_pixels is not None and width * height > self.max_pixels:
            raise _refused(
                "too_many_pixels",
                f"the picture has more than the {self.max_pixels} pixels allowed",
                limit=self.max_pixels,
                value=width * height,
            )

    def _known_formats(self, image_module: Any) -> list[str]:
        """The formats to try: nothing else of a client's bytes is looked at by a parser."""
        image_module.init()
        if self.formats is None:
            return [each for each in image_module.ID if each not in _WITH_OTHER_PROGRAMS]
        unknown = [each for each in self.formats if each not in image_module.OPEN]
        if unknown:
            raise ConfigurationError(f"ImageValidator: Pillow reads no format {', '.join(unknown)}", value=unknown)
        return list(self.formats)

    def _unidentified(self) -> ValidationFailedError:
        if self.formats is None:
            return _refused("unreadable", "this is no picture that can be read")
        return _refused(
            "format", f"this is no picture of an accepted format: {', '.join(self.formats)}", limit=tuple(self.formats)
        )

    def _check_shape(self, width: int, height: int) -> None:
        ratio = round(width / height, 4) if height else 0.0
        for code, name, unit, value, least, most in (
            ("width", "width", " pixels", width, self.min_width, self.max_width),
            ("height", "height", " pixels", height, self.min_height, self.max_height),
            ("aspect_ratio", "width by height", "", ratio, self.min_aspect_ratio, self.max_aspect_ratio),
        ):
            if least is not None and value < least:
                raise _refused(code, f"the {name} is {value}, less than {least}{unit}", limit=least, value=value)
            if most is not None and value > most:
                raise _refused(code, f"the {name} is {value}, more than {most}{unit}", limit=most, value=value)


def _as_shown(image: Any) -> tuple[int, int]:
    width, height = image.size
    # Of other formats Pillow would decode the whole picture to learn this.
    if image.format in _WITH_EXIF and image.getexif().get(_ORIENTATION) in _TURNED:
        return height, width
    return width, height


def _refused(code: str, reason: str, *, limit: object = None, value: object = None) -> ValidationFailedError:
    return ValidationFailedError(reason, code=f"image_{code}", limit=limit, value=value)


def _pillow() -> Any:
    from PIL import Image  # here, so that applications without pictures need not have it

    return Image
