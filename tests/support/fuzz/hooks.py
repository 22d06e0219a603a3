"""What schemathesis cannot know: who asks, and how a partner signs.

Both are authentication to it: it takes them off, or spoils them, where it checks that nobody gets in without.
"""

import hashlib
import hmac
import json
import os
import time
from typing import Any

import schemathesis

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


if TOKEN:
    schemathesis.auth()(Bearer)
elif os.environ["FUZZ_AUDIENCE"] == "partner":
    schemathesis.auth()(Signature)
