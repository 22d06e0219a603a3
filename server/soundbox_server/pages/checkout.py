"""The page where a payer pays: `/pay/{session}`.

Whoever has the address may look: it is unguessable, and shows nothing that the payer did not bring. It says how the
payment stands and never asks for anything secret. Without JavaScript it loads itself again every five seconds.

A page that its owner opened for any method lets the payer choose among those that the merchant's providers offer.
"""

import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from soundbox_server import clock
from soundbox_server.access import limits
from soundbox_server.db import Database, Row, Statements
from soundbox_server.errors import (
    Conflict,
    DuplicateRequest,
    Forbidden,
    GatewayError,
    IllegalTransition,
    InvalidAmount,
    InvalidPaymentType,
    NotFound,
    PartnerTimeout,
)
from soundbox_server.http import read_body
from soundbox_server.pages.live import Feed, event, stream
from soundbox_server.pages.paper import PRIVATE, asked_language, for_people, page, written
from soundbox_server.pages.words import language_of
from soundbox_server.payments.asking import ask_now
from soundbox_server.payments.choosing import Wish, choose, offers
from soundbox_server.payments.pictures import picture
from soundbox_server.payments.state import AttemptState, PaymentState
from soundbox_server.providers.base import Method
from soundbox_server.providers.registry import Gateways

ASKS = 4  # of one session within a minute: "I have paid, look again"
CHOICES = 6  # of one session within a minute
LONGEST_FORM = 2_000  # bytes

S = PaymentState
# How a payment stands, as its payer is to hear it.
STAGES: Mapping[PaymentState, str] = {
    S.CREATED: "preparing",
    S.AWAITING_PAYMENT: "waiting",
    S.PAID: "paid",
    S.PARTIALLY_REFUNDED: "paid",
    S.DISPUTED: "paid",  # between the merchant and banks; the payer's purchase stands
    S.REFUNDED: "refunded",
    S.REVERSED: "refunded",
    S.EXPIRED: "expired",
    S.CANCELLED: "cancelled",
    S.FAILED: "failed",
    S.NEEDS_REVIEW: "review",  # money came, but not as asked
}
LIVE = frozenset({"preparing", "unknown", "waiting", "expired", "cancelled", "failed", "review"})
# What a payer sees on a wallet's or a bank's own page and here; a bank's own name is never translated.
METHODS: Mapping[str, str] = {
    "qris_dynamic": "QRIS", "qris_static": "QRIS", "gopay": "GoPay", "ovo": "OVO", "dana": "DANA",
    "shopeepay": "ShopeePay", "linkaja": "LinkAja", "va_bca": "BCA Virtual Account", "va_bni": "BNI Virtual Account",
    "va_bri": "BRI Virtual Account", "va_mandiri": "Mandiri Virtual Account", "card_hosted": "Card", "cash": "Cash",
}  # fmt: skip

# In the order in which they are offered, by kind; the first of them needs no account anywhere.
KINDS: Mapping[str, Sequence[Method]] = {
    "qris": (Method.QRIS_DYNAMIC,),
    "va": (Method.VA_BCA, Method.VA_BNI, Method.VA_BRI, Method.VA_MANDIRI),
    "wallet": (Method.GOPAY, Method.OVO, Method.DANA, Method.SHOPEEPAY, Method.LINKAJA),
    "card": (Method.CARD_HOSTED,),
}

ACTIONS = ("qr_payload", "qr_image_url", "va_number", "biller_code", "checkout_url", "deeplink")  # of a charge

_FIND = """
SELECT s.id, s.language, s.items, s.back_url, s.success_url, s.failure_url, s.payer_chooses, p.id AS payment_id,
       p.state, p.amount, p.merchant_id, p.payer, p.review_reason, p.method, p.order_code, p.expires_at_ms,
       p.paid_at_ms, coalesce(s.description, p.description) AS description,
       b.transaction_id AS partners_name, m.brand_name, m.city, a.state AS attempt_state, a.number, a.id AS attempt_id,
       a.provider, a.qr_payload, a.actions
FROM payment_session s JOIN payment p ON p.id = s.payment_id JOIN merchant m ON m.id = p.merchant_id
LEFT JOIN partner_payment b ON b.payment_id = p.id
LEFT JOIN payment_attempt a ON a.payment_id = p.id AND a.number = (
    SELECT max(number) FROM payment_attempt WHERE payment_id = p.id)
WHERE s.id = $1
"""
_VERSIONS = """
SELECT s.id, p.state, p.review_reason, a.state AS attempt_state, a.number
FROM payment_session s JOIN payment p ON p.id = s.payment_id
LEFT JOIN payment_attempt a ON a.payment_id = p.id AND a.number = (
    SELECT max(number) FROM payment_attempt WHERE payment_id = p.id)
WHERE {among}
"""


