"""What payments cost, and since when. Versions are added with a day that is still to come, and none is ever changed: so
what a version says can be kept in memory for good, and a profile's latest version tells whether there is another."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import column, select, table
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.db import KEY_STAYS, Row, Statements, statements
from soundbox_server.errors import Conflict, FeeRuleMissing, NotFound, ValidationFailed
from soundbox_server.fees.models import FeeProfile, FeeVersion
from soundbox_server.fees.terms import Payee, Rule, Terms, Version, Window, read_rules, read_windows, write
from soundbox_server.ids import new_id

KEPT = 4_096  # terms in memory
# Merchants are a floor above; of them only what rules speak of is needed here.
_merchant = table(
    "merchant", *(column(name) for name in ("id", "status", "fee_profile_id", "fee_category", "criteria"))
)

_known: dict[str, Terms] = {}  # by the id of the profile's latest version

_VERSIONS = """
SELECT f.version_id, v.fee_profile_id, v.version, v.effective_from, v.rules, v.windows
FROM fee_profile f JOIN fee_version v ON v.fee_profile_id = f.id WHERE f.version_id {among} ORDER BY 1, 3
"""


async def terms_of(tx: Statements, version_ids: Collection[str]) -> dict[str, Terms]:
    """The terms of profiles, by their latest version's id. The database is asked only for what was added since."""
    missing = sorted({version_id for version_id in version_ids if version_id not in _known})
    if missing:
        if len(_known) + len(missing) > KEPT:
            _known.clear()
            missing = sorted(set(version_ids))
        rows = await tx.fetch(_VERSIONS.format(among=tx.among(1)), missing)
        for version_id in missing:
            of_profile = [row for row in rows if row["version_id"] == version_id]
            _known[version_id] = Terms(of_profile[0]["fee_profile_id"], tuple(_version(row) for row in of_profile))
    return {version_id: _known[version_id] for version_id in version_ids}


def _version(row: Row) -> Version:
    return Version(row["version"], row["effective_from"], read_rules(row["rules"]), read_windows(row["windows"]))


async def terms_of_profile(session: AsyncSession, fee_profile_id: str) -> Terms:
    """Raises NotFound."""
    profile = await session.get(FeeProfile, fee_profile_id)
    if profile is None:
        raise NotFound("No such fee profile.", fee_profile_id=fee_profile_id)
    return (await terms_of(await statements(session), [profile.version_id]))[profile.version_id]


async def exists(session: AsyncSession, fee_profile_id: str) -> bool:
    return await session.get(FeeProfile, fee_profile_id) is not None


async def has_rule(session: AsyncSession, fee_profile_id: str | None, payee: Payee, *, day: str) -> bool:
    """Whether it is said what this merchant's payments cost, on that day and from then on."""
    if fee_profile_id is None or not await exists(session, fee_profile_id):
        return False
    return (await terms_of_profile(session, fee_profile_id)).covers(payee, day=day)


@dataclass(frozen=True, kw_only=True)
class NewTerms:
    """What a version is to say, from a day in Jakarta on."""

    effective_from: str
    rules: Sequence[Rule]
    windows: Sequence[Window]
    reason: str | None = None


async def add_profile(
    session: AsyncSession,
    terms: NewTerms,
    *,
    name: str,
    fee_profile_id: str | None = None,
    refund_returns_fee: bool = False,
    by: str | None,
    now_ms: int,
) -> tuple[FeeProfile, FeeVersion]:
    """A profile with its first version, which may hold from any day on: no payment was ever priced by it. Raises
    ValidationFailed, or Conflict when its id is taken."""
    _require_sound(terms)
    if fee_profile_id is not None and await exists(session, fee_profile_id):
        raise Conflict("This fee profile exists: add a version to it.", field="id")
    version = _new_version(fee_profile_id or new_id("fee"), 1, terms, by=by, now_ms=now_ms)
    profile = FeeProfile(
        id=version.fee_profile_id, name=name, version=1, version_id=version.id, created_at_ms=now_ms,
        refund_returns_fee=refund_returns_fee,
    )  # fmt: skip
    session.add(profile)
    await session.flush()
    session.add(version)
    await session.flush()
    return profile, version


