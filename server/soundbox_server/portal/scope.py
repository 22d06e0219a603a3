"""Whose it is: lists of one organisation's own merchants, for its doors and for its files."""

from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute

from soundbox_server.devices.listings import DEVICES, DeviceFilters
from soundbox_server.devices.models import DeviceBinding
from soundbox_server.exports.kinds import Kinds
from soundbox_server.merchants.models import Merchant, Outlet
from soundbox_server.merchants.place_routes import OUTLETS, OutletFilters
from soundbox_server.paging import Asked, Listing, Rows
from soundbox_server.payments.listings import TRANSACTIONS, TransactionFilters
from soundbox_server.payments.models import Payment
from soundbox_server.portal.settlements import OWN_SETTLEMENTS, OwnSettlementFilters
from soundbox_server.portal.views import TRANSACTION_COLUMNS, own_device_view, own_transaction_view
from soundbox_server.privacy.report import personal_data
from soundbox_server.settlements.models import Settlement
from soundbox_server.statements.report import statements


def _theirs(listing: Listing[Asked], merchant_id: InstrumentedAttribute[Any], organisation_id: str) -> Listing[Asked]:
    """The same list, of this organisation's merchants alone."""
    ours = select(Merchant.id).where(Merchant.organisation_id == organisation_id)

    def of_them(asked: Asked) -> Rows:
        return listing.select(asked).where(merchant_id.in_(ours))

    return replace(listing, select=of_them)


def transactions_of(organisation_id: str) -> Listing[TransactionFilters]:
    listing = _theirs(TRANSACTIONS, Payment.merchant_id, organisation_id)
    return replace(listing, show=own_transaction_view, columns=TRANSACTION_COLUMNS)


def outlets_of(organisation_id: str) -> Listing[OutletFilters]:
    return _theirs(OUTLETS, Outlet.merchant_id, organisation_id)


def devices_of(organisation_id: str) -> Listing[DeviceFilters]:
    """Boxes that stand at their tills now."""
    return replace(_theirs(DEVICES, DeviceBinding.merchant_id, organisation_id), show=own_device_view)


def settlements_of(organisation_id: str) -> Listing[OwnSettlementFilters]:
    return _theirs(OWN_SETTLEMENTS, Settlement.merchant_id, organisation_id)


def files_of(organisation_id: str) -> Kinds:
    """What an organisation may have as a file, of its own."""
    return {
        "transactions": transactions_of(organisation_id),
        "settlements": settlements_of(organisation_id),
        "statements": statements(organisation_id=organisation_id),
        "personal_data": personal_data(organisation_id=organisation_id),
    }
