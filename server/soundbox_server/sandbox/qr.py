"""The QRIS strings of the sandbox acquirer. Its bank number 999 is nobody's, so no real wallet can pay them."""

import hashlib

from soundbox_server.payments import qris
from soundbox_server.providers.base import MerchantIdentity

DOMAIN = "ID.CO.SANDBOX.WWW"
BANK = "93600999"


def issue(merchant: MerchantIdentity, *, amount_idr: int, transaction_id: str) -> str:
    """A dynamic QRIS of at most 251 characters (what fits a small soundbox); raises QrisRefused.

    As acquirers do, the sandbox gives the merchant a number of its own and prints the name as far as it fits.
    """
    return _write(merchant, "dynamic", amount=str(amount_idr), transaction_id=transaction_id)


def issue_static(merchant: MerchantIdentity, *, number: str) -> str:
    """A QRIS without an amount, to be paid again and again; raises QrisRefused."""
    return _write(merchant, "static", amount=None, transaction_id=number)


def _write(merchant: MerchantIdentity, method: str, *, amount: str | None, transaction_id: str) -> str:
    number = _merchant_number(merchant.merchant_id)
    return qris.encode(
        qris.Qris(
            initiation_method=method,
            acquirer_domain=DOMAIN,
            merchant_pan_in_qr=BANK + number,
            acquirer_merchant_id=number,
            merchant_criteria=merchant.criteria,
            nmid=merchant.nmid,
            mcc=merchant.mcc,
            amount=amount,
            merchant_name=qris.fit(merchant.name, qris.NAME_LENGTH),
            city=qris.fit(merchant.city, qris.CITY_LENGTH),
            postal_code=merchant.postal_code,
            additional_data={"05": transaction_id},
        )
    )


def _merchant_number(merchant_id: str) -> str:
    """Ten digits, always the same for a merchant."""
    return f"{int.from_bytes(hashlib.sha256(merchant_id.encode()).digest()[:8], 'big') % 10**10:010d}"
