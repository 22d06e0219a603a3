"""What a merchant lets a bank see: granted, withdrawn, over by itself, and never forgotten."""

import pytest
from support.banks import a_bank, let_see
from support.shop import NOW, Shop, execute, open_shop, rows
from support.staff import audited

from soundbox_server.audit.service import SYSTEM, Actor
from soundbox_server.clock import DAY_MS
from soundbox_server.db import Database
from soundbox_server.errors import Conflict, NotFound
from soundbox_server.lending import looks, service
from soundbox_server.lending.state import ConsentScope, LookedAt

OWNER = Actor(kind="person", id="per_owner", organisation_id="org_owner", role="merchant_owner", request_id="req_1")


@pytest.fixture
async def shop(database: Database) -> Shop:
    return await open_shop(database)


async def sees(
    database: Database, bank: str, shop: Shop, *, at_ms: int = NOW, scope: ConsentScope = ConsentScope.SCORE
) -> bool:
    seen = await database.write(
        lambda tx: service.lets_see(tx, bank, [shop.merchant_id], scope=scope, now_ms=at_ms, locked=True)
    )
    return shop.merchant_id in seen


async def test_a_bank_sees_nobody_until_a_merchant_lets_it(database: Database, shop: Shop) -> None:
    bank, other = await a_bank(database), await a_bank(database, "Bank Lain")
    before = await sees(database, bank, shop)

    await let_see(database, shop.merchant_id, bank, at_ms=NOW)

    assert (before, await sees(database, bank, shop), await sees(database, other, shop)) == (False, True, False)
    watching = await database.write(lambda tx: service.banks_watching(tx, [shop.merchant_id, "mer_x"], now_ms=NOW))
    assert watching == {shop.merchant_id: [bank]}


async def test_a_consent_to_the_score_alone_shows_no_more(database: Database, shop: Shop) -> None:
    bank = await a_bank(database)
    await let_see(database, shop.merchant_id, bank, scope=ConsentScope.SCORE, at_ms=NOW)

    assert await sees(database, bank, shop, scope=ConsentScope.SCORE)
    assert not await sees(database, bank, shop, scope=ConsentScope.FULL)
    assert await database.write(lambda tx: service.banks_watching(tx, [shop.merchant_id], now_ms=NOW)) == {}


async def test_it_is_over_at_its_moment_and_not_before(database: Database, shop: Shop) -> None:
    bank = await a_bank(database)
    await let_see(database, shop.merchant_id, bank, at_ms=NOW, for_ms=DAY_MS)

    assert await sees(database, bank, shop, at_ms=NOW + DAY_MS - 1)
    assert not await sees(database, bank, shop, at_ms=NOW + DAY_MS)


async def test_withdrawn_it_is_over_at_once_and_granted_again_it_holds_again(database: Database, shop: Shop) -> None:
    bank = await a_bank(database)
    consent = await let_see(database, shop.merchant_id, bank, at_ms=NOW)

    for _ in range(2):
        await database.write(lambda tx: service.withdraw(tx, consent, actor=OWNER, now_ms=NOW + 1))
    gone = not await sees(database, bank, shop, at_ms=NOW + 1)
    again = await let_see(database, shop.merchant_id, bank, scope=ConsentScope.SCORE, at_ms=NOW + 2)

    assert (gone, again, await sees(database, bank, shop, at_ms=NOW + 2)) == (True, consent, True)
    history = await rows(database, "SELECT kind, scope, actor_id FROM bank_consent_event ORDER BY id")
    assert [(one["kind"], one["scope"], one["actor_id"]) for one in history] == [
        ("granted", "full", None), ("withdrawn", "full", "per_owner"), ("granted", "score", None),
    ]  # fmt: skip
    assert len(await audited(database, "consent.withdrawn")) == 1


@pytest.mark.parametrize("for_ms", [0, -1, service.LONGEST_MS + 1])
async def test_nobody_consents_to_the_past_or_for_longer_than_a_year(
    database: Database, shop: Shop, for_ms: int
) -> None:
    bank = await a_bank(database)

    with pytest.raises(Conflict):
        await let_see(database, shop.merchant_id, bank, at_ms=NOW, for_ms=for_ms)


async def test_one_consents_to_a_bank_and_for_a_merchant_of_ones_own(database: Database, shop: Shop) -> None:
    bank = await a_bank(database)
    for merchant_id, bank_id in ((shop.merchant_id, bank), ("mer_nobody", bank)):
        with pytest.raises(NotFound):
            await database.write(
                lambda tx, merchant_id=merchant_id, bank_id=bank_id: service.grant(
                    tx, merchant_id=merchant_id, bank_id=bank_id, organisation_id="org_strange", actor=OWNER,
                    now_ms=NOW,
                )
            )  # fmt: skip
    with pytest.raises(NotFound):  # an organisation, and no bank
        await let_see(database, shop.merchant_id, "org_platform")
    consent = await let_see(database, shop.merchant_id, bank)
    with pytest.raises(NotFound):
        await database.write(
            lambda tx: service.withdraw(tx, consent, organisation_id="org_strange", actor=OWNER, now_ms=NOW)
        )


async def test_a_look_is_written_for_whoever_may_be_seen_and_for_nobody_else(database: Database, shop: Shop) -> None:
    bank, stranger = await a_bank(database), await open_shop(database)
    banker = Actor(kind="person", id="per_banker", organisation_id=bank, role="bank", request_id="req_look")
    await let_see(database, shop.merchant_id, bank, at_ms=NOW)
    both = [shop.merchant_id, stranger.merchant_id]

    seen = await database.write(
        lambda tx: looks.keep(tx, both, LookedAt.LIST, scope=ConsentScope.SCORE, actor=banker, now_ms=NOW)
    )

    assert seen == {shop.merchant_id: ConsentScope.FULL}
    (look,) = await rows(database, "SELECT * FROM bank_look")
    assert (look["organisation_id"], look["merchant_id"], look["actor_id"], look["what"], look["request_id"]) == (
        bank, shop.merchant_id, "per_banker", "list", "req_look",
    )  # fmt: skip


@pytest.mark.parametrize("table", ["bank_look", "bank_consent_event"])
@pytest.mark.parametrize("deed", ["UPDATE {} SET at_ms = 1", "DELETE FROM {}"])
async def test_what_was_written_down_stays(database: Database, shop: Shop, table: str, deed: str) -> None:
    bank = await a_bank(database)
    await let_see(database, shop.merchant_id, bank, at_ms=NOW)
    await database.write(
        lambda tx: looks.keep(
            tx, [shop.merchant_id], LookedAt.FILE, scope=ConsentScope.SCORE,
            actor=Actor(kind="system", organisation_id=bank), now_ms=NOW,
        )
    )  # fmt: skip

    with pytest.raises(Exception, match="append-only"):
        await execute(database, deed.format(table))


async def test_a_bank_is_made_once_under_its_name(database: Database) -> None:
    for _ in range(2):
        made = await database.write(
            lambda tx: service.create_bank(tx, name="BCA", organisation_id="org_bca", actor=SYSTEM, now_ms=NOW)
        )
        assert made == "org_bca"

    assert len(await audited(database, "organisation.created")) == 1
