"""How a payment is paid, and the door it was asked for at."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

from soundbox_server.providers.base import Method


class PaymentMethod(StrEnum):
    """Every method of a payment: those that a provider is asked for (`Method`), and three that need no asking."""

    QRIS_DYNAMIC = "qris_dynamic"
    QRIS_STATIC = "qris_static"
    GOPAY = "gopay"
    OVO = "ovo"
    DANA = "dana"
    SHOPEEPAY = "shopeepay"
    LINKAJA = "linkaja"
    VA_BCA = "va_bca"
    VA_BNI = "va_bni"
    VA_BRI = "va_bri"
    VA_MANDIRI = "va_mandiri"
    CARD_HOSTED = "card_hosted"
    CASH = "cash"
    WALLET = "wallet"


Source = Literal["mqtt", "device", "pos", "api", "callback"]
SOURCES: tuple[Source, ...] = get_args(Source)

CEILING_IDR = 10_000_000  # QRIS: the most one payment may be
MOST_IDR = 1_000_000_000  # any other method: its provider knows better


@dataclass(frozen=True, kw_only=True)
class Payer:
    """Who pays, as far as the method needs it: OVO a phone number as +62…, wallets and cards pages to come back to."""

    name: str | None = None
    phone: str | None = None
    email: str | None = None
    success_url: str | None = None
    failure_url: str | None = None


def at_provider(method: str) -> Method:
    """What a provider calls a payment's method: money for a static QR is QRIS as well."""
    return Method.QRIS_DYNAMIC if method == PaymentMethod.QRIS_STATIC else Method(method)


def ceiling_idr(method: str) -> int:
    """The most that one payment by this method may be."""
    return CEILING_IDR if method.startswith("qris") else MOST_IDR


@dataclass(frozen=True, kw_only=True)
class Lives:
    """How long a payer has, in milliseconds, by what is shown to them."""

    qr_ms: int = 300_000
    wallet_ms: int = 900_000
    va_ms: int = 86_400_000
    card_ms: int = 3_600_000

    def of(self, method: str) -> int:
        if method.startswith("va_"):
            return self.va_ms
        if method.startswith("card"):
            return self.card_ms
        return self.qr_ms if method.startswith("qris") else self.wallet_ms
