"""A provider's verified word, on its way to the payment it speaks of."""

import msgspec

from soundbox_server.providers.base import PaymentReport


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A verified report with the request that brought it."""

    report: PaymentReport
    request_id: str
    received_at_ms: int