@dataclass(frozen=True, kw_only=True)
class Item:
    name: str
    quantity: int
    price: int


@dataclass(frozen=True, kw_only=True)
class Bill:
    """All that the page shows. `stage` is a value of STAGES, or "unknown" where the provider did not answer us.

    `actions` are what pays it, each a text that is empty where there is none. `back` is where the payer came from or is
    awaited, if that is a web address. `offered` are the methods to choose from, by kind; none where there is no choice.
    `twice`: money came by two of its charges, or twice by one.
    """

    session_id: str
    payment_id: str
    stage: str
    version: str
    amount: int
    merchant: str
    city: str
    method: str
    kind: str
    attempt_id: str
    offered: Mapping[str, Sequence[tuple[str, str]]]
    twice: bool
    reference: str
    description: str | None
    items: Sequence[Item]
    actions: Mapping[str, str]
    expires_at_ms: int
    paid_at_ms: int | None
    back: str | None
    language: str | None

    @property
    def live(self) -> bool:
        """Whether it may still change while somebody looks."""
        return self.stage in LIVE


def stage_of(payment_state: str, attempt_state: str | None, *, expires_at_ms: int, now_ms: int) -> str:
    """What the payer is to be told."""
    stage = STAGES[PaymentState(payment_state)]
    if stage == "preparing" and attempt_state == AttemptState.UNKNOWN:
        return "unknown"
    if stage == "waiting" and expires_at_ms <= now_ms:
        return "expired"
    return stage


def _version(row: Row) -> str:
    twice = ".twice" if row["review_reason"] else ""
    return f"{row['state']}.{row['attempt_state'] or 'none'}.{row['number'] or 0}{twice}"


def kind_of(method: str) -> str:
    """Which of KINDS a payment's method is of; any QR is QRIS."""
    return next((kind for kind, methods in KINDS.items() if method in methods), "qris")


def bill_of(row: Row, *, now_ms: int, gateways: Gateways) -> Bill:
    """A row of `_FIND`."""
    stage = stage_of(row["state"], row["attempt_state"], expires_at_ms=row["expires_at_ms"], now_ms=now_ms)
    actions = orjson.loads(row["actions"]) if row["actions"] else {}
    goal = {"paid": row["success_url"], "failed": row["failure_url"]}.get(stage)
    return Bill(
        session_id=row["id"], payment_id=row["payment_id"], stage=stage, version=_version(row), amount=row["amount"],
        merchant=row["brand_name"], city=row["city"], method=METHODS.get(row["method"], row["method"]),
        kind=kind_of(row["method"]), attempt_id=row["attempt_id"] or "",
        offered=_offered(row, gateways) if stage == "waiting" else {},
        twice=stage == "paid" and row["review_reason"] is not None,
        reference=row["partners_name"] or row["order_code"] or row["payment_id"], description=row["description"],
        items=_items(row["items"]),
        actions=dict.fromkeys(ACTIONS, "") | _followed(actions) | {"qr_payload": row["qr_payload"] or ""},
        expires_at_ms=row["expires_at_ms"], paid_at_ms=row["paid_at_ms"], back=_web_address(goal or row["back_url"]),
        language=row["language"],
    )  # fmt: skip


def _offered(row: Row, gateways: Gateways) -> Mapping[str, Sequence[tuple[str, str]]]:
    """The methods that may be chosen, with their names, the one that is chosen among them. Nothing where there is only
    one, or where what is shown now cannot be withdrawn: nobody is to hold two charges that can be paid."""
    account = gateways.accounts.get(row["provider"] or "")
    if not row["payer_chooses"] or account is None or not account.capabilities.cancel:
        return {}
    found = offers(gateways, row["merchant_id"], row["amount"])
    if not any(method != row["method"] for method in found):
        return {}
    offered = {kind: [(m.value, METHODS[m]) for m in methods if m in found] for kind, methods in KINDS.items()}
    return {kind: methods for kind, methods in offered.items() if methods}


