"""What boxes say when money arrives. Written in the transaction that makes the payment paid, or not at all."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from soundbox_protocol.messages import merchant_name_for_wire
from soundbox_protocol.times import to_rfc3339
from soundbox_server.codecs.base import Addressee
from soundbox_server.codecs.base import KeyOf as KeyOf
from soundbox_server.codecs.choice import CODECS, Codec
from soundbox_server.db import Query, Row, Statements
from soundbox_server.ids import new_id
from soundbox_server.merchants.state import AnnouncementPolicy
from soundbox_server.outbox import service as outbox
from soundbox_server.outbox.state import Delivery


class Announced(msgspec.Struct, frozen=True, kw_only=True):
    """A payment as it is told: every word comes from our own records, none from a callback's text."""

    payment_id: str
    terminal_id: str
    merchant_name: str
    amount: int
    paid_at_ms: int
    trace_id: str
    too_late_to_say: bool = False  # reported so late that it goes to the digest, not to the speaker
    original_id: str | None = None  # a replay names what it repeats,
    originals: Mapping[str, str] | None = None  # and a box that said it before what it said itself: device id -> id
    device_id: str | None = None  # a replay goes to this box alone
    policy: str = AnnouncementPolicy.TERMINAL.value  # its merchant's


@dataclass(frozen=True, kw_only=True)
class Telling:
    """How announcements are made in this process."""

    key_of: KeyOf
    owner: str
    life_ms: int


_LISTENERS = """
SELECT d.id, d.serial_number, d.codec, d.key_version, d.last_seq, d.state, b.terminal_id, b.terminal_id AS stands_at,
       b.bound_at_ms, p.online, {version} AS row_version
FROM device_binding b JOIN device d ON d.id = b.device_id LEFT JOIN device_presence p ON p.device_id = d.id
WHERE b.terminal_id {among} AND b.unbound_at_ms IS NULL AND d.state IN ('bound', 'suspended')
{lock}
"""
# The same for the whole outlet of each terminal: a box comes once for each terminal that it hears.
_LISTENERS_IN_OUTLETS = """
SELECT d.id, d.serial_number, d.codec, d.key_version, d.last_seq, d.state, t.id AS terminal_id,
       b.terminal_id AS stands_at, b.bound_at_ms, p.online, {version} AS row_version
FROM terminal t JOIN device_binding b ON b.outlet_id = t.outlet_id JOIN device d ON d.id = b.device_id
LEFT JOIN device_presence p ON p.device_id = d.id
WHERE t.id {among} AND b.unbound_at_ms IS NULL AND d.state IN ('bound', 'suspended')
{lock}
"""
_LATE = """
INSERT INTO announcement_digest (device_id, due_at_ms) VALUES ($1, $2)
ON CONFLICT (device_id) DO UPDATE SET due_at_ms = excluded.due_at_ms
"""
LATE_TOGETHER_MS = 5_000  # what a provider reports late seldom comes alone


_name_for_wire = lru_cache(maxsize=20_000)(merchant_name_for_wire)  # a shop's name seldom changes


@dataclass
class _Listener:
    id: str
    key_version: int
    last_seq: int
    version: int | None
    suspended: bool
    online: bool
    serial_number: str
    codec: Codec
    stands_at: str
    bound_at_ms: int


async def queue_payment_announcement(
    tx: Statements, payments: Sequence[Announced], *, telling: Telling, now_ms: int
) -> None:
    """One announcement for each payment and each box that its merchant's policy names: at its terminal, of these the
    one that has stood there longest, or in its whole outlet. Without a box it leaves a suppressed row, and so does a
    suspended box.

    The boxes' rows stay locked until the commit, so their numbers have no gap and no double.
    """
    if not payments:
        return
    outlets = {payment.terminal_id for payment in payments if is_for_outlet(payment.policy)}
    sql, args = listeners_at(tx, {payment.terminal_id for payment in payments}, outlets=bool(outlets))
    await queue_for_listeners(tx, payments, await tx.fetch(sql, *args), telling=telling, now_ms=now_ms)


def is_for_outlet(policy: str) -> bool:
    """Whether boxes at other terminals hear it too."""
    return policy == AnnouncementPolicy.OUTLET


def listeners_at(tx: Statements, terminals: set[str], *, outlets: bool = False) -> Query:
    """The boxes in service at these terminals, or in their whole `outlets`, locked until the commit."""
    return _listeners(tx, tx.among(1), _LISTENERS_IN_OUTLETS if outlets else _LISTENERS), [sorted(terminals)]


def listeners_of(tx: Statements, found: str) -> Query:
    """The same for the terminals in what a query before it finds (`fetch_all`)."""
    return _listeners(tx, f"= ANY (ARRAY(SELECT terminal_id FROM {found}))"), []


def _listeners(tx: Statements, among: str, listeners: str = _LISTENERS) -> str:
    lock = "" if tx.at_once else f"ORDER BY d.id {tx.lock('d, b')}"
    return listeners.format(version=tx.version("d"), among=among, lock=lock)


