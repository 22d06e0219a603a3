"""Why was it silent? What is known of a payment, its announcement and the box goes in, one sentence comes out.

Pure: the facts are gathered elsewhere. The causes are a table, asked from the top, and the first one that fits is the
answer; so what happened earlier on a payment's way stands above what happened later.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from soundbox_server.devices.presence import Reach
from soundbox_server.outbox.state import Delivery

SKEW_MS = 30_000  # how far box and hub may be apart; protocol
LOW_BATTERY = 10
_MISMATCH = ("amount_mismatch", "currency_mismatch")
_UNPAID = ("created", "awaiting_payment")
_ENDED_UNPAID = ("expired", "cancelled", "failed")


class Cause(StrEnum):
    # The payment
    NOT_PAID_YET = "not_paid_yet"
    ENDED_UNPAID = "ended_unpaid"
    WRONG_AMOUNT = "wrong_amount"
    IN_REVIEW = "in_review"
    # Whom it was for
    NO_DEVICE = "no_device"
    OTHER_TERMINAL = "other_terminal"
    NOT_BOUND_THEN = "not_bound_then"
    POLICY = "policy"
    NOT_ANNOUNCED = "not_announced"
    SUSPENDED = "suspended"
    SUPPRESSED = "suppressed"
    REPORTED_LATE = "reported_late"
    # What the box said of it
    PLAYED = "played"
    PLAYED_AT_VOLUME_0 = "played_at_volume_0"
    DIGESTED = "digested"
    AUDIO_FAULT = "audio_fault"
    INTERRUPTED = "interrupted"
    NO_PLAY_REPORT = "no_play_report"
    FAILED_IN_BOX = "failed_in_box"
    CLOCK_SKEW = "clock_skew"
    ARRIVED_LATE = "arrived_late"
    REJECTED = "rejected"
    SAID_BEFORE = "said_before"
    BEING_PLAYED = "being_played"
    # The way to it
    UNCONFIRMED = "unconfirmed"
    QUARANTINED = "quarantined"
    WAITS_FOR_BOX = "waits_for_box"
    ON_ITS_WAY = "on_its_way"
    BROKER_AWAY = "broker_away"
    SIGNATURE_REFUSED = "signature_refused"
    NOT_UNDERSTOOD = "not_understood"
    OFFLINE_THEN = "offline_then"
    NO_ANSWER = "no_answer"
    # The box as it is now
    OUT_OF_SERVICE = "out_of_service"
    NEVER_ACTIVATED = "never_activated"
    NEVER_CONNECTED = "never_connected"
    OFFLINE = "offline"
    STALE = "stale"
    NOT_BOUND = "not_bound"
    SPEAKER_FAULT = "speaker_fault"
    VOLUME_0 = "volume_0"
    WRONG_CLOCK = "wrong_clock"
    SILENT_SPEAKER = "silent_speaker"
    UNSIGNED = "unsigned"
    LOW_BATTERY = "low_battery"
    CONNECTING = "connecting"
    WELL = "well"


@dataclass(frozen=True, kw_only=True)
class PaymentFacts:
    id: str
    state: str
    amount: int
    review_reason: str | None
    late: bool
    paid_at_ms: int | None
    captured_at_ms: int | None
    told_elsewhere: int = 0  # announcements of it for other boxes
    told_nobody: bool = False  # suppressed, because no box stood at its terminal


@dataclass(frozen=True, kw_only=True)
class AnnouncementFacts:
    """The newest announcement of the payment for this box."""

    id: str
    state: str
    reason: str | None
    attempts: int
    created_at_ms: int
    published_at_ms: int | None
    received_at_ms: int | None
    played_at_ms: int | None
    finished_at_ms: int | None
    expires_at_ms: int | None
    broker_took: bool | None = None  # None: the log of messages says nothing of it


@dataclass(frozen=True, kw_only=True)
class BoxFacts:
    id: str
    state: str
    bound: bool
    reach: Reach | None  # None: it was never heard of
    offline_reason: str | None = None
    quarantine: str | None = None
    changed_at_ms: int | None = None
    heartbeat_at_ms: int | None = None
    heard_at_ms: int | None = None
    volume: int | None = None
    speaker_fault: bool = False
    clock_skew_ms: int | None = None
    battery_level: int | None = None
    verifies_signatures: bool = True
    silent_speaker: bool = False
    refused_signatures: bool = False  # it said so lately


@dataclass(frozen=True, kw_only=True)
class ThenFacts:
    """The box at the time of the announcement."""

    stood_at_terminal: bool
    stood_elsewhere: bool
    online: bool
    quarantined: bool = False
    volume: int | None = None
    clock_skew_ms: int | None = None
    events: frozenset[str] = frozenset()  # codes of what it complained of while the announcement lived


@dataclass(frozen=True, kw_only=True)
class Facts:
    now_ms: int
    box: BoxFacts
    payment: PaymentFacts | None = None
    then: ThenFacts | None = None
    announcement: AnnouncementFacts | None = None


HopState = Literal["ok", "failed", "waiting", "not_reached", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One step on the way from the customer's money to the shopkeeper's ear."""

    hop: str
    state: HopState
    at_ms: int | None = None
    detail: str | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    cause: Cause
    id: str  # the sentence in Indonesian
    en: str
    hops: tuple[Hop, ...] = field(default=())


