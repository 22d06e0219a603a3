from collections.abc import Iterable

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.advice.state import Use, Verdict, WishState
from soundbox_server.db import Base


def _among(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


_WAITS = text("state = 'waiting'")


class AdviceWish(Base):
    """A text that is wanted about these figures of a merchant's, once. `digest` is of use, prompt and input.

    `names` is JSON of what the input's placeholders stand for: it never leaves this database. While somebody asks for
    the text, `due_at_ms` lies ahead; who dies over it leaves it to the next.
    """

    __tablename__ = "advice_wish"
    __table_args__ = (
        CheckConstraint(f"use IN ({_among(Use)})", name="advice_wish_use"),
        CheckConstraint(f"state IN ({_among(WishState)})", name="advice_wish_state"),
        CheckConstraint("(state = 'written') = (text_id IS NOT NULL)", name="advice_wish_written_has_a_text"),
        CheckConstraint("tries >= 0", name="advice_wish_counts_up"),
        UniqueConstraint("merchant_id", "use", "digest", name="advice_wish_once"),
        Index("advice_wish_due", "due_at_ms", sqlite_where=_WAITS, postgresql_where=_WAITS),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    use: Mapped[str]
    digest: Mapped[str]
    input: Mapped[str]
    names: Mapped[str]
    state: Mapped[str]
    tries: Mapped[int]
    due_at_ms: Mapped[int] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    text_id: Mapped[str | None] = mapped_column(ForeignKey("advice_text.id"))


class AdviceText(Base):
    """One call of the model and what came of it. Triggers refuse to change or delete a row.

    `input` and `answer` are as they went and came; `answer` has placeholders where products are named.
    """

    __tablename__ = "advice_text"
    __table_args__ = (
        CheckConstraint(f"use IN ({_among(Use)})", name="advice_text_use"),
        CheckConstraint(f"verdict IN ({_among(Verdict)})", name="advice_text_verdict"),
        CheckConstraint("(verdict = 'accepted') = (reason IS NULL)", name="advice_text_refused_why"),
        CheckConstraint("verdict = 'failed' OR answer IS NOT NULL", name="advice_text_has_an_answer"),
        Index("advice_text_by_merchant", "merchant_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    use: Mapped[str]
    model: Mapped[str]
    prompt_version: Mapped[int]
    input: Mapped[str]
    answer: Mapped[str | None]
    verdict: Mapped[str]
    reason: Mapped[str | None]
    tokens_in: Mapped[int | None]
    tokens_out: Mapped[int | None]
    took_ms: Mapped[int]
    at_ms: Mapped[int] = mapped_column(BigInteger)


class AdviceLook(Base):
    """The score of a merchant's that was last looked at for what there is to write about."""

    __tablename__ = "advice_look"

    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"), primary_key=True)
    score_id: Mapped[str] = mapped_column(ForeignKey("credit_score.id"))
    at_ms: Mapped[int] = mapped_column(BigInteger)


class AdviceBudget(Base):
    """How often the model was called on a day in Jakarta, by all processes together."""

    __tablename__ = "advice_budget"

    day: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int]
