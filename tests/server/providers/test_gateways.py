"""What is true of every partner: charged once, paid once, refunded once, whatever goes wrong on the way."""

import base64
import logging
from typing import Any

import pytest
import structlog
from starlette.responses import Response
from support.fakes import service, snap, xendit
from support.fakes.service import NOW_MS, Fault, private_pem

from soundbox_server.errors import SoundboxError
from soundbox_server.payments import qris
from soundbox_server.providers.base import (
    AdjustmentReport,
    CallbackOutcome,
    Charge,
    ChargeRequest,
    MerchantIdentity,
    Method,
    PaymentReport,
    ProviderRefused,
    ProviderUnknown,
    RefundRequest,
)

from .conftest import PARTNERS, Partner, World

MERCHANT = MerchantIdentity(
    merchant_id="mrc_1", name="TOKO UJI", city="JAKARTA", postal_code="10110", mcc="5411", criteria="UMI"
)
ENDS_MS = NOW_MS + 300_000
OUTCOMES: list[CallbackOutcome] = [
    "taken", "orphan", "conflict", "forged", "token_refused", "unreadable", "unavailable"
]  # fmt: skip


def asked(reference: str = "ref_1", amount_idr: int = 25_000, **changes: Any) -> ChargeRequest:
    return ChargeRequest(
        reference=reference, amount_idr=amount_idr, expires_at_ms=ENDS_MS, merchant=MERCHANT, **changes
    )


def refund(charge: Charge, refund_reference: str = "rfn_1", amount_idr: int = 10_000) -> RefundRequest:
    return RefundRequest(
        reference=charge.reference,
        refund_reference=refund_reference,
        amount_idr=amount_idr,
        reason="the soup was cold",
        provider_transaction_id=charge.provider_transaction_id,
        payment_amount_idr=charge.amount_idr,
        rrn="012345678901",
    )


async def paid(world: World, reference: str = "ref_1") -> Charge:
    charge = await world.gateway.create(asked(reference))
    world.fake.pay(reference)
    return charge


def read(world: World, notification: tuple[dict[str, str], bytes]) -> Any:
    headers, body = notification
    return world.gateway.read_callback(headers, body, now_ms=NOW_MS)


async def test_a_charge_carries_a_qr_for_its_amount(world: World) -> None:
    charge = await world.gateway.create(asked())

    assert (charge.reference, charge.amount_idr, charge.expires_at_ms) == ("ref_1", 25_000, ENDS_MS)
    assert charge.provider_transaction_id == world.fake.charges["ref_1"].id
    assert qris.amount_idr(qris.decode(charge.qr_payload)) == 25_000
    assert world.fake.refused == []


async def test_an_unpaid_charge_is_open(world: World) -> None:
    await world.gateway.create(asked())

    status = await world.gateway.query("ref_1")

    assert (status.state, status.report, status.adjustments) == ("open", None, ())


async def test_a_charge_that_never_was_is_not_found(world: World) -> None:
    status = await world.gateway.query("ref_unknown")

    assert (status.state, status.charge, status.report) == ("not_found", None, None)


@pytest.mark.parametrize("page", [b"<html>not found</html>", b'{"message": "no Route matched"}', b"", b"[]"])
async def test_the_404_of_a_gate_on_the_way_does_not_say_that_there_is_no_charge(world: World, page: bytes) -> None:
    """Whoever believed it would charge again."""
    world.fake.handle = lambda request, body: Response(page, 404)

    with pytest.raises((ProviderRefused, ProviderUnknown)):
        await world.gateway.query("ref_1")


async def test_a_query_tells_of_the_same_event_as_the_notification(world: World) -> None:
    await paid(world)

    report = read(world, world.fake.notification("ref_1"))
    status = await world.gateway.query("ref_1")

    assert isinstance(report, PaymentReport)
    assert (report.partner_reference, report.status, report.amount_idr) == ("ref_1", "paid", 25_000)
    assert report.currency == "IDR"
    assert report.paid_at_ms is not None
    assert 0 <= report.paid_at_ms - NOW_MS <= 30_000
    assert status.state == "paid"
    assert status.report is not None
    assert (status.report.event_id, status.report.amount_idr) == (report.event_id, 25_000)