def diagnose(facts: Facts) -> Diagnosis:
    """What happened to a payment at this box or, without a payment, what is the matter with the box now."""
    rules = _OF_THE_BOX if facts.payment is None else _OF_A_PAYMENT
    cause = next(cause for cause, fits in rules if fits(facts))
    indonesian, english = SENTENCES[cause]
    said = _said(facts)
    hops = _hops(facts) if facts.payment is not None else ()
    return Diagnosis(cause=cause, id=indonesian.format_map(said), en=english.format_map(said), hops=hops)


Rule = tuple[Cause, Callable[[Facts], bool]]


def _payment(facts: Facts) -> PaymentFacts:
    assert facts.payment is not None
    return facts.payment


def _then(facts: Facts) -> ThenFacts:
    assert facts.then is not None
    return facts.then


def _told(facts: Facts) -> AnnouncementFacts:
    assert facts.announcement is not None
    return facts.announcement


def _is(*states: Delivery, reason: str | None = None) -> Callable[[Facts], bool]:
    """There is an announcement for this box in one of these states."""

    def fits(facts: Facts) -> bool:
        told = facts.announcement
        return told is not None and told.state in states and reason in (None, told.reason)

    return fits


def _skewed(facts: Facts) -> bool:
    return abs(_then(facts).clock_skew_ms or 0) > SKEW_MS


def _alive(facts: Facts) -> bool:
    """Still to be said."""
    told = facts.announcement
    if told is None or told.state not in (Delivery.QUEUED, Delivery.PUBLISHED):
        return False
    return told.expires_at_ms is None or facts.now_ms < told.expires_at_ms


def _not_reached(facts: Facts) -> bool:
    """Its time is over, and the box never said that it has it."""
    told = facts.announcement
    lost = (Delivery.EXPIRED, Delivery.QUEUED, Delivery.PUBLISHED)
    return told is not None and told.state in lost and not _alive(facts)


