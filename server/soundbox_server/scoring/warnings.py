"""Early warnings as they stand: one of a type per merchant, told once to its owners and to all who may hear of it,
ended when the cause is gone. A bank with thresholds of its own has warnings of its own, by the same measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from soundbox_server.access.mails import Desk
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.db import Row, Statements
from soundbox_server.ids import new_id
from soundbox_server.mail.service import Mail, queue_mail
from soundbox_server.scoring.early_warning import Measures, Thresholds, Warning, judge
from soundbox_server.scoring.state import PLATFORM, WarningSeverity, WarningState, WarningType, require
from soundbox_server.scoring.thresholds import own_of, sharing
from soundbox_server.webhooks.service import Event, heard_by, tell

_OPEN = """
INSERT INTO early_warning (id, merchant_id, judged_for, type, severity, state, metric, value_hundredths,
                           threshold_hundredths, deviation_hundredths, detected_at_ms, seen_at_ms)
VALUES ($1, $2, $3, $4, $5, 'open', $6, $7, $8, $9, $10, $10)
ON CONFLICT (merchant_id, judged_for, type) WHERE state = 'open' DO NOTHING
RETURNING id, merchant_id, judged_for, type, severity, state, metric, value_hundredths, threshold_hundredths,
          detected_at_ms
"""
_SEE = """
UPDATE early_warning SET severity = $2, value_hundredths = $3, threshold_hundredths = $4, deviation_hundredths = $5,
                         seen_at_ms = $6
WHERE id = $1 AND state = 'open'
"""
_Key = tuple[str, str, WarningType]  # merchant, whom it is judged for, type


class Watching(Protocol):
    """By merchant, the organisations that may hear of its warnings at this moment."""

    async def __call__(
        self, tx: Statements, merchant_ids: Sequence[str], *, now_ms: int
    ) -> Mapping[str, Sequence[str]]: ...


async def nobody(tx: Statements, merchant_ids: Sequence[str], *, now_ms: int) -> Mapping[str, Sequence[str]]:
    """Where nobody but the merchant is told."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """Who hears of a merchant's warnings besides itself: banks, by its consent, and partners that charge for it. What
    becomes of its score is none of a partner's business."""

    banks: Watching = nobody
    partners: Watching = nobody


ITSELF = Hearing()


async def follow(
    tx: Statements,
    measures: Mapping[str, Measures],
    *,
    thresholds: Thresholds,
    desk: Desk,
    hearing: Hearing = ITSELF,
    trace_id: str,
    now_ms: int,
) -> dict[str, list[Warning]]:
    """Open, renew and end the warnings of these merchants; returns what is new by the platform's thresholds, by
    merchant. Its owners get a mail; who may hear of it gets an event, in this transaction."""
    banks = await hearing.banks(tx, list(measures), now_ms=now_ms)
    own = await own_of(tx, sorted({bank for some in banks.values() for bank in some}), default=thresholds)
    wanted = _wanted(measures, thresholds, banks, own)
    known = {_key(row): row for row in await _standing(tx, list(measures))}
    await tx.many(
        _SEE, [_renewed(known[key]["id"], one, now_ms) for key, one in sorted(wanted.items()) if key in known]
    )
    ended = [row for key, row in known.items() if key not in wanted]
    await _end(tx, ended, now_ms=now_ms)
    opened: list[Row] = []
    for key, one in sorted(wanted.items()):
        # Somebody else may have opened it since we looked, and has told the owners.
        if key not in known:
            opened += await tx.fetch(_OPEN, *_row(key, one, now_ms))
    partners = await hearing.partners(tx, list(measures), now_ms=now_ms) if opened or ended else {}
    await _tell_addresses(tx, opened, ended, _Hearers(banks=banks, own=set(own), partners=partners), now_ms=now_ms)
    new: dict[str, list[Warning]] = {}
    for row in opened:
        if row["judged_for"] == PLATFORM:
            new.setdefault(row["merchant_id"], []).append(wanted[_key(row)])
    await _tell(tx, new, desk=desk, trace_id=trace_id, now_ms=now_ms)
    return new


