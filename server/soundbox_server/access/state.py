"""Who there is: kinds of organisation, the roles each has, and who may hand out which role. Tables to read aloud."""

from enum import StrEnum


class PersonState(StrEnum):
    INVITED = "invited"  # has not set a password yet
    ACTIVE = "active"
    DISABLED = "disabled"


P = PersonState
TRANSITIONS: dict[PersonState, frozenset[PersonState]] = {
    P.INVITED: frozenset({P.ACTIVE, P.DISABLED}),
    P.ACTIVE: frozenset({P.DISABLED}),
    P.DISABLED: frozenset({P.ACTIVE, P.INVITED}),  # invited again when no password was ever set
}

ROLES_OF: dict[str, frozenset[str]] = {
    "platform": frozenset({"platform_admin", "operator", "finance", "support"}),
    "merchant": frozenset({"merchant_owner", "merchant_staff"}),
    "partner": frozenset({"partner"}),
    "bank": frozenset({"bank"}),
}
STAFF = ROLES_OF["platform"]
MERCHANTS = ROLES_OF["merchant"]
_OUTSIDERS = MERCHANTS | ROLES_OF["partner"] | ROLES_OF["bank"]

# Nobody hands out more than they have. Operators look after the platform's customers, not after its staff.
MAY_INVITE: dict[str, frozenset[str]] = {
    "platform_admin": STAFF | _OUTSIDERS,
    "operator": _OUTSIDERS,
}
MAY_GIVE_KEYS: dict[str, frozenset[str]] = {
    "platform_admin": STAFF | _OUTSIDERS,
    "operator": frozenset({"operator", "support"}) | _OUTSIDERS,
}

NEEDS_TOTP = STAFF | ROLES_OF["bank"]  # where the setting requires a second factor