async def add_version(
    session: AsyncSession,
    fee_profile_id: str,
    terms: NewTerms,
    *,
    by: str | None,
    today: str,
    now_ms: int,
) -> tuple[FeeProfile, FeeVersion]:
    """What holds from a later day on.

    Raises NotFound; ValidationFailed for a day that has begun, or that lies before an earlier version's; FeeRuleMissing
    where an approved merchant would have no rate any more.
    """
    _require_sound(terms)
    profile = await session.get(FeeProfile, fee_profile_id, with_for_update=KEY_STAYS, populate_existing=True)
    if profile is None:
        raise NotFound("No such fee profile.", fee_profile_id=fee_profile_id)
    known = await terms_of_profile(session, fee_profile_id)
    if terms.effective_from <= today:
        raise ValidationFailed("What holds today was agreed: name a later day.", field="effective_from")
    if terms.effective_from < known.versions[-1].effective_from:
        raise ValidationFailed("A version that was added before begins later.", field="effective_from")
    version = _new_version(fee_profile_id, profile.version + 1, terms, by=by, now_ms=now_ms)
    wanted = Version(version.version, terms.effective_from, tuple(terms.rules), tuple(terms.windows))
    payees = await _payees(session, fee_profile_id)
    if without := sorted(payee.merchant_id for payee in payees if wanted.rule_for(payee) is None):
        raise FeeRuleMissing("Merchants with this profile would have no rate.", merchants=without[:20])
    session.add(version)
    profile.version, profile.version_id = version.version, version.id
    await session.flush()
    return profile, version


async def _payees(session: AsyncSession, fee_profile_id: str) -> list[Payee]:
    rows = await session.execute(
        select(_merchant.c.id, _merchant.c.fee_category, _merchant.c.criteria).where(
            _merchant.c.fee_profile_id == fee_profile_id, _merchant.c.status == "approved"
        )
    )
    return [Payee(*row) for row in rows]


def _new_version(fee_profile_id: str, number: int, terms: NewTerms, *, by: str | None, now_ms: int) -> FeeVersion:
    return FeeVersion(
        fee_profile_id=fee_profile_id, version=number, id=new_id("fev"), effective_from=terms.effective_from,
        rules=write(terms.rules), windows=write(terms.windows), reason=terms.reason, added_by=by, created_at_ms=now_ms,
    )  # fmt: skip


def _require_sound(terms: NewTerms) -> None:
    """Raises ValidationFailed for rules that contradict each other and windows that cannot follow one another."""
    for rule in terms.rules:
        if (rule.bps is None) == (not rule.tiers):
            raise ValidationFailed("A rule has either bps or tiers.", field="rules")
        if sum(map(bool, (rule.merchant, rule.category, rule.criteria))) > 1:
            raise ValidationFailed("A rule speaks of merchants, of categories or of criteria.", field="rules")
        ends = [tier.max for tier in rule.tiers]
        if ends and (ends[-1] is not None or None in ends[:-1] or ends[:-1] != sorted(set(ends[:-1]), key=_number)):
            raise ValidationFailed("Tiers rise, and the last one has no max.", field="rules")
    for named in ("merchant", "category", "criteria"):
        names = [name for rule in terms.rules for name in getattr(rule, named)]
        if len(names) != len(set(names)):
            raise ValidationFailed(f"Two rules speak of the same {named}.", field="rules")
    if sum(not (rule.merchant or rule.category or rule.criteria) for rule in terms.rules) > 1:
        raise ValidationFailed("Two rules speak of everybody.", field="rules")
    for taken in ("name", "cutoff"):
        if len({getattr(window, taken) for window in terms.windows}) != len(terms.windows):
            raise ValidationFailed(f"Two windows have the same {taken}.", field="windows")


def _number(end: int | None) -> int:
    return end or 0
