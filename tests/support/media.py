"""Small real videos with sound, made once per run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .parts import find_program
from .processes import run

__all__ = ["SampleVideos", "Videos"]

SECONDS = 20

_PICTURE = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=15"]
_SOUND = ["-f", "lavfi", "-i", "sine=frequency=440"]
_MP4 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "15", "-c:a", "aac"]
_WEBM = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "300k", "-g", "15", "-c:a", "libopus"]


@dataclass(frozen=True)
class SampleVideos:
    """Where the sample videos are: 20 seconds, picture and sound, a key frame a second."""

    mp4: Path
    webm: Path


class Videos:
    """Made by ffmpeg; the mp4 has its index at the front, so that a browser plays before all of it has come."""

    def __init__(self, folder: Path) -> None:
        self.info = SampleVideos(folder / "sample.mp4", folder / "sample.webm")
        _encode(*_MP4, "-movflags", "+faststart", self.info.mp4)
        _encode(*_WEBM, self.info.webm)

    def stop(self) -> None:
        """Nothing runs."""


def _encode(*output: str | Path) -> None:
    ffmpeg = find_program("ffmpeg") or "ffmpeg"
    quiet = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
    run([ffmpeg, *quiet, *_PICTURE, *_SOUND, "-t", str(SECONDS), *output])