async def queue_for_listeners(
    tx: Statements, payments: Sequence[Announced], found: Sequence[Row], *, telling: Telling, now_ms: int
) -> None:
    """The same for who has looked already: `found` are the rows of `listeners_at` for all their terminals, or more."""
    if not payments:
        return
    listeners = _by_terminal(found)
    messages = [
        message
        for payment in payments
        for message in _messages(payment, listeners[payment.terminal_id], telling, now_ms)
    ]
    told = {box.id: box for payment in payments for box in listeners[payment.terminal_id]}
    numbered, versions = [(box.id, box.last_seq) for box in told.values()], [box.version for box in told.values()]
    await tx.many("UPDATE device SET last_seq = $2 WHERE id = $1", numbered, locked=True, versions=versions)
    late = sorted({message.recipient_id for message in messages if message.reason == "reported_late"})
    await tx.many(_LATE, [(device_id, now_ms + LATE_TOGETHER_MS) for device_id in late])
    await outbox.queue(tx, messages, owner=telling.owner)


def _by_terminal(rows: Sequence[Row]) -> defaultdict[str, list[_Listener]]:
    """A box that hears several terminals counts one row of numbers."""
    found: defaultdict[str, list[_Listener]] = defaultdict(list)
    boxes: dict[str, _Listener] = {}
    for row in rows:
        box = boxes.get(row["id"])
        if box is None:
            suspended, online = row["state"] == "suspended", bool(row["online"])
            box = boxes[row["id"]] = _Listener(
                row["id"], row["key_version"], row["last_seq"], row["row_version"], suspended, online,
                row["serial_number"], CODECS[row["codec"]], row["stands_at"], row["bound_at_ms"],
            )  # fmt: skip
        found[row["terminal_id"]].append(box)
    return found


def _heard_by(payment: Announced, boxes: Sequence[_Listener]) -> Sequence[_Listener]:
    """Those of the boxes that can hear it which shall."""
    if payment.device_id is not None:
        return [box for box in boxes if box.id == payment.device_id]
    if is_for_outlet(payment.policy):
        return boxes
    there = [box for box in boxes if box.stands_at == payment.terminal_id]
    if payment.policy == AnnouncementPolicy.PRIMARY:  # a suspended one only where there is no other
        return sorted(there, key=lambda box: (box.suspended, box.bound_at_ms, box.id))[:1]
    return there


def _messages(
    payment: Announced, listeners: Sequence[_Listener], telling: Telling, now_ms: int
) -> list[outbox.Message]:
    heard_by = _heard_by(payment, listeners)
    if not heard_by:
        nobody = payment.device_id or f"terminal:{payment.terminal_id}"
        return [_not_told(payment, nobody, reason="no_device", now_ms=now_ms)]
    return [
        _not_told(payment, box.id, reason=reason, now_ms=now_ms)
        if (reason := _why_not(payment, box)) is not None
        else _message(payment, box, telling, now_ms)
        for box in heard_by
    ]


def _why_not(payment: Announced, box: _Listener) -> str | None:
    if box.suspended:
        return "device_suspended"
    if payment.original_id is not None and not box.codec.traits.tells_replays:
        return "replay_not_supported"  # it would be heard as another payment
    return None


def _message(payment: Announced, box: _Listener, telling: Telling, now_ms: int) -> outbox.Message:
    box.last_seq += 1
    event_id, traits = new_id("ann"), box.codec.traits
    original_id = (payment.originals or {}).get(box.id, payment.original_id)
    said = {  # PaymentSuccess, in its order and from our own records; a test compares the bytes with the model's
        "message_type": "payment_success",
        "event_id": event_id,
        "transaction_id": payment.payment_id,
        "seq": box.last_seq,
        "merchant_name": _name_for_wire(payment.merchant_name),
        "amount": payment.amount,
        "currency": "IDR",
        "paid_at": to_rfc3339(payment.paid_at_ms),
        "issued_at": to_rfc3339(now_ms),
        "expires_at": to_rfc3339(now_ms + telling.life_ms),
    }
    if original_id is not None:
        said["original_event_id"] = original_id
    to = Addressee(device_id=box.id, serial_number=box.serial_number, key_version=box.key_version)
    written = box.codec.payment(to, said, key_of=telling.key_of)
    return outbox.Message(
        id=event_id,
        kind="payment_success",
        recipient_id=box.id,
        address=written.topic,
        body=written.body,
        created_at_ms=now_ms,
        expires_at_ms=now_ms + telling.life_ms,
        trace_id=payment.trace_id,
        subject_id=payment.payment_id,
        original_id=original_id,
        seq=box.last_seq,
        state=_born(payment, box),
        reason="reported_late" if payment.too_late_to_say else None,
        unsigned=traits.unsigned,
        unconfirmed=traits.unconfirmed,
    )


def _born(payment: Announced, box: _Listener) -> Delivery:
    if payment.too_late_to_say:
        return Delivery.EXPIRED
    return Delivery.PUBLISHED if box.online and not box.codec.traits.unconfirmed else Delivery.QUEUED


def _not_told(payment: Announced, recipient_id: str, *, reason: str, now_ms: int) -> outbox.Message:
    return outbox.Message(
        id=new_id("ann"),
        kind="payment_success",
        recipient_id=recipient_id,
        address="",
        body=b"",
        created_at_ms=now_ms,
        expires_at_ms=None,
        trace_id=payment.trace_id,
        subject_id=payment.payment_id,
        original_id=payment.original_id,
        state=Delivery.SUPPRESSED,
        reason=reason,
    )