D = Delivery
_OF_A_PAYMENT: Sequence[Rule] = (
    (Cause.NOT_PAID_YET, lambda f: _payment(f).state in _UNPAID),
    (Cause.ENDED_UNPAID, lambda f: _payment(f).state in _ENDED_UNPAID),
    (Cause.WRONG_AMOUNT, lambda f: _payment(f).state == "needs_review" and _payment(f).review_reason in _MISMATCH),
    (Cause.IN_REVIEW, lambda f: _payment(f).state == "needs_review"),
    (Cause.NO_DEVICE, lambda f: f.announcement is None and _payment(f).told_nobody),
    (Cause.OTHER_TERMINAL, lambda f: f.announcement is None and _then(f).stood_elsewhere),
    (Cause.NOT_BOUND_THEN, lambda f: f.announcement is None and not _then(f).stood_at_terminal),
    (Cause.POLICY, lambda f: f.announcement is None and _payment(f).told_elsewhere > 0),
    (Cause.NOT_ANNOUNCED, lambda f: f.announcement is None),
    (Cause.PLAYED_AT_VOLUME_0, lambda f: _is(D.PLAYED)(f) and _then(f).volume == 0),
    (Cause.PLAYED, _is(D.PLAYED)),
    (Cause.SUSPENDED, _is(D.SUPPRESSED, reason="device_suspended")),
    (Cause.SUPPRESSED, _is(D.SUPPRESSED)),
    (Cause.DIGESTED, _is(D.DIGESTED)),
    (Cause.REPORTED_LATE, _is(D.EXPIRED, reason="reported_late")),
    (Cause.AUDIO_FAULT, _is(D.FAILED, reason="audio_fault")),
    (Cause.INTERRUPTED, _is(D.FAILED, reason="interrupted")),
    (Cause.NO_PLAY_REPORT, _is(D.FAILED, reason="no_play_report")),
    (Cause.NO_PLAY_REPORT, _is(D.FAILED, reason="activated_again")),
    (Cause.FAILED_IN_BOX, _is(D.FAILED)),
    (Cause.CLOCK_SKEW, lambda f: _is(D.STALE_SKIPPED)(f) and _skewed(f)),
    (Cause.ARRIVED_LATE, _is(D.STALE_SKIPPED)),
    (Cause.REJECTED, _is(D.REJECTED)),
    (Cause.SAID_BEFORE, _is(D.DUPLICATE)),
    (Cause.BEING_PLAYED, _is(D.RECEIVED)),
    (Cause.UNCONFIRMED, _is(D.SENT)),
    (Cause.QUARANTINED, lambda f: (_alive(f) or _not_reached(f)) and _then(f).quarantined),
    (Cause.WAITS_FOR_BOX, lambda f: _alive(f) and not _then(f).online),
    (Cause.ON_ITS_WAY, _alive),
    (Cause.SIGNATURE_REFUSED, lambda f: _not_reached(f) and "bad_signature" in _then(f).events),
    (Cause.NOT_UNDERSTOOD, lambda f: _not_reached(f) and "malformed_message" in _then(f).events),
    (Cause.OFFLINE_THEN, lambda f: _not_reached(f) and not _then(f).online),
    (Cause.BROKER_AWAY, lambda f: _not_reached(f) and (_told(f).broker_took is False or _told(f).attempts == 0)),
    (Cause.NO_ANSWER, lambda _facts: True),
)  # fmt: skip
_OF_THE_BOX: Sequence[Rule] = (
    (Cause.OUT_OF_SERVICE, lambda f: f.box.state in ("revoked", "retired")),
    (Cause.SUSPENDED, lambda f: f.box.state == "suspended"),
    (Cause.NEVER_ACTIVATED, lambda f: f.box.state == "registered"),
    (Cause.QUARANTINED, lambda f: f.box.quarantine is not None),
    (Cause.NEVER_CONNECTED, lambda f: f.box.reach is None),
    (Cause.OFFLINE, lambda f: f.box.reach is Reach.OFFLINE),
    (Cause.NOT_BOUND, lambda f: not f.box.bound),
    (Cause.STALE, lambda f: f.box.reach is Reach.STALE),
    (Cause.SPEAKER_FAULT, lambda f: f.box.speaker_fault),
    (Cause.VOLUME_0, lambda f: f.box.volume == 0),
    (Cause.SIGNATURE_REFUSED, lambda f: f.box.refused_signatures),
    (Cause.WRONG_CLOCK, lambda f: abs(f.box.clock_skew_ms or 0) > SKEW_MS),
    (Cause.SILENT_SPEAKER, lambda f: f.box.silent_speaker),
    (Cause.LOW_BATTERY, lambda f: f.box.battery_level is not None and f.box.battery_level <= LOW_BATTERY),
    (Cause.CONNECTING, lambda f: f.box.reach is Reach.CONNECTING),
    (Cause.UNSIGNED, lambda f: not f.box.verifies_signatures),
    (Cause.WELL, lambda _facts: True),
)


def _said(facts: Facts) -> Mapping[str, object]:
    """What the sentences may name."""
    payment, told, then = facts.payment, facts.announcement, facts.then
    skew_ms = then.clock_skew_ms if then is not None else facts.box.clock_skew_ms
    played_after = None if told is None or told.played_at_ms is None else told.played_at_ms - told.created_at_ms
    return {
        "state": payment.state if payment else facts.box.state,
        "box_state": facts.box.state,
        "reason": (told.reason if told else None) or (payment.review_reason if payment else None) or "-",
        "quarantine": facts.box.quarantine or "quarantine",
        "offline_reason": facts.box.offline_reason or "-",
        "attempts": told.attempts if told else 0,
        "elsewhere": payment.told_elsewhere if payment else 0,
        "seconds": "-" if played_after is None else f"{played_after / 1000:.1f}",
        "skew_s": round(abs(skew_ms or 0) / 1000),
        "battery": facts.box.battery_level,
    }


