"""Statements as the exports make them."""

from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server import clock
from soundbox_server.errors import Conflict
from soundbox_server.exports.kinds import Report
from soundbox_server.exports.writing import Form
from soundbox_server.statements.listings import ITEMS, StatementFilters
from soundbox_server.statements.service import facts_of
from soundbox_server.statements.sheet import CsvForm

MOST_ON_PAPER = 20_000  # items: more than 600 pages, and a quarter of a minute of work


def statements(*, organisation_id: str | None = None) -> Report[StatementFilters]:
    """As staff ask for one, or an organisation for one of its own merchants'."""

    async def open_form(session: AsyncSession, asked: StatementFilters, format_: str) -> Form:
        facts = await facts_of(session, asked.settlement_id, organisation_id=organisation_id, now_ms=clock.now_ms())
        items = facts.settlement.payments + facts.settlement.adjustments
        if format_ == "pdf" and items > MOST_ON_PAPER:
            raise Conflict("This settlement is too long for paper: ask for csv.", items=items, most=MOST_ON_PAPER)
        if format_ == "csv":
            return CsvForm(facts)
        from soundbox_server.statements.pdf import PdfForm  # a tenth of the start, which nearly every process can spare

        return PdfForm(facts, asked.language)

    return Report(listing=ITEMS, formats=("pdf", "csv"), open=open_form)
