"""What schemathesis cannot know: who asks, how a partner signs, what our own format of texts means, and that a key
is one request's.

The first two are authentication to it: it takes them off, or spoils them, where it checks that nobody gets in without.
"""

import hashlib
import hmac
import json
import os
import re
import time
from itertools import count
from typing import Any

import schemathesis
from hypothesis import strategies as st

from soundbox_server.fields import VISIBLE
from soundbox_server.idempotency import HEADER, KEY

TOKEN = os.environ["FUZZ_TOKEN"]
SECRET = os.environ["FUZZ_SECRET"].encode()


class Bearer:
    def get(self, _case: Any, _context: Any) -> str:
        return TOKEN

    def set(self, case: Any, data: str, _context: Any) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


class Signature:
    def get(self, _case: Any, _context: Any) -> bytes:
        return SECRET

    def set(self, case: Any, data: bytes, _context: Any) -> None:
        at = str(int(time.time()))
        case.body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
        signature = hmac.new(data, at.encode() + b"." + case.body, hashlib.sha256).hexdigest()
        case.headers["X-Partner-Id"] = "sandbox"
        case.headers["X-Partner-Timestamp"] = at
        case.headers["X-Partner-Signature"] = f"v1={signature}"


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """It asks for very different things with one short key; ours make each request's own. One that is none stays."""
    key = (case.headers or {}).get(HEADER)
    if isinstance(key, str) and re.fullmatch(KEY, key):
        number = str(next(NUMBERS))
        case.headers[HEADER] = key[: 255 - len(number)] + number


NUMBERS = count()
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
schemathesis.openapi.format(VISIBLE, st.text(st.characters(exclude_categories=UNSEEN), max_size=60).filter(str.strip))

if TOKEN:
    schemathesis.auth()(Bearer)
elif os.environ["FUZZ_AUDIENCE"] == "partner":
    schemathesis.auth()(Signature)