async def test_a_repeated_notification_is_the_same_event_and_an_older_one_another(world: World) -> None:
    await world.gateway.create(asked())
    before = world.fake.notification("ref_1")
    world.fake.pay("ref_1")
    after = world.fake.notification("ref_1")

    reports = [read(world, one) for one in (after, before, after)]  # reordered, and one of them twice

    assert [report.status for report in reports] == ["paid", "pending", "paid"]
    assert reports[0] == reports[2]
    assert reports[0].event_id != reports[1].event_id


@pytest.mark.parametrize("fault", ["lost", "malformed", "slow"])
async def test_an_answer_that_never_came_leaves_one_charge_to_be_found(partner: Partner, fault: Fault) -> None:
    async with partner.world(total_timeout_s=1) as world:
        world.fake.faults = [fault, fault]
        with pytest.raises(ProviderUnknown):
            await world.gateway.create(asked())

        assert list(world.fake.charges) == ["ref_1"]
        assert (await world.gateway.query("ref_1")).state == "open"


async def test_a_partner_that_fails_before_it_does_anything_is_asked_what_became_of_it(world: World) -> None:
    world.fake.faults = ["5xx", "5xx"]

    with pytest.raises(ProviderUnknown):
        await world.gateway.create(asked())

    assert (await world.gateway.query("ref_1")).state == "not_found"


async def test_a_reference_is_never_charged_twice(world: World) -> None:
    first = await world.gateway.create(asked())

    try:  # Xendit knows the question again, the others only the reference
        assert await world.gateway.create(asked()) == first
    except ProviderUnknown:
        assert world.gateway.name != "xendit"
    assert len(world.fake.charges) == 1


@pytest.mark.parametrize("change", ["key", "method"])
async def test_a_refusal_is_definite(partner: Partner, change: str) -> None:
    wrong: dict[str, Any] = {}
    if change == "key":
        wrong = {"xendit": {"secret_key": "other"}, "midtrans": {"server_key": "other"}}.get(
            partner.module.__name__.rpartition(".")[2], {"private_key": private_pem("stranger")}
        )
    async with partner.world(**wrong) as world:
        unwanted = asked() if change == "key" else asked(method=Method.DANA)
        with pytest.raises(ProviderRefused):
            await world.gateway.create(unwanted)

        assert world.fake.charges == {}
        assert bool(world.fake.refused) == (change == "key")


async def test_where_nobody_listens_nothing_was_charged(partner: Partner) -> None:
    async with partner.world() as world:
        pass

    gateway = partner.module.gateway(world.config)
    with pytest.raises(ProviderRefused):
        await gateway.create(asked())
    await gateway.aclose()


async def test_a_cancelled_charge_stays_cancelled(world: World) -> None:
    charge = await world.gateway.create(asked())

    await world.gateway.cancel("ref_1", provider_transaction_id=charge.provider_transaction_id)

    assert (await world.gateway.query("ref_1")).state in ("cancelled", "expired", "failed")
    assert world.fake.charges["ref_1"].status in ("cancelled", "expired")


async def test_what_is_paid_is_not_cancelled(world: World) -> None:
    await paid(world)

    with pytest.raises(ProviderRefused):
        await world.gateway.cancel("ref_1")

    assert (await world.gateway.query("ref_1")).state == "paid"


async def test_a_part_is_refunded_and_can_be_asked_for(world: World) -> None:
    charge = await paid(world)

    done = await world.gateway.refund(refund(charge))
    found = await world.gateway.query_refund(refund(charge))

    assert (done.state, found.state, done.refund_reference) == ("succeeded", "succeeded", "rfn_1")
    assert world.fake.charges["ref_1"].refunds == {"rfn_1": 10_000}
    assert (await world.gateway.query_refund(refund(charge, "rfn_2"))).state in ("not_found", "pending")