def _wanted(
    measures: Mapping[str, Measures],
    thresholds: Thresholds,
    banks: Mapping[str, Sequence[str]],
    own: Mapping[str, Thresholds],
) -> dict[_Key, Warning]:
    """What is to stand. A merchant is judged once by each set of thresholds, however many banks share it."""
    wanted = {
        (merchant_id, PLATFORM, one.type): one
        for merchant_id, told in measures.items()
        for one in judge(told, thresholds)
    }
    for theirs, sharers in sharing(own):
        for merchant_id, told in measures.items():
            if watching := sharers.intersection(banks.get(merchant_id, ())):
                wanted |= {(merchant_id, bank, one.type): one for one in judge(told, theirs) for bank in watching}
    return wanted


def _key(row: Row) -> _Key:
    return row["merchant_id"], row["judged_for"], WarningType(row["type"])


async def _standing(tx: Statements, merchant_ids: list[str]) -> Sequence[Row]:
    """Under their locks: of two who follow the same merchant, one ends a warning, and tells of it."""
    return await tx.fetch(
        "SELECT id, merchant_id, judged_for, type, severity, state, metric, value_hundredths, threshold_hundredths, "
        f"detected_at_ms FROM early_warning WHERE state = 'open' AND merchant_id {tx.among(1)} ORDER BY id "
        + tx.lock("early_warning"),
        merchant_ids,
    )


def _row(key: _Key, one: Warning, now_ms: int) -> list[object]:
    merchant_id, judged_for, kind = key
    return [
        new_id("ewn"), merchant_id, judged_for, kind.value, one.severity.value, one.metric, *_figures(one), now_ms
    ]  # fmt: skip


def _renewed(warning_id: str, one: Warning, now_ms: int) -> list[object]:
    return [warning_id, one.severity.value, *_figures(one), now_ms]


def _figures(one: Warning) -> list[int]:
    return [round(100 * figure) for figure in (one.value, one.threshold, one.deviation)]


async def _end(tx: Statements, rows: Sequence[Row], *, now_ms: int) -> None:
    resolved = [[row["id"], require(row["state"], WarningState.RESOLVED).value, now_ms] for row in rows]
    await tx.many(
        "UPDATE early_warning SET state = $2, resolved_at_ms = $3 WHERE id = $1 AND state = 'open'", sorted(resolved)
    )


# Telling those who hear by their own addresses


@dataclass(frozen=True, kw_only=True)
class _Hearers:
    """Who may hear now: whoever lost that right since a warning opened does not hear of its end."""

    banks: Mapping[str, Sequence[str]]
    own: set[str]  # of the banks, those with thresholds of their own
    partners: Mapping[str, Sequence[str]]

    def of(self, row: Row, merchants_own: str) -> list[str]:
        banks = self.banks.get(row["merchant_id"], ())
        if row["judged_for"] != PLATFORM:
            return [row["judged_for"]] if row["judged_for"] in banks else []
        partners = () if row["type"] == WarningType.SCORE_DROP else self.partners.get(row["merchant_id"], ())
        return list(dict.fromkeys([merchants_own, *(bank for bank in banks if bank not in self.own), *partners]))


async def _tell_addresses(
    tx: Statements, opened: Sequence[Row], ended: Sequence[Row], hearers: _Hearers, *, now_ms: int
) -> None:
    if not opened and not ended:
        return
    merchants = await tx.fetch(
        f"SELECT id, organisation_id FROM merchant WHERE id {tx.among(1)}",
        sorted({row["merchant_id"] for row in [*opened, *ended]}),
    )
    owner_of = {row["id"]: row["organisation_id"] for row in merchants}
    told = [
        (organisation_id, row, resolved_at_ms)
        for rows, resolved_at_ms in ((opened, None), (ended, now_ms))
        for row in rows
        for organisation_id in hearers.of(row, owner_of[row["merchant_id"]])
    ]
    listening = await heard_by(tx, sorted({organisation_id for organisation_id, _, _ in told}))
    await tell(
        tx,
        [
            Event(
                type="warning.opened" if resolved_at_ms is None else "warning.resolved",
                organisation_id=organisation_id,
                merchant_id=row["merchant_id"],
                at_ms=now_ms,
                data=_said(row, resolved_at_ms),
            )
            for organisation_id, row, resolved_at_ms in told
            if organisation_id in listening
        ],
    )


