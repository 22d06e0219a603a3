"""Lists of consents, looks and loan applications, for whoever they are to be shown to."""

from sqlalchemy import ColumnElement, or_, select

from soundbox_server.access.models import Organisation, Person
from soundbox_server.fields import Id, Moment
from soundbox_server.lending.models import BankConsent, BankLook, LoanApplication
from soundbox_server.lending.seen import holds
from soundbox_server.lending.state import LoanState, LookedAt, Side
from soundbox_server.lending.views import application_view, consent_view, look_view
from soundbox_server.merchants.models import Merchant
from soundbox_server.paging import Listing, Page, Rows, between, matching


class ConsentFilters(Page):
    merchant_id: Id | None = None
    bank_id: Id | None = None


class LookFilters(Page):
    merchant_id: Id | None = None
    bank_id: Id | None = None
    what: LookedAt | None = None
    from_time: Moment | None = None
    to_time: Moment | None = None


class ApplicationFilters(Page):
    merchant_id: Id | None = None
    bank_id: Id | None = None
    status: LoanState | None = None


def consents(*whose: ColumnElement[bool]) -> Listing[ConsentFilters]:
    def selected(asked: ConsentFilters) -> Rows:
        return matching(
            select(BankConsent, Organisation.name)
            .join(Organisation, Organisation.id == BankConsent.organisation_id)
            .where(*whose),
            (BankConsent.merchant_id, asked.merchant_id), (BankConsent.organisation_id, asked.bank_id),
        )  # fmt: skip

    return Listing(asked=ConsentFilters, key=(BankConsent.id,), select=selected, show=consent_view)


def looks(*whose: ColumnElement[bool]) -> Listing[LookFilters]:
    def selected(asked: LookFilters) -> Rows:
        query = matching(
            select(BankLook, Organisation.name, Person.name)
            .join(Organisation, Organisation.id == BankLook.organisation_id)
            .outerjoin(Person, Person.id == BankLook.actor_id)
            .where(*whose),
            (BankLook.merchant_id, asked.merchant_id), (BankLook.organisation_id, asked.bank_id),
            (BankLook.what, asked.what),
        )  # fmt: skip
        return between(
            query, at=BankLook.at_ms, id_=BankLook.id, prefix="lok", from_ms=asked.from_time, to_ms=asked.to_time
        )

    return Listing(asked=LookFilters, key=(BankLook.id,), select=selected, show=look_view)


def applications(*whose: ColumnElement[bool]) -> Listing[ApplicationFilters]:
    def selected(asked: ApplicationFilters) -> Rows:
        return matching(
            select(LoanApplication).where(*whose),
            (LoanApplication.merchant_id, asked.merchant_id), (LoanApplication.organisation_id, asked.bank_id),
            (LoanApplication.state, asked.status),
        )  # fmt: skip

    return Listing(asked=ApplicationFilters, key=(LoanApplication.id,), select=selected, show=application_view)


def seen_from(side: Side) -> ColumnElement[bool]:
    """Drafts are their maker's own."""
    return or_(LoanApplication.submitted_at_ms.is_not(None), LoanApplication.made_by_side == side.value)


def applications_at(bank_id: str, *, now_ms: int) -> tuple[ColumnElement[bool], ...]:
    """What a bank sees of them: while the merchant lets it see everything."""
    consented = (
        select(BankConsent.id)
        .where(BankConsent.organisation_id == bank_id, BankConsent.merchant_id == LoanApplication.merchant_id)
        .where(BankConsent.scope == "full", *holds(now_ms))
        .exists()
    )
    return LoanApplication.organisation_id == bank_id, seen_from(Side.BANK), consented


def of_organisation(organisation_id: str) -> "ColumnElement[str]":
    """The ids of an organisation's merchants, to be `in_`."""
    return select(Merchant.id).where(Merchant.organisation_id == organisation_id).scalar_subquery()