async def test_more_than_was_paid_is_not_refunded(world: World) -> None:
    charge = await paid(world)
    await world.gateway.refund(refund(charge, "rfn_1", 20_000))

    with pytest.raises(ProviderRefused):
        await world.gateway.refund(refund(charge, "rfn_2", 5_001))

    assert world.fake.charges["ref_1"].refunds == {"rfn_1": 20_000}


@pytest.mark.parametrize("fault", ["lost", "malformed", "slow"])
async def test_a_refund_whose_answer_was_lost_is_found_and_happened_once(partner: Partner, fault: Fault) -> None:
    async with partner.world(total_timeout_s=1) as world:
        charge = await paid(world)
        world.fake.faults = [fault, fault]
        with pytest.raises(ProviderUnknown):
            await world.gateway.refund(refund(charge))
        world.fake.faults = []

        assert (await world.gateway.query_refund(refund(charge))).state == "succeeded"
        assert world.fake.charges["ref_1"].refunds == {"rfn_1": 10_000}


async def test_a_refund_that_never_arrived_is_not_found(world: World) -> None:
    charge = await paid(world)
    world.fake.faults = ["5xx", "5xx"]

    with pytest.raises(ProviderUnknown):
        await world.gateway.refund(refund(charge))

    assert (await world.gateway.query_refund(refund(charge))).state == "not_found"


@pytest.mark.parametrize("name", ["snap", "midtrans"])
async def test_money_that_went_back_is_no_payment(name: str) -> None:
    """Xendit and Paylabs notify of refunds in messages of their own, and a query of the payment does not tell."""
    async with PARTNERS[name].world() as world:
        charge = await paid(world)
        await world.gateway.refund(refund(charge))

        told, status = read(world, world.fake.notification("ref_1")), await world.gateway.query("ref_1")

        assert isinstance(told, AdjustmentReport)
        assert (told.kind, told.amount_idr, told.refund_reference) == ("refunded", 10_000, "rfn_1")
        assert status.adjustments[0].event_id == told.event_id
        assert (status.state, status.report) == ("paid", None)


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_only_what_is_stored_is_acknowledged(world: World, outcome: CallbackOutcome) -> None:
    answer = world.gateway.acknowledge(outcome, body=b"{}", now_ms=NOW_MS)

    ended = 200 <= answer.status < 300
    if outcome in ("taken", "orphan"):
        assert ended
    elif outcome != "conflict":  # each partner has its own custom for that
        assert not ended


async def test_secrets_show_nowhere(
    partner: Partner, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in what is printed of the parts, not in errors with their causes, not in the log."""
    caplog.set_level(logging.DEBUG)
    secrets = [service.OUR_SECRET, snap.NOTIFY_SECRET, xendit.CALLBACK_TOKEN, private_pem("hub").splitlines()[1]]
    secrets += [base64.b64encode(f"{service.OUR_SECRET}:".encode()).decode()]
    shown: list[str] = []
    with structlog.testing.capture_logs() as logged:
        async with partner.world() as world:
            shown += [repr(world.config), str(world.config), repr(world.gateway)]
            world.fake.faults = ["5xx", "5xx", "malformed", "malformed"]
            for attempt in range(3):
                try:
                    await world.gateway.create(asked(f"ref_{attempt}"))
                except SoundboxError as error:
                    shown += _all_of(error)
            try:
                await world.gateway.create(asked(method=Method.OVO))
            except SoundboxError as error:
                shown += _all_of(error)
            for callback in ({}, {"x-callback-token": "x", "x-timestamp": "2026-05-23T17:00:00+07:00"}):
                try:
                    world.gateway.read_callback(callback, b"{}", now_ms=NOW_MS)
                except SoundboxError as error:
                    shown += _all_of(error)
    output = capsys.readouterr()
    everything = "\n".join([*shown, repr(logged), caplog.text, output.out, output.err])

    assert len(shown) >= 7
    assert [secret for secret in secrets if secret in everything] == []


def _all_of(error: BaseException | None) -> list[str]:
    """What can be read of an error and of those that caused it."""
    shown: list[str] = []
    while error is not None:
        shown += [repr(error), str(error), repr(vars(error))]
        error = error.__cause__
    return shown