# --- the hops -----------------------------------------------------------------------------------------------------


def _hops(facts: Facts) -> tuple[Hop, ...]:
    payment, then, told = _payment(facts), _then(facts), facts.announcement
    paid = payment.captured_at_ms is not None and payment.state != "needs_review"
    hops = [Hop(hop="paid", state=_paid(payment), at_ms=payment.paid_at_ms, detail=payment.review_reason)]
    hops.append(Hop(hop="recorded", state="ok" if paid else "not_reached", at_ms=payment.captured_at_ms))
    stood: HopState = "ok" if then.stood_at_terminal or told is not None else "failed"
    hops.append(Hop(hop="device_bound", state=stood if paid else "not_reached"))
    if told is None:
        announced: HopState = "failed" if paid and stood == "ok" else "not_reached"
        rest = ("published", "broker", "device_online", "received", "played")
        return (*hops, Hop(hop="announced", state=announced), *(Hop(hop=name, state="not_reached") for name in rest))
    suppressed = told.state == Delivery.SUPPRESSED
    hops.append(
        Hop(hop="announced", state="failed" if suppressed else "ok", at_ms=told.created_at_ms, detail=told.reason)
    )
    alive = _alive(facts)
    hops.append(_published(told, alive=alive))
    hops.append(Hop(hop="broker", state=_broker(told, alive=alive)))
    hops.append(Hop(hop="device_online", state="ok" if then.online or told.received_at_ms else "failed"))
    hops.append(_received(told, alive=alive))
    hops.append(_played(told, facts))
    return tuple(hops)


def _paid(payment: PaymentFacts) -> HopState:
    if payment.state in _UNPAID:
        return "waiting"
    return "failed" if payment.state in _ENDED_UNPAID or payment.state == "needs_review" else "ok"


def _published(told: AnnouncementFacts, *, alive: bool) -> Hop:
    detail = f"attempts={told.attempts}"
    if told.published_at_ms is not None:
        return Hop(hop="published", state="ok", at_ms=told.published_at_ms, detail=detail)
    return Hop(hop="published", state="waiting" if alive else "not_reached", detail=detail)


def _broker(told: AnnouncementFacts, *, alive: bool) -> HopState:
    if told.received_at_ms is not None or told.broker_took:
        return "ok"
    if told.published_at_ms is None:
        return "waiting" if alive else "not_reached"
    return "failed" if told.broker_took is False else "unknown"


def _received(told: AnnouncementFacts, *, alive: bool) -> Hop:
    if told.received_at_ms is not None:
        return Hop(hop="received", state="ok", at_ms=told.received_at_ms)
    if told.state in (Delivery.REJECTED, Delivery.STALE_SKIPPED, Delivery.FAILED, Delivery.PLAYED):
        return Hop(hop="received", state="ok", at_ms=told.finished_at_ms)
    if told.state in (Delivery.SENT, Delivery.SUPPRESSED):
        return Hop(hop="received", state="unknown" if told.state == Delivery.SENT else "not_reached")
    return Hop(hop="received", state="waiting" if alive else "failed")


def _played(told: AnnouncementFacts, facts: Facts) -> Hop:
    if told.state == Delivery.PLAYED:
        volume = _then(facts).volume
        detail = None if volume is None else f"volume={volume}"
        return Hop(hop="played", state="failed" if volume == 0 else "ok", at_ms=told.played_at_ms, detail=detail)
    if told.state in (Delivery.FAILED, Delivery.REJECTED, Delivery.STALE_SKIPPED, Delivery.EXPIRED):
        state: HopState = "failed" if told.state != Delivery.EXPIRED or told.received_at_ms else "not_reached"
        return Hop(hop="played", state=state, at_ms=told.finished_at_ms, detail=told.reason)
    if told.state == Delivery.SENT:
        return Hop(hop="played", state="unknown")
    return Hop(hop="played", state="waiting" if told.state == Delivery.RECEIVED or _alive(facts) else "not_reached")


# --- the sentences ------------------------------------------------------------------------------------------------

