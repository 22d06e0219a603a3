"""How a page is made: templates in both languages, the headers of everything a browser gets, and the files it loads."""

import hashlib
import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundbox_server.clock import rfc3339
from soundbox_server.errors import NotFound, SoundboxError
from soundbox_server.http import request_id
from soundbox_server.pages.words import FILTERS, LANGUAGES, language_of, translations

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "media-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PRIVATE = HEADERS | {"Cache-Control": "no-store", "X-Robots-Tag": "noindex"}
_A_YEAR_S = 365 * 24 * 3600


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    version: str  # names its content, so that browsers may keep it for good


@lru_cache
def _files() -> Mapping[str, _File]:
    """Everything a page may load, by name."""
    found = {}
    for entry in (resources.files("soundbox_server.pages") / "static").iterdir():
        content = entry.read_bytes()
        media_type = mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
        found[entry.name] = _File(content, media_type, hashlib.sha256(content).hexdigest()[:12])
    return found


def static(name: str) -> str:
    """The address of a file that a page loads."""
    return f"/static/{name}?v={_files()[name].version}"


@lru_cache
def _paper(language: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("soundbox_server.pages"), autoescape=True, undefined=StrictUndefined, auto_reload=False,
        extensions=["jinja2.ext.i18n"], trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.install_gettext_translations(translations(language), newstyle=True)  # type: ignore[attr-defined]
    environment.filters |= FILTERS | {"rfc3339": rfc3339}
    environment.globals |= {"static": static, "language": language, "languages": LANGUAGES}
    return environment


def written(template: str, language: str, **facts: Any) -> str:
    """A template as HTML."""
    return _paper(language).get_template(template).render(**facts)


def page(
    template: str, language: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **facts: Any
) -> Response:
    """A private page: nobody keeps it, and it loads nothing from elsewhere."""
    said = PRIVATE | {"Content-Language": language, "Vary": "Accept-Language"} | dict(headers or {})
    return Response(written(template, language, **facts), status, said, media_type="text/html")


def asked_language(request: Request, *wanted: str | None) -> str:
    """`?lang=` first, then `wanted`, then what the browser accepts."""
    return language_of(request.query_params.get("lang"), *wanted, accepted=request.headers.get("accept-language", ""))


Door = Callable[[Request], Awaitable[Response]]


def for_people(door: Door) -> Door:
    """A page whose errors are pages too: what went wrong, its code, and the id to ask about."""

    async def answered(request: Request) -> Response:
        try:
            return await door(request)
        except SoundboxError as error:
            headers = {"Retry-After": "5"} if error.status in (429, 503) else {}
            return page(
                "problem.html", asked_language(request), status=error.status, headers=headers | error.headers,
                code=error.code, missing=error.status == 404, request_id=request_id(request),
            )  # fmt: skip

    return answered


async def _file(request: Request) -> Response:
    found = _files().get(request.path_params["name"])
    if found is None:
        raise NotFound("There is no such file.")
    tag = f'"{found.version}"'
    kept = "no-cache"
    if request.query_params.get("v") == found.version:
        kept = f"public, max-age={_A_YEAR_S}, immutable"
    headers = HEADERS | {"Cache-Control": kept, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


FILES = Route("/static/{name}", _file)