def _said(row: Row, resolved_at_ms: int | None) -> dict[str, object]:
    state = WarningState.OPEN if resolved_at_ms is None else WarningState.RESOLVED
    return {
        "warning_id": row["id"],
        "merchant_id": row["merchant_id"],
        "warning": row["type"],
        "severity": row["severity"],
        "status": state.value,
        "metric": row["metric"],
        "value": row["value_hundredths"] / 100,
        "threshold": row["threshold_hundredths"] / 100,
        "detected_at": rfc3339(row["detected_at_ms"]),
        "resolved_at": rfc3339_or_none(resolved_at_ms),
    }


# Telling the owners

_SUBJECT = {
    "id": "Peringatan dini untuk {shop}",
    "en": "Early warning for {shop}",
}
_TEXT = {
    "id": """Halo {name},

Kami melihat perubahan pada penjualan {shop}:

{lines}

Peringatan ini berakhir dengan sendirinya setelah keadaannya pulih.
""",
    "en": """Hello {name},

We noticed a change in the trade of {shop}:

{lines}

A warning ends by itself once things are as they were.
""",
}
SENTENCES: Mapping[WarningType, Mapping[str, str]] = {
    WarningType.REVENUE_DROP: {
        "id": "Pendapatan harian turun {value} % (batas {threshold} %).",
        "en": "Daily revenue fell by {value} % (threshold {threshold} %).",
    },
    WarningType.REFUND_SPIKE: {
        "id": "Tingkat pengembalian dana naik {value} poin persen (batas {threshold}).",
        "en": "The refund rate rose by {value} percentage points (threshold {threshold}).",
    },
    WarningType.SETTLEMENT_DELAY: {
        "id": "Pencairan dana rata-rata {value} hari (batas {threshold} hari).",
        "en": "Payouts take {value} days on average (threshold {threshold} days).",
    },
    WarningType.TRANSACTION_DROP: {
        "id": "Jumlah transaksi turun {value} % (batas {threshold} %).",
        "en": "The number of transactions fell by {value} % (threshold {threshold} %).",
    },
    WarningType.SCORE_DROP: {
        "id": "Skor kredit turun {value} poin (batas {threshold}).",
        "en": "The credit score fell by {value} points (threshold {threshold}).",
    },
}
_SEVERITIES = {
    WarningSeverity.LOW: {"id": "ringan", "en": "low"},
    WarningSeverity.MEDIUM: {"id": "sedang", "en": "medium"},
    WarningSeverity.CRITICAL: {"id": "kritis", "en": "critical"},
}


def sentence(kind: WarningType, language: str, *, value: float, threshold: float) -> str:
    """What a warning says, in a sentence."""
    figures = {"value": f"{value:g}", "threshold": f"{threshold:g}"}
    if language == "id":
        figures = {name: figure.replace(".", ",") for name, figure in figures.items()}
    return SENTENCES[kind][language].format(**figures)


async def _tell(
    tx: Statements, opened: Mapping[str, Sequence[Warning]], *, desk: Desk, trace_id: str, now_ms: int
) -> None:
    if not opened:
        return
    owners = await tx.fetch(
        "SELECT m.id AS merchant_id, m.brand_name, p.id, p.email, p.name, p.language FROM merchant m "
        "JOIN person p ON p.organisation_id = m.organisation_id AND p.role = 'merchant_owner' AND p.state = 'active' "
        f"WHERE m.id {tx.among(1)} ORDER BY m.id, p.id",
        list(opened),
    )
    for owner in owners:
        mail = _mail(owner, opened[owner["merchant_id"]])
        await queue_mail(tx, mail, ring=desk.ring, owner=desk.owner, trace_id=trace_id, now_ms=now_ms)


def _mail(owner: Row, warnings: Sequence[Warning]) -> Mail:
    language: str = owner["language"]
    lines = "\n".join(
        f"- {sentence(one.type, language, value=one.value, threshold=one.threshold)} "
        f"({_SEVERITIES[one.severity][language]})"
        for one in warnings
    )
    return Mail(
        kind="early_warning",
        person_id=owner["id"],
        to=owner["email"],
        subject=_SUBJECT[language].format(shop=owner["brand_name"]),
        text=_TEXT[language].format(name=owner["name"], shop=owner["brand_name"], lines=lines),
    )