def _items(stored: str | None) -> Sequence[Item]:
    told = orjson.loads(stored) if stored else []
    return [Item(name=one["name"], quantity=one["quantity"], price=one["price"]) for one in told]


def _web_address(url: str | None) -> str | None:
    """A link is followed by whoever trusts this page: `javascript:` and the like are none."""
    return url if url and urlsplit(url).scheme in ("https", "http") else None


def _followed(actions: Mapping[str, str]) -> dict[str, str]:
    """Without addresses that a browser would run as a script. An app's own scheme is one to follow."""
    runs = ("", "javascript", "data", "vbscript", "file", "blob")
    return {
        name: said for name, said in actions.items()
        if name not in ("qr_image_url", "checkout_url", "deeplink") or urlsplit(said).scheme not in runs
    }  # fmt: skip


async def find_bill(tx: Statements, session_id: str, *, now_ms: int, gateways: Gateways) -> Bill:
    """Raises NotFound."""
    rows = await tx.fetch(_FIND, session_id)
    if not rows:
        raise NotFound("There is no such payment page.")
    return bill_of(rows[0], now_ms=now_ms, gateways=gateways)


async def versions_of(tx: Statements, session_ids: Sequence[str]) -> Mapping[str, str]:
    """What each of these pages shows now, as one word."""
    rows = await tx.fetch(_VERSIONS.format(among="s.id " + tx.among(1)), list(session_ids))
    return {row["id"]: _version(row) for row in rows}


def open_feed(database: Database) -> Feed:
    """One for the process."""

    async def versions(session_ids: Sequence[str]) -> Mapping[str, str]:
        return await database.read(lambda tx: versions_of(tx, session_ids))

    return Feed(versions)


def _facts(request: Request, bill: Bill) -> dict[str, Any]:
    may_check = bill.stage in ("expired", "cancelled", "failed")
    seal = _seal(request, bill) if bill.offered else ""
    return {"bill": bill, "now_ms": clock.now_ms(), "may_check": may_check, "seal": seal}


def _seal(request: Request, bill: Bill) -> str:
    """Proves that a form was made for this page, as it was when that charge was shown on it."""
    said = f"{bill.session_id}.{bill.attempt_id}".encode()
    return hmac.new(request.app.state.checkout_key, said, "sha256").hexdigest()


async def _bill(request: Request) -> Bill:
    session_id, state = request.path_params["session_id"], request.app.state
    found: Bill = await state.database.read(
        lambda tx: find_bill(tx, session_id, now_ms=clock.now_ms(), gateways=state.gateways)
    )
    return found


async def _show(request: Request) -> Response:
    bill = await _bill(request)
    language = asked_language(request, bill.language)
    query = request.query_params
    not_chosen = query.get("not") if query.get("not") in NOT_CHOSEN else None
    asked = query.get("asked") == "1"
    return page("checkout/pay.html", language, asked=asked, not_chosen=not_chosen, **_facts(request, bill))


async def _events(request: Request) -> Response:
    """`bill` events whose data replaces what the page shows; `here` now and then, so that a page notices a connection
    that is dead; `end` when this stream is over for good."""
    feed: Feed = request.app.state.checkout_feed
    feed.require_room()  # before anything is read: a page that is refused asks again
    bill = await _bill(request)
    language = asked_language(request, bill.language)
    seen = request.headers.get("last-event-id") or request.query_params.get("seen")

    async def events() -> AsyncIterator[bytes]:
        async for said in feed.news(bill.session_id, seen=seen):
            if said is None:
                yield event("here", "")
                continue
            name, value = said
            if name == "end":
                yield event("end", value)
                return
            now = await _bill(request)
            yield event("bill", written("checkout/_bill.html", language, **_facts(request, now)), version=value)
            if not now.live:
                yield event("end", "over")
                return

    return stream(events())


