"""Keyset pages: stable while rows arrive, and as fast at the end as at the start."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated

from fastapi import Query

from soundbox_server.errors import ValidationFailed

Limit = Annotated[int, Query(ge=1, le=100, description="rows a page")]
Cursor = Annotated[str | None, Query(max_length=200, description="next_cursor of the page before")]


def encode_cursor(last_id: str) -> str:
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> str | None:
    """The id after which the page begins. Raises ValidationFailed for what is no cursor of ours."""
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise ValidationFailed("This is no cursor of ours.", field="cursor") from None


def next_cursor(ids: Sequence[str], limit: int) -> str | None:
    """Where the following page begins; None when this page is not full."""
    return encode_cursor(ids[-1]) if len(ids) == limit else None
