"""What was read of a provider's body, kept as JSON where it may be needed once more; the body is stored beside it."""

import dataclasses

import msgspec

from soundbox_server.providers.base import AdjustmentReport, PaymentReport


class Kept(msgspec.Struct, omit_defaults=True):
    """One of the two."""

    payment: PaymentReport | None = None
    adjustment: AdjustmentReport | None = None


def kept_report(report: PaymentReport | AdjustmentReport) -> str:
    if isinstance(report, PaymentReport):
        kept = Kept(payment=msgspec.structs.replace(report, body=b""))
    else:
        kept = Kept(adjustment=dataclasses.replace(report, body=b""))
    return msgspec.json.encode(kept).decode()


def read_kept(text: str) -> Kept:
    return msgspec.json.decode(text, type=Kept)
