"""Texts by a machine: which are wanted, who asks for one, what became of it, and which may be shown.

A text belongs to the figures that it was written from, and is found by them: where they are others, it is not shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.advice import facts as figures
from soundbox_server.advice.asking import Reply
from soundbox_server.advice.facts import PROMPT_VERSION, USES, Facts
from soundbox_server.advice.judging import Judged, with_names
from soundbox_server.advice.models import AdviceText, AdviceWish
from soundbox_server.advice.state import Use, Verdict, WishState, require
from soundbox_server.clock import DAY_MS, jakarta_day
from soundbox_server.db import Row, Statements
from soundbox_server.ids import new_id
from soundbox_server.scoring import looks, seasons
from soundbox_server.scoring.service import score_of
from soundbox_server.scoring.state import Model

MOST_WAITING = 60  # texts that are wanted: nobody is looked at while so many wait
MOST_TRIES = 3
LEASE_MS = 120_000
RETRY_AFTER_S = (60, 600)
KEPT_ANSWER = 4_096


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Figures to write about. `names` are what P1, P2 … stand for."""

    facts: Facts
    names: Sequence[str] = ()


# --- what is wanted -----------------------------------------------------------------------------------------------


async def due_for_a_look(tx: Statements, model: Model, *, limit: int, now_ms: int) -> list[tuple[str, str]]:
    """Merchants whose newest score of this last day nobody looked at yet, and that score; who waited longest is first.
    None while as many texts wait as may."""
    waiting = await tx.fetch("SELECT count(*) AS n FROM advice_wish WHERE state = 'waiting'")
    if waiting[0]["n"] >= MOST_WAITING:
        return []
    rows = await tx.fetch(
        "SELECT c.merchant_id, c.id FROM credit_score c LEFT JOIN advice_look l ON l.merchant_id = c.merchant_id "
        "JOIN merchant m ON m.id = c.merchant_id AND m.erased_at_ms IS NULL "
        "WHERE c.created_at_ms > $1 AND c.model = $2 AND (l.score_id IS NULL OR l.score_id <> c.id) AND NOT EXISTS ("
        "SELECT 1 FROM credit_score n WHERE n.merchant_id = c.merchant_id AND n.model = c.model "
        "AND n.scored_at_ms > c.scored_at_ms) ORDER BY coalesce(l.at_ms, 0), c.merchant_id LIMIT $3",
        now_ms - DAY_MS, model.value, limit,
    )  # fmt: skip
    return [(row["merchant_id"], row["id"]) for row in rows]


async def worth_telling(session: AsyncSession, merchant_id: str, model: Model, *, now_ms: int) -> list[Wanted]:
    """Everything there is to write about a merchant."""
    newest = await looks.newest_score(session, merchant_id, model)
    today = date.fromisoformat(jakarta_day(now_ms))
    timing = seasons.best_week(await looks.verified_by_day(session, merchant_id, now_ms=now_ms), today=today)
    sales, names = figures.of_sales(await looks.sold(session, merchant_id, now_ms=now_ms))
    wanted: list[tuple[Facts | None, Sequence[str]]] = [
        (None if newest is None else figures.of_score(score_of(newest)), ()),
        *((figures.of_warning(one), ()) for one in await looks.standing_warnings(session, merchant_id)),
        (figures.of_timing(timing), ()),
        (sales, names),
    ]
    return [Wanted(facts=facts, names=names) for facts, names in wanted if facts is not None]


async def want(tx: Statements, merchant_id: str, wanted: Sequence[Wanted], *, score_id: str, now_ms: int) -> None:
    """These texts, and no others that nobody has asked for yet: their figures are yesterday's. None of a merchant that
    was erased meanwhile."""
    (merchant,) = await tx.fetch(f"SELECT erased_at_ms FROM merchant WHERE id = $1 {tx.lock('merchant')}", merchant_id)
    if merchant["erased_at_ms"] is not None:
        return
    told = {figures.digest(one.facts): one for one in wanted}
    await tx.execute("DELETE FROM advice_wish WHERE merchant_id = $1 AND state = 'waiting' AND tries = 0", merchant_id)
    await tx.execute(  # whatever kept it from us a day ago may be over
        "DELETE FROM advice_wish WHERE merchant_id = $1 AND state = 'given_up' AND created_at_ms < $2",
        merchant_id, now_ms - DAY_MS,
    )  # fmt: skip
    await tx.many(
        "INSERT INTO advice_wish (id, merchant_id, use, digest, input, names, state, tries, due_at_ms, created_at_ms) "
        "VALUES ($1, $2, $3, $4, $5, $6, 'waiting', 0, $7, $7) ON CONFLICT (merchant_id, use, digest) DO NOTHING",
        [
            [
                new_id("adw"), merchant_id, USES[type(one.facts)].value, digest, figures.spelled(one.facts),
                orjson.dumps(list(one.names)).decode(), now_ms,
            ]
            for digest, one in told.items()
        ],
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO advice_look (merchant_id, score_id, at_ms) VALUES ($1, $2, $3) "
        "ON CONFLICT (merchant_id) DO UPDATE SET score_id = excluded.score_id, at_ms = excluded.at_ms",
        merchant_id, score_id, now_ms,
    )  # fmt: skip


# --- asking for it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A text that this process is to ask for now, for the `tries`th time."""

    id: str
    merchant_id: str
    use: Use
    input: str
    tries: int


