"""Contents that are not what they are called, that are two things at once, or that act when they are opened."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

__all__ = ["ACTIVE", "BEACON", "LIES", "POLYGLOTS", "png", "png_of_text", "zip_with"]

BEACON = "/ran"
"""What every script here asks its own origin for, with its cookies."""

_SCRIPT = f"fetch('{BEACON}?' + encodeURIComponent(document.cookie)); document.title = 'ran'"
_JS = f"fetch('{BEACON}'); self.ran = true; if (self.document) document.title = 'ran'".encode()


def zip_with(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A one-bit picture, all black: a few bytes for any number of pixels."""
    rows = zlib.compressobj(9)
    line = b"\0" + bytes((width + 7) // 8)
    data = b"".join(rows.compress(line) for _ in range(height)) + rows.flush()
    extra = b"".join(_chunk(kind, content) for kind, content in chunks)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def png_of_text(count: int, size: int) -> bytes:
    """A picture of one pixel that carries compressed texts, each of `size` bytes when it is unpacked."""
    text = zlib.compress(bytes([65]) * size, 9)
    return png(1, 1, *[(b"zTXt", b"k%d\0\0" % number + text) for number in range(count)])


PAGE = f'<!DOCTYPE html><html><head><script>{_SCRIPT}</script></head><body onload="{_SCRIPT}"></body></html>'.encode()
SVG = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{_SCRIPT}"><script>{_SCRIPT}</script></svg>'.encode()
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n%%EOF\n"
GIF = b"GIF89a" + bytes.fromhex("010001008000000000 00ffffff21f90401000000002c000000000100010000020244 01003b")

FRAME = f'<meta http-equiv=refresh content="0;url={BEACON}"><iframe srcdoc="<script>{_SCRIPT}</script>">'.encode()
FORM = f"<form action={BEACON} method=post></form><script>document.forms[0].submit()</script>".encode()

ACTIVE: dict[str, bytes] = {
    "page.html": PAGE,
    "page.htm": b"<h1>x</h1>" + PAGE,
    "late.html": b" " * 5000 + PAGE,
    "page.xhtml": b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><script>'
    + _SCRIPT.encode()
    + b"</script></html>",
    "picture.svg": SVG,
    "picture.svgz": zlib.compress(SVG),
    "style.xml": b'<?xml version="1.0"?><?xml-stylesheet href="data:text/xsl,x" type="text/xsl"?><x>' + SVG + b"</x>",
    "script.js": _JS,
    "module.mjs": b"export const x = 1;" + _JS,
    "style.css": b"body { background: url('" + BEACON.encode() + b"') }",
    "code.wasm": b"\0asm\x01\0\0\0",
    "page.shtml": PAGE,
    "page.mht": b"MIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n" + PAGE,
    "frame.html": FRAME,
    "form.html": FORM,
}
"""What runs where it is opened as what it is."""

LIES: dict[tuple[str, str], bytes] = {
    ("photo.jpg", "image/jpeg"): PAGE,
    ("photo.png", "image/png"): SVG,
    ("film.mp4", "video/mp4"): PAGE,
    ("song.mp3", "audio/mpeg"): _JS,
    ("paper.pdf", "application/pdf"): PAGE,
    ("notes.txt", "text/plain"): PAGE,
    ("notes.txt", "text/html"): b"just text",
    ("notes.txt", "text/javascript"): _JS,
    ("notes", "text/css"): b"body {}",
    ("photo.png", "text/html"): GIF,
    ("x", "text/html; charset=utf-7"): b"+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    ("x", "multipart/x-mixed-replace; boundary=x"): b"--x\r\nContent-Type: text/html\r\n\r\n" + PAGE,
    ("x", "image/svg+xml"): b"\xff\xfe" + SVG.decode().encode("utf-16-le"),
    ("x", "text/html\r\nX-Evil: 1"): PAGE,
    ("x", "image/png, text/html"): PAGE,
    ("x", "a" * 5000 + "/b"): PAGE,
    ("x", "video/\u0000mp4"): PAGE,
    ("x.html", "video/ogg"): b"\0\1\2\3",
    ("x.svg", "image/svg+xml"): b"\0\1\2\3",
}
"""By name and claimed type, what is really sent."""

POLYGLOTS: dict[str, bytes] = {
    "gif-js.gif": b"GIF89a/*" + GIF[8:] + b"*/=1;" + _JS,
    "gif-html.gif": GIF + PAGE,
    "png-html.png": png(1, 1, (b"tEXt", b"Comment\0" + PAGE)),
    "jpeg-html.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0" + PAGE,
    "pdf-html.pdf": PDF + PAGE,
    "html-pdf.pdf": PAGE + PDF,
    "pdf-zip.pdf": PDF + zip_with(**{"x.html": PAGE}),
    "zip-html.zip": zip_with(**{"a.txt": b"a"}) + PAGE,
    "html-zip.html": PAGE + zip_with(**{"a.txt": b"a"}),
    "html-zip.zip": PAGE + zip_with(**{"a.txt": b"a"}),
    "gifar.gif": GIF + zip_with(**{"META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\n"}),
    "bmp-js.bmp": b"BM=1;" + _JS,
    "wav-js.wav": b"RIFF=1;" + _JS,
    "mp4-html.mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + PAGE,
    "text-html.txt": b"\n" * 4096 + PAGE,
    "ogg-html.ogg": b"OggS" + PAGE,
    "bom.txt": b"\xef\xbb\xbf" + PAGE,
    "utf16.txt": b"\xff\xfe" + PAGE.decode().encode("utf-16-le"),
    "nul.txt": b"\0" + PAGE,
    "postscript.ps": b"%!PS\n" + PAGE,
}
"""Two kinds of file at once."""