async def _check(request: Request) -> Response:
    """The payer says that they paid: the provider is asked again, soon. A form of this page, from this page."""
    _require_from_here(request)
    bill = await _bill(request)
    now_ms = clock.now_ms()

    async def ask(tx: Statements) -> limits.Standing:
        standing = await limits.rate_limit(
            tx, f"checkout:{bill.session_id}", limit=ASKS, window_ms=limits.MINUTE_MS, now_ms=now_ms
        )
        if standing.allowed and bill.live:
            await ask_now(tx, bill.payment_id, now_ms=now_ms)
        return standing

    limits.require(await request.app.state.database.write(ask))
    language = language_of(request.query_params.get("lang"))
    return RedirectResponse(f"/pay/{bill.session_id}?lang={language}&asked=1", status_code=303, headers=PRIVATE)


# Why another method was not to be had, as the page says it.
NOT_CHOSEN = ("busy", "kept", "refused", "unanswered")


async def _choose(request: Request) -> Response:
    """The payer chooses another way to pay, on this very page. Whatever becomes of it, the page says how to pay now."""
    _require_from_here(request)
    state, bill = request.app.state, await _bill(request)
    method, seal = await _read_choice(request)
    language = language_of(request.query_params.get("lang"))
    back = f"/pay/{bill.session_id}?lang={language}"
    if bill.stage != "waiting" or not hmac.compare_digest(seal, _seal(request, bill).encode()):
        return _see(back)  # it looks different by now: nothing is changed that the payer has not seen
    if not any(method == offered for methods in bill.offered.values() for offered, _ in methods):
        raise InvalidPaymentType("This page does not offer this method.", method=method)
    key, now_ms = f"checkout-choice:{bill.session_id}", clock.now_ms()
    limits.require(
        await state.database.write(
            lambda tx: limits.rate_limit(tx, key, limit=CHOICES, window_ms=limits.MINUTE_MS, now_ms=now_ms)
        )
    )
    page_url = f"{state.public_url}{back}"
    wish = Wish(payment_id=bill.payment_id, seen=bill.attempt_id, method=Method(method), page_url=page_url)
    try:
        await choose(state.database, state.gateways, state.inquiry, wish)
    except (DuplicateRequest, IllegalTransition):
        return _see(f"{back}&not=busy")
    except (Conflict, Forbidden, GatewayError, InvalidAmount, InvalidPaymentType, PartnerTimeout) as error:
        return _see(f"{back}&not={_why_not(error)}")
    return _see(back)


def _why_not(error: Exception) -> str:
    if isinstance(error, PartnerTimeout):
        return "unanswered"
    return "kept" if isinstance(error, Conflict) else "refused"


async def _read_choice(request: Request) -> tuple[str, bytes]:
    """The method and the seal of the form, each empty where it is missing."""
    said = parse_qs((await read_body(request, limit=LONGEST_FORM)).decode("utf-8", "replace"))
    return said.get("method", [""])[0], said.get("seal", [""])[0].encode()


def _see(address: str) -> Response:
    return RedirectResponse(address, status_code=303, headers=PRIVATE)


def _require_from_here(request: Request) -> None:
    """Browsers say where a form comes from; another site's is not ours. Without a referrer they name no origin, so it
    is their `Sec-Fetch-Site` that decides, and the origin only where an old one sends it alone."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "null")
    ours = (urlsplit(request.app.state.public_url).netloc, request.headers.get("host"))
    if site != "same-origin" if site is not None else origin != "null" and urlsplit(origin).netloc not in ours:
        raise Forbidden("This form is sent from its own page only.")


async def _picture(request: Request) -> Response:
    """The QR, as long as it can be paid. Whoever saves it gets the picture of `checkout/routes.py`."""
    bill = await _bill(request)
    if bill.stage != "waiting" or not bill.actions["qr_payload"]:
        raise NotFound("There is no QR to pay any more.")
    drawn = await picture(bill.actions["qr_payload"], "svg")
    return Response(drawn.content, headers=PRIVATE, media_type=drawn.media_type)


ROUTES: Sequence[BaseRoute] = [
    Route("/pay/{session_id}", for_people(_show), methods=["GET"]),
    Route("/pay/{session_id}/events", for_people(_events), methods=["GET"]),
    Route("/pay/{session_id}/check", for_people(_check), methods=["POST"]),
    Route("/pay/{session_id}/choose", for_people(_choose), methods=["POST"]),
    Route("/pay/{session_id}/qr.svg", for_people(_picture), methods=["GET"]),
]
