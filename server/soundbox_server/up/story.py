"""What has happened, as far as one sees it: boxes' events and the hub's records, folded into one picture.

Nothing here does anything; the view draws it, and the tests read it.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any, Literal

Hop = Literal["asked", "paid", "announced", "received", "played"]
HOPS: tuple[Hop, ...] = ("asked", "paid", "announced", "received", "played")
REMEMBERED = 200
_WORTH_TELLING = ("qr_failed", "stale_skipped", "rejected", "interrupted", "bad_signature", "audio_fault")


@dataclass
class BoxSeen:
    """One simulated box."""

    device_id: str
    serial_number: str
    online: bool = False
    bound: bool = False
    played: int = 0
    last_amount_idr: int | None = None
    last_played_ms: int | None = None
    wav: str | None = None


@dataclass
class PaymentSeen:
    """One payment's way: when each hop happened, in ms since 1970."""

    transaction_id: str
    device_id: str
    amount_idr: int
    hops: dict[Hop, int] = field(default_factory=dict)
    state: str | None = None
    told: bool = False

    @property
    def finished(self) -> bool:
        """By a static QR nobody asked for it."""
        return all(hop in self.hops for hop in HOPS if hop != "asked")

    @property
    def latency_ms(self) -> int | None:
        """From the committed payment to the box that has it; what the loudspeaker then takes is not the hub's doing."""
        if "paid" not in self.hops or "received" not in self.hops:
            return None
        return max(0, self.hops["received"] - self.hops["paid"])


class Story:
    """The boxes, the latest payments, counts, and lines worth reading."""

    def __init__(self) -> None:
        self.boxes: dict[str, BoxSeen] = {}
        self.payments: OrderedDict[str, PaymentSeen] = OrderedDict()
        self.asked = 0
        self.played = 0
        self._asked_at: dict[str, int] = {}

    def know(self, device_id: str, serial_number: str, *, bound: bool) -> None:
        self.boxes.setdefault(device_id, BoxSeen(device_id, serial_number)).bound = bound

    def hear(self, event: dict[str, Any]) -> str | None:
        """Take in one event of a box; returns a line when it is worth one."""
        box, what, at_ms = self._box(str(event["device_id"])), str(event["what"]), _ms(str(event["at"]))
        match what:
            case "online" | "offline":
                box.online = what == "online"
                return f"{box.serial_number} is {what}"
            case "qr_asked":
                self.asked += 1
                self._asked_at[box.device_id] = at_ms
            case "qr_shown":
                payment = self._payment(event, box)
                payment.hops["asked"] = self._asked_at.pop(box.device_id, at_ms)
                return f"{box.serial_number} shows a QR over {rupiah(payment.amount_idr)}  {payment.transaction_id}"
            case "announced":
                self._payment(event, box).hops["received"] = at_ms
            case "played":
                self.played += 1
                box.played += 1
                box.last_amount_idr, box.last_played_ms, box.wav = event["amount"], at_ms, event.get("wav")
                self._payment(event, box).hops["played"] = at_ms
            case what if what in _WORTH_TELLING:
                facts = [str(event[name]) for name in ("error_code", "reason", "detail") if event.get(name)]
                return " ".join([box.serial_number, what.replace("_", " "), *facts])
            case _:
                pass
        return None

    def learn(self, transaction_id: str, *, state: str, paid_at_ms: int | None, announced_at_ms: int | None) -> None:
        """What the hub's record says of a payment that a box has shown."""
        payment = self.payments.get(transaction_id)
        if payment is None:
            return
        payment.state = state
        if paid_at_ms is not None:
            payment.hops["paid"] = paid_at_ms
        if announced_at_ms is not None:
            payment.hops["announced"] = announced_at_ms

    def newly_finished(self) -> list[PaymentSeen]:
        """Payments that have come all their way, each returned once."""
        found = [payment for payment in self.payments.values() if payment.finished and not payment.told]
        for payment in found:
            payment.told = True
        return found

    def unfinished(self) -> list[str]:
        return [payment.transaction_id for payment in self.payments.values() if not payment.finished]

    def latest(self, most: int) -> list[PaymentSeen]:
        return list(reversed(self.payments.values()))[:most]

    def median_latency_ms(self) -> int | None:
        known = [payment.latency_ms for payment in self.payments.values() if payment.latency_ms is not None]
        return round(median(known)) if known else None

    def everybody_offline(self) -> None:
        """The process that runs the boxes has ended."""
        for box in self.boxes.values():
            box.online = False

    def _box(self, name: str) -> BoxSeen:
        """By its device id, or by its serial number: before it is activated a box knows no other name."""
        by_serial = (box for box in self.boxes.values() if box.serial_number == name)
        return self.boxes.get(name) or next(by_serial, None) or self.boxes.setdefault(name, BoxSeen(name, name))

    def _payment(self, event: dict[str, Any], box: BoxSeen) -> PaymentSeen:
        transaction_id = str(event["transaction_id"])
        if transaction_id not in self.payments:
            self.payments[transaction_id] = PaymentSeen(transaction_id, box.device_id, int(event["amount"] or 0))
            while len(self.payments) > REMEMBERED:
                self.payments.popitem(last=False)
        return self.payments[transaction_id]


def rupiah(amount_idr: int | None) -> str:
    """`Rp50.000`, as on a price tag."""
    return "–" if amount_idr is None else f"Rp{amount_idr:,}".replace(",", ".")


def told_in_a_line(payment: PaymentSeen, box: BoxSeen) -> str:
    asked, paid = payment.hops.get("asked"), payment.hops["paid"]
    steps = ["paid by a static QR" if asked is None else f"QR asked, paid after {(paid - asked) / 1000:.1f} s"]
    steps += [f"{hop} +{max(0, payment.hops[hop] - paid)} ms" for hop in HOPS[2:]]
    return f"{payment.transaction_id}  {rupiah(payment.amount_idr)}  {box.serial_number}: {', '.join(steps)}"


def _ms(rfc3339: str) -> int:
    return round(datetime.fromisoformat(rfc3339.replace("Z", "+00:00")).timestamp() * 1000)
