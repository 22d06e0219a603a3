"""Every list that may leave as a file."""

from soundbox_server.audit.routes import AUDIT_LOGS
from soundbox_server.devices.listings import DEVICES, HEARTBEATS
from soundbox_server.exports.kinds import Kinds
from soundbox_server.ledger.routes import LEDGER_ENTRIES
from soundbox_server.merchants.place_routes import OUTLETS, TERMINALS
from soundbox_server.merchants.routes import MERCHANTS
from soundbox_server.payments.listings import TRANSACTIONS
from soundbox_server.payments.review_routes import REFUNDS
from soundbox_server.payouts.routes import PAYOUTS, TRANSFERS
from soundbox_server.privacy.report import personal_data
from soundbox_server.reconciliation.routes import DIFFERENCES, TOTALS
from soundbox_server.revenue.routes import REVENUE
from soundbox_server.settlements.listings import SETTLEMENT_ITEMS, SETTLEMENTS
from soundbox_server.statements.report import statements

# By the name it is asked for; `policy.EXPORTS` says by whom.
EXPORTABLE: Kinds = {
    "transactions": TRANSACTIONS,
    "refunds": REFUNDS,
    "ledger_entries": LEDGER_ENTRIES,
    "settlements": SETTLEMENTS,
    "settlement_items": SETTLEMENT_ITEMS,
    "revenue": REVENUE,
    "payouts": PAYOUTS,
    "transfers": TRANSFERS,
    "differences": DIFFERENCES,
    "daily_totals": TOTALS,
    "merchants": MERCHANTS,
    "outlets": OUTLETS,
    "terminals": TERMINALS,
    "devices": DEVICES,
    "heartbeats": HEARTBEATS,
    "audit_logs": AUDIT_LOGS,
    "statements": statements(),
    "personal_data": personal_data(),
}