SENTENCES: Mapping[Cause, tuple[str, str]] = {
    Cause.NOT_PAID_YET: (
        "Pembayaran ini belum dibayar, jadi belum ada yang diumumkan.",
        "This payment has not been paid yet, so there is nothing to announce.",
    ),
    Cause.ENDED_UNPAID: (
        "Pembayaran ini berakhir tanpa dibayar ({state}).",
        "This payment ended without being paid ({state}).",
    ),
    Cause.WRONG_AMOUNT: (
        "Jumlah yang dibayar berbeda dari yang diminta; uangnya ditahan untuk diperiksa dan tidak diumumkan.",
        "Another amount was paid than was asked for; the money is kept for review and was not announced.",
    ),
    Cause.IN_REVIEW: (
        "Uangnya masuk, tetapi harus diperiksa dahulu ({reason}), jadi tidak diumumkan.",
        "Money came in, but it has to be reviewed first ({reason}), so it was not announced.",
    ),
    Cause.NO_DEVICE: (
        "Saat dibayar tidak ada perangkat di terminal ini.",
        "No box stood at this terminal when it was paid.",
    ),
    Cause.OTHER_TERMINAL: (
        "Saat dibayar perangkat ini berada di terminal lain.",
        "This box stood at another terminal when it was paid.",
    ),
    Cause.NOT_BOUND_THEN: (
        "Saat dibayar perangkat ini tidak terpasang di terminal mana pun.",
        "This box was bound to no terminal when it was paid.",
    ),
    Cause.POLICY: (
        "Menurut aturan merchant, pembayaran ini diumumkan oleh perangkat lain ({elsewhere}), bukan yang ini.",
        "By the merchant's policy it was for other boxes ({elsewhere}) to announce, not for this one.",
    ),
    Cause.NOT_ANNOUNCED: (
        "Pembayaran ini tidak diumumkan di perangkat mana pun, misalnya karena dibayar terlambat lalu dikembalikan.",
        "This payment was announced nowhere, as one that was paid late and given back is not.",
    ),
    Cause.SUSPENDED: (
        "Perangkat ini ditangguhkan, jadi tidak diberi tahu.",
        "This box is suspended, so it is told nothing.",
    ),
    Cause.SUPPRESSED: (
        "Pengumuman untuk perangkat ini ditahan ({reason}).",
        "The announcement for this box was held back ({reason}).",
    ),
    Cause.REPORTED_LATE: (
        "Penyedia melaporkan pembayaran ini terlalu lambat untuk diucapkan.",
        "The provider reported this payment too late for it to be spoken.",
    ),
    Cause.PLAYED: (
        "Perangkat mengucapkannya {seconds} detik setelah pembayaran dicatat.",
        "The box spoke it {seconds} seconds after the payment was recorded.",
    ),
    Cause.PLAYED_AT_VOLUME_0: (
        "Perangkat memutarnya, tetapi volumenya 0.",
        "The box played it, but its volume was 0.",
    ),
    Cause.DIGESTED: (
        "Perangkat tidak terjangkau; pembayaran ini disebut kemudian dalam ringkasan.",
        "The box could not be reached; this payment was told later, in a digest.",
    ),
    Cause.AUDIO_FAULT: (
        "Perangkat menerimanya, tetapi pengeras suaranya rusak.",
        "The box had it, but its speaker did not work.",
    ),
    Cause.INTERRUPTED: (
        "Perangkat menerimanya, lalu mati atau menyala ulang sebelum mengucapkannya.",
        "The box had it, and then lost power or restarted before it could speak.",
    ),
    Cause.NO_PLAY_REPORT: (
        "Perangkat menerimanya, tetapi tidak pernah melaporkan bahwa sudah diucapkan.",
        "The box had it, but never said that it was played.",
    ),
    Cause.FAILED_IN_BOX: (
        "Perangkat menerimanya, tetapi gagal mengucapkannya ({reason}).",
        "The box had it, but failed to speak it ({reason}).",
    ),
    Cause.CLOCK_SKEW: (
        "Jam perangkat meleset {skew_s} detik, sehingga pengumuman dianggap kedaluwarsa.",
        "The box's clock is off by {skew_s} seconds, so it took the announcement for an old one.",
    ),
    Cause.ARRIVED_LATE: (
        "Pengumuman sampai di perangkat setelah masa berlakunya habis.",
        "The announcement reached the box after its time was over.",
    ),
    Cause.REJECTED: (
        "Perangkat menolak pengumuman ini ({reason}).",
        "The box refused the announcement ({reason}).",
    ),
    Cause.SAID_BEFORE: (
        "Perangkat sudah pernah menerima pengumuman ini dan tidak mengulanginya.",
        "The box had had this announcement before and did not repeat it.",
    ),
    Cause.BEING_PLAYED: (
        "Perangkat sudah menerimanya dan belum melaporkan bahwa sudah diucapkan.",
        "The box has it and has not said yet that it was played.",
    ),
    Cause.UNCONFIRMED: (
        "Sudah dikirim, tetapi model perangkat ini tidak pernah melaporkan apa yang diucapkannya.",
        "It was sent, but boxes of this model never say what they played.",
    ),
    Cause.QUARANTINED: (
        "Perangkat dikarantina ({quarantine}): tidak ada yang dikirim kepadanya.",
        "The box is in quarantine ({quarantine}): nothing is sent to it.",
    ),
    Cause.WAITS_FOR_BOX: (
        "Perangkat sedang tidak terhubung; pengumuman menunggu selama masih berlaku.",
        "The box is offline; the announcement waits for it for as long as it is good.",
    ),
    Cause.ON_ITS_WAY: (
        "Pengumuman sedang dikirim ke perangkat ({attempts} kali sejauh ini).",
        "The announcement is on its way to the box (sent {attempts} times so far).",
    ),
    Cause.BROKER_AWAY: (
        "Perangkat terhubung, tetapi broker tidak menerima pengumuman dari hub.",
        "The box was online, but the broker did not take the announcement from the hub.",
    ),
    Cause.SIGNATURE_REFUSED: (
        "Perangkat menolak tanda tangan pesan: kuncinya tidak cocok, aktifkan ulang.",
        "The box refuses our signatures: its key does not fit, activate it again.",
    ),
    Cause.NOT_UNDERSTOOD: (
        "Perangkat menerima pesan tetapi tidak dapat membacanya.",
        "The box got the message but could not read it.",
    ),
    Cause.OFFLINE_THEN: (
        "Perangkat tidak terhubung selama pengumuman berlaku.",
        "The box was offline for as long as the announcement was good.",
    ),
    Cause.NO_ANSWER: (
        "Dikirim {attempts} kali, perangkat tampak terhubung, tetapi tidak pernah menjawab.",
        "It was sent {attempts} times and the box seemed online, but it never answered.",
    ),
    Cause.OUT_OF_SERVICE: (
        "Perangkat ini tidak lagi dipakai ({box_state}).",
        "This box is out of service ({box_state}).",
    ),
    Cause.NEVER_ACTIVATED: (
        "Perangkat ini belum pernah diaktifkan.",
        "This box has never been activated.",
    ),
    Cause.NEVER_CONNECTED: (
        "Perangkat ini sudah diaktifkan, tetapi belum pernah terhubung.",
        "This box is activated, but has never connected.",
    ),
    Cause.OFFLINE: (
        "Perangkat tidak terhubung ({offline_reason}).",
        "The box is offline ({offline_reason}).",
    ),
    Cause.STALE: (
        "Perangkat masih terhubung, tetapi detaknya terlambat.",
        "The box is still connected, but its heartbeats are missing.",
    ),
    Cause.NOT_BOUND: (
        "Perangkat ini tidak terpasang di terminal mana pun.",
        "This box is bound to no terminal.",
    ),
    Cause.SPEAKER_FAULT: (
        "Pengeras suara perangkat rusak.",
        "The box reports that its speaker does not work.",
    ),
    Cause.VOLUME_0: (
        "Volume perangkat 0.",
        "The volume of the box is 0.",
    ),
    Cause.WRONG_CLOCK: (
        "Jam perangkat meleset {skew_s} detik.",
        "The clock of the box is off by {skew_s} seconds.",
    ),
    Cause.SILENT_SPEAKER: (
        "Perangkat tampak baik, tetapi pembayaran terakhir tidak ada yang diucapkannya.",
        "The box seems well, but it played none of the last payments.",
    ),
    Cause.UNSIGNED: (
        "Perangkat berfungsi, tetapi tidak memeriksa tanda tangan pesan.",
        "The box is well, but it does not verify signatures.",
    ),
    Cause.LOW_BATTERY: (
        "Baterai perangkat tinggal {battery} %.",
        "The battery of the box is down to {battery} %.",
    ),
    Cause.CONNECTING: (
        "Perangkat baru saja terhubung dan belum mengirim detak.",
        "The box has just connected and has not sent a heartbeat yet.",
    ),
    Cause.WELL: (
        "Perangkat terhubung dan dapat berbicara.",
        "The box is online and can speak.",
    ),
}
