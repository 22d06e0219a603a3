"""Pictures of QR payloads. One costs some milliseconds of work, so it is made beside the event loop, and kept."""

import asyncio
import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import segno

Form = Literal["png", "svg"]

SMALLEST_PX, LARGEST_PX, USUAL_PX = 256, 2_048, 512
QUIET = 4  # modules of white around it: what the standard asks for
_KEPT = 1_024
_MEDIA = {"png": "image/png", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Picture:
    """`etag` is quoted, as the header wants it."""

    content: bytes
    media_type: str
    etag: str


async def picture(payload: str, form: Form, *, size_px: int = USUAL_PX) -> Picture:
    """Black on white, with its quiet zone. An SVG is `size_px` wide; a PNG is as large as whole pixels for each module
    allow within that, because a blurred edge is hard to scan."""
    return await asyncio.to_thread(_draw, payload, form, size_px)


@lru_cache(maxsize=_KEPT)
def _draw(payload: str, form: Form, size_px: int) -> Picture:
    code = segno.make(payload, error="m", micro=False)
    modules = code.symbol_size(border=QUIET)[0]
    out = io.BytesIO()
    if form == "svg":
        code.save(
            out, kind="svg", scale=size_px / modules, border=QUIET, light="#fff", xmldecl=False, svgclass=None,
            lineclass=None,
        )  # fmt: skip
    else:
        code.save(out, kind="png", scale=max(1, size_px // modules), border=QUIET)
    content = out.getvalue()
    return Picture(content, _MEDIA[form], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