async def anything_due(tx: Statements, *, calls_a_day: int, now_ms: int) -> bool:
    """Whether there is something to ask for, and a call left today: looked at before anybody takes a writer's place."""
    spent = await tx.fetch("SELECT calls FROM advice_budget WHERE day = $1", jakarta_day(now_ms))
    if spent and spent[0]["calls"] >= calls_a_day:
        return False
    return bool(await tx.fetch("SELECT 1 FROM advice_wish WHERE state = 'waiting' AND due_at_ms <= $1 LIMIT 1", now_ms))


async def claim(tx: Statements, *, calls_a_day: int, now_ms: int) -> Claimed | None:
    """The text that waits longest, with one of today's calls; None when there is neither."""
    rows = await tx.fetch(
        "SELECT id, merchant_id, use, input, state, tries FROM advice_wish WHERE state = 'waiting' AND due_at_ms <= $1 "
        f"ORDER BY due_at_ms, id LIMIT 1 {tx.lock('advice_wish', skip=True)}",
        now_ms,
    )
    if not rows:
        return None
    (row,) = rows
    if row["tries"] >= MOST_TRIES:  # whoever asked last died over it
        await _end(tx, row, WishState.GIVEN_UP, text_id=None)
        return None
    if not await _one_call_of(tx, calls_a_day, now_ms=now_ms):
        return None
    await tx.execute(
        "UPDATE advice_wish SET tries = tries + 1, due_at_ms = $2 WHERE id = $1", row["id"], now_ms + LEASE_MS
    )
    return Claimed(
        id=row["id"], merchant_id=row["merchant_id"], use=Use(row["use"]), input=row["input"], tries=row["tries"] + 1
    )


async def _one_call_of(tx: Statements, calls_a_day: int, *, now_ms: int) -> bool:
    """Counted before it is made, so that all processes together make no more."""
    return bool(
        await tx.fetch(
            "INSERT INTO advice_budget (day, calls) VALUES ($1, 1) ON CONFLICT (day) DO UPDATE "
            "SET calls = advice_budget.calls + 1 WHERE advice_budget.calls < $2 RETURNING calls",
            jakarta_day(now_ms), calls_a_day,
        )
    )  # fmt: skip


async def settle(
    tx: Statements, claimed: Claimed, reply: Reply, judged: Judged | None, *, model: str, now_ms: int
) -> Verdict:
    """Write down what came of a call. Without a text that may be shown it is tried again, a few times in all."""
    verdict = Verdict.FAILED if judged is None else Verdict.REFUSED if judged.texts is None else Verdict.ACCEPTED
    reason = reply.failure if judged is None else judged.reason
    text_id = new_id("adv")
    await tx.execute(
        "INSERT INTO advice_text (id, merchant_id, use, model, prompt_version, input, answer, verdict, reason, "
        "tokens_in, tokens_out, took_ms, at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        text_id, claimed.merchant_id, claimed.use.value, model, PROMPT_VERSION, claimed.input, _kept(reply, verdict),
        verdict.value, reason, reply.tokens_in, reply.tokens_out, reply.took_ms, now_ms,
    )  # fmt: skip
    rows = await tx.fetch(
        "SELECT id, state FROM advice_wish WHERE id = $1 AND state = 'waiting' AND tries = $2 "
        + tx.lock("advice_wish"),
        claimed.id, claimed.tries,
    )  # fmt: skip
    if not rows:  # its lease ended: somebody else asks, or the figures are others by now
        return verdict
    if verdict is Verdict.ACCEPTED:
        await _end(tx, rows[0], WishState.WRITTEN, text_id=text_id)
    elif claimed.tries >= MOST_TRIES:
        await _end(tx, rows[0], WishState.GIVEN_UP, text_id=None)
    else:
        wait_s = max(RETRY_AFTER_S[claimed.tries - 1], reply.retry_after_s or 0)
        await tx.execute("UPDATE advice_wish SET due_at_ms = $2 WHERE id = $1", claimed.id, now_ms + 1000 * wait_s)
    return verdict


def _kept(reply: Reply, verdict: Verdict) -> str | None:
    """The answer as it came. PostgreSQL keeps no NUL in a text."""
    if reply.content is None:
        return None
    return reply.content if verdict is Verdict.ACCEPTED else reply.content[:KEPT_ANSWER].replace("\0", "\ufffd")


async def _end(tx: Statements, row: Row, state: WishState, *, text_id: str | None) -> None:
    ended = require(row["state"], state)
    await tx.execute("UPDATE advice_wish SET state = $2, text_id = $3 WHERE id = $1", row["id"], ended.value, text_id)


# --- showing it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a machine wrote of figures, by language and field, with the products' names in their places."""

    model: str
    at_ms: int
    texts: Mapping[str, Mapping[str, str]]


async def written_of(session: AsyncSession, merchant_id: str, facts: Facts | None) -> Written | None:
    """The text about exactly these figures; None where there is none."""
    if facts is None:
        return None
    found = await session.execute(
        select(AdviceText.model, AdviceText.at_ms, AdviceText.answer, AdviceWish.names)
        .join(AdviceText, AdviceText.id == AdviceWish.text_id)
        .where(AdviceWish.merchant_id == merchant_id, AdviceWish.use == USES[type(facts)].value)
        .where(AdviceWish.digest == figures.digest(facts))
    )
    row = found.one_or_none()
    return None if row is None else Written(model=row.model, at_ms=row.at_ms, texts=_named(row.answer, row.names))


def _named(answer: str, names: str) -> dict[str, dict[str, str]]:
    said: Mapping[str, Mapping[str, str]] = orjson.loads(answer)
    known: Any = orjson.loads(names)
    return {
        language: {name: with_names(text, known) if known else text for name, text in fields.items()}
        for language, fields in said.items()
    }
