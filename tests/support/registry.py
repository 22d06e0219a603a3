"""What a merchant is taken in with."""

from typing import Any

CONTRACT = {
    "legal_name": "Toko Indo",
    "brand_name": "Toko Indo",
    "settlement_account_reference": "bank:9876543210",
    "settlement_account_type": "merchant_bank_account",
    "payout_mode": "merchant_direct",
    "fee_profile_id": "fee_basic",
}
QR_FACTS = {"city": "Jakarta", "postal_code": "10110", "mcc": "5812", "nmid": "ID1029384756012", "criteria": "UMI"}
WHOLE: dict[str, Any] = CONTRACT | QR_FACTS
