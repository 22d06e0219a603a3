"""What schemathesis cannot know: who asks, how a partner signs, what our own formats of texts mean, that a key is one
request's, and that 3.0 is no integer of ours.

The first two are authentication to it: it takes them off, or spoils them, where it checks that nobody gets in without.
"""

import hashlib
import hmac
import os
import re
import threading
import time
from itertools import count, cycle
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.engine import observations

from soundbox_server.fields import VISIBLE
from soundbox_server.idempotency import HEADER, KEY
from soundbox_server.providers.hmac_scheme import PRINTABLE
from soundbox_server.webhooks.addresses import FORMAT

AUDIENCE = os.environ["FUZZ_AUDIENCE"]
TOKENS = Path(os.environ["FUZZ_TOKENS"]).read_text().split()
SECRET = os.environ["FUZZ_SECRET"].encode()


class Bearer:
    """The next of the audience's tokens for each question: some questions end the session they are asked in."""

    def __init__(self) -> None:
        self._tokens, self._lock = cycle(TOKENS), threading.Lock()

    def get(self, _case: Any, _context: Any) -> str:
        with self._lock:
            return next(self._tokens)

    def set(self, case: Any, data: str, _context: Any) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


class Signature(requests.auth.AuthBase):
    """Signs the bytes that are sent. Of the other headers, one that is missing or malformed on purpose stays so."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        headers = request.headers
        if headers.get("X-Partner-Id"):
            headers["X-Partner-Id"] = "sandbox"
        if re.fullmatch("[0-9]{1,11}", _text(headers.get("X-Partner-Timestamp"))):
            headers["X-Partner-Timestamp"] = str(int(time.time()))
        body = request.body or b""
        signed = f"{_text(headers.get('X-Partner-Timestamp'))}.".encode()
        signed += body.encode() if isinstance(body, str) else body
        headers["X-Partner-Signature"] = f"v1={hmac.new(SECRET, signed, hashlib.sha256).hexdigest()}"
        return request


def _text(value: str | bytes | None) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value or ""


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and re.fullmatch(KEY, key):
        case.headers[HEADER] = _its_own(key)
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if is_valid and isinstance(case.body, dict | list):
        case.body = _without_fractions(case.body)


def _its_own(key: str) -> str:
    """It asks for very different things with one short key; ours make each request's own. One that is none stays."""
    number = str(next(NUMBERS))
    return key[: 255 - len(number)] + number


def _without_fractions(value: Any) -> Any:
    """To JSON Schema 3.0 is an integer. Our contract says that it is none, and the schema has no word for that."""
    if isinstance(value, dict):
        return {name: _without_fractions(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_fractions(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


NUMBERS = count()
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
TEXT = st.text(st.characters(exclude_categories=UNSEEN), max_size=60)
schemathesis.openapi.format(VISIBLE, TEXT.filter(str.strip))
schemathesis.openapi.format(PRINTABLE, TEXT.filter(str.isprintable))
schemathesis.openapi.format(FORMAT, st.from_regex(r"https://[a-z]{1,20}\.example(:8443)?/[a-z]{0,30}", fullmatch=True))

if TOKENS:
    schemathesis.auth(refresh_interval=None)(Bearer)
elif AUDIENCE == "partner":
    schemathesis.auth.set_from_requests(Signature())  # type: ignore[attr-defined]

_path_of = observations._same_origin_path


def _path_or_none(value: str, origin: tuple[str, str]) -> str | None:
    """Schemathesis 4 looks for addresses in answers, and a text of ours that begins like one, and is none, ends it."""
    try:
        return _path_of(value, origin)
    except ValueError:
        return None


observations._same_origin_path = _path_or_none
