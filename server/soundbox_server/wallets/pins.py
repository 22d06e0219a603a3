"""The PIN that spends from an organisation's wallets: set by its owner with their password, and hard to guess.

A try is counted in a commit of its own before it is compared: of many wrong ones at once, five are compared.
"""

from dataclasses import dataclass

from soundbox_server.audit.service import Actor, record
from soundbox_server.db import Statements
from soundbox_server.errors import InvalidPin, Locked, WeakPassword
from soundbox_server.wallets import service

FREE_TRIES = 5
FIRST_LOCK_MS = 15 * 60_000  # doubles with each further try
LONGEST_LOCK_MS = 24 * 3_600_000
_COUNTED = "01234567890"


def require_unguessed(pin: str) -> None:
    """Raises WeakPassword for what is tried first: one digit six times, or digits in a row."""
    if len(set(pin)) == 1 or pin in _COUNTED or pin in _COUNTED[::-1]:
        raise WeakPassword("This PIN is among the first that somebody would try.", field="pin")


async def set_pin(tx: Statements, organisation_id: str, hashed: str, *, actor: Actor, now_ms: int) -> None:
    """The owner has proved who they are: from now on it is this one, and nobody is locked out any more."""
    await service.make_holder(tx, organisation_id, now_ms=now_ms)
    await tx.execute(
        "UPDATE wallet_holder SET pin_hash = $2, pin_tries = 0, pin_locked_until_ms = 0 WHERE organisation_id = $1",
        organisation_id,
        hashed,
    )
    await record(tx, actor, "wallet.pin_set", ("organisation", organisation_id))


@dataclass(frozen=True, kw_only=True)
class Try:
    """A PIN that is to be compared with this hash, once this is committed."""

    organisation_id: str
    pin_hash: str


async def count_try(tx: Statements, organisation_id: str, *, now_ms: int) -> Try:
    """Count a try. Raises Locked, which counts nothing, and InvalidPin where no PIN was set."""
    holder = await service.holder(tx, organisation_id)
    if holder is None or holder["pin_hash"] is None:
        raise InvalidPin("Set a PIN first: PUT /api/v1/org/profile with pin and password.")
    if holder["pin_locked_until_ms"] > now_ms:
        seconds = -(-(holder["pin_locked_until_ms"] - now_ms) // 1000)
        locked = Locked("The PIN was wrong too often. Try again later.", retry_after_s=seconds)
        locked.headers = {"Retry-After": str(seconds)}
        raise locked
    tries = holder["pin_tries"] + 1
    locked_until_ms = now_ms + lock_ms(tries) if tries >= FREE_TRIES else 0
    await tx.execute(
        "UPDATE wallet_holder SET pin_tries = $2, pin_locked_until_ms = $3 WHERE organisation_id = $1",
        organisation_id, tries, locked_until_ms,
    )  # fmt: skip
    return Try(organisation_id=organisation_id, pin_hash=holder["pin_hash"])


def lock_ms(tries: int) -> int:
    """How long nobody may try after so many: 15 minutes after the fifth, then twice as long each, 24 h at most."""
    return min(FIRST_LOCK_MS << min(tries - FREE_TRIES, 10), LONGEST_LOCK_MS)


async def forget_tries(tx: Statements, tried: Try) -> None:
    """It was right: count anew. One that was set meanwhile has a count of its own."""
    await tx.execute(
        "UPDATE wallet_holder SET pin_tries = 0, pin_locked_until_ms = 0 WHERE organisation_id = $1 AND pin_hash = $2",
        tried.organisation_id,
        tried.pin_hash,
    )


async def note_wrong(tx: Statements, organisation_id: str, *, actor: Actor) -> None:
    """For the audit log."""
    await record(tx, actor, "wallet.pin_wrong", ("organisation", organisation_id), outcome="failed")
