"""What may follow what: for a license key, and for tokens that were set aside for a payment."""

from enum import StrEnum
from typing import Literal


class LicenseState(StrEnum):
    ACTIVE = "active"
    TRIAL = "trial"
    INACTIVE = "inactive"
    REVOKED = "revoked"


class TokenState(StrEnum):
    """Of tokens that left a license's balance."""

    RESERVED = "reserved"
    USED = "used"
    VOIDED = "voided"


L = LicenseState
LICENSES: dict[LicenseState, frozenset[LicenseState]] = {
    L.ACTIVE: frozenset({L.TRIAL, L.INACTIVE, L.REVOKED}),
    L.TRIAL: frozenset({L.ACTIVE, L.INACTIVE, L.REVOKED}),
    L.INACTIVE: frozenset({L.ACTIVE, L.TRIAL, L.REVOKED}),
    L.REVOKED: frozenset(),  # another key is made: this one may be in wrong hands
}

PaymentType = Literal["qris", "checkout_page"]
