"""Who may do what: one table of role × route. A route that is not in it is closed to everybody.

A new route gets its line here; a test walks the table for every role, for API keys, and for another tenant.
API keys get further than people nowhere: a key needs the role and one of its scopes must name the route.
"""

from collections.abc import Mapping

from soundbox_server.access.auth import DEVICE, PUBLIC, SIGNED, Policy, Route, Scopes

_STAFF = frozenset({"platform_admin", "operator", "finance", "support"})
_OPERATORS = frozenset({"platform_admin", "operator"})
_ADMIN = frozenset({"platform_admin"})
_MERCHANTS = frozenset({"merchant_owner", "merchant_staff"})
_OWNERS = frozenset({"merchant_owner"})
_FINANCE = frozenset({"platform_admin", "finance"})

POLICY: Policy = {
    # Whoever has no token yet, or brings one of another kind in the body
    ("POST", "/admin/login"): PUBLIC,
    ("POST", "/admin/refresh"): PUBLIC,
    ("POST", "/admin/forgot-password"): PUBLIC,
    ("POST", "/admin/reset-password"): PUBLIC,
    ("POST", "/merchant/login"): PUBLIC,
    ("POST", "/merchant/refresh"): PUBLIC,
    ("POST", "/merchant/forgot-password"): PUBLIC,
    ("POST", "/merchant/reset-password"): PUBLIC,
    # Whoever watches over us
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/health"): PUBLIC,
    ("GET", "/health/deep"): PUBLIC,
    # Boxes, by their own token
    ("POST", "/device/provision/activate"): PUBLIC,
    ("POST", "/device/provision/refresh-credential"): DEVICE,
    ("POST", "/device/heartbeat"): DEVICE,
    ("POST", "/device/commands/ack"): DEVICE,
    ("POST", "/device/transactions/dynamic-qr"): DEVICE,
    # Providers, by their signature
    ("POST", "/integrations/qris/callback"): SIGNED,
    ("POST", "/integrations/bank/payout-callback"): SIGNED,
    ("POST", "/api/v1/webhook/xendit"): SIGNED,
    ("POST", "/api/v1/webhook/midtrans"): SIGNED,
    ("POST", "/api/webhook/paylabs"): SIGNED,
    ("POST", "/integrations/snap/{partner}/v1.0/qr/qr-mpm-notify"): SIGNED,
    ("POST", "/integrations/snap/{partner}/v1.0/access-token/b2b"): SIGNED,
    # Everybody's own account
    ("GET", "/admin/me"): _STAFF,
    ("POST", "/admin/logout"): _STAFF,
    ("POST", "/admin/password"): _STAFF,
    ("POST", "/admin/totp"): _STAFF,
    ("POST", "/admin/totp/confirm"): _STAFF,
    ("POST", "/admin/totp/remove"): _STAFF,
    ("GET", "/admin/sessions"): _STAFF,
    ("DELETE", "/admin/sessions/{session_id}"): _STAFF,
    ("POST", "/merchant/logout"): _MERCHANTS,
    ("POST", "/merchant/password"): _MERCHANTS,
    ("POST", "/merchant/totp"): _MERCHANTS,
    ("POST", "/merchant/totp/confirm"): _MERCHANTS,
    ("POST", "/merchant/totp/remove"): _MERCHANTS,
    ("GET", "/merchant/sessions"): _MERCHANTS,
    ("DELETE", "/merchant/sessions/{session_id}"): _MERCHANTS,
    # Operators: who gets in. Whom an operator may look after: `access/state.py`
    ("POST", "/admin/organisations"): _OPERATORS,
    ("GET", "/admin/organisations"): _STAFF,
    ("GET", "/admin/organisations/{organisation_id}"): _STAFF,
    ("POST", "/admin/people"): _OPERATORS,
    ("GET", "/admin/people"): _STAFF,
    ("GET", "/admin/people/{person_id}"): _STAFF,
    ("PATCH", "/admin/people/{person_id}"): _OPERATORS,
    ("POST", "/admin/people/{person_id}/invite"): _OPERATORS,
    ("DELETE", "/admin/people/{person_id}/totp"): _OPERATORS,
    ("POST", "/admin/api-keys"): _OPERATORS,
    ("GET", "/admin/api-keys"): _STAFF,
    ("GET", "/admin/api-keys/{api_key_id}"): _STAFF,
    ("DELETE", "/admin/api-keys/{api_key_id}"): _OPERATORS,
    ("GET", "/admin/mails"): _STAFF,
    # The registry: operators write it, finance decides where money goes, all staff read
    ("POST", "/admin/merchants"): _OPERATORS,
    ("GET", "/admin/merchants"): _STAFF,
    ("GET", "/admin/merchants/{merchant_id}"): _STAFF,
    ("PATCH", "/admin/merchants/{merchant_id}"): _OPERATORS,
    ("POST", "/admin/merchants/{merchant_id}/approve"): _OPERATORS,
    ("POST", "/admin/merchants/{merchant_id}/reject"): _OPERATORS,
    ("POST", "/admin/merchants/{merchant_id}/suspend"): _OPERATORS,
    ("POST", "/admin/merchants/{merchant_id}/resubmit"): _OPERATORS,
    ("GET", "/admin/account-changes"): _STAFF,
    ("POST", "/admin/merchants/{merchant_id}/account-changes/{change_id}/approve"): _FINANCE,
    ("POST", "/admin/merchants/{merchant_id}/account-changes/{change_id}/refuse"): _OPERATORS | _FINANCE,
    ("POST", "/admin/merchants/{merchant_id}/documents"): _OPERATORS,
    ("POST", "/admin/merchants/{merchant_id}/documents/file"): _OPERATORS,
    ("GET", "/admin/merchants/{merchant_id}/documents"): _STAFF,
    ("PATCH", "/admin/merchants/{merchant_id}/documents/{document_id}"): _OPERATORS,
    ("GET", "/admin/merchants/{merchant_id}/documents/{document_id}/file"): _OPERATORS | _FINANCE,
    ("POST", "/admin/merchants/{merchant_id}/outlets"): _OPERATORS,
    ("GET", "/admin/outlets"): _STAFF,
    ("GET", "/admin/outlets/{outlet_id}"): _STAFF,
    ("PATCH", "/admin/outlets/{outlet_id}"): _OPERATORS,
    ("POST", "/admin/outlets/{outlet_id}/terminals"): _OPERATORS,
    ("GET", "/admin/terminals"): _STAFF,
    ("GET", "/admin/terminals/{terminal_id}"): _STAFF,
    ("PATCH", "/admin/terminals/{terminal_id}"): _OPERATORS,
    ("POST", "/admin/terminals/{terminal_id}/static-qrs"): _OPERATORS,
    ("POST", "/admin/terminals/{terminal_id}/static-qrs/issue"): _OPERATORS,
    ("GET", "/admin/static-qrs"): _STAFF,
    ("GET", "/admin/static-qrs/{static_qr_id}"): _STAFF,
    ("POST", "/admin/static-qrs/{static_qr_id}/retire"): _OPERATORS,
    ("GET", "/admin/static-qrs/{static_qr_id}/qr.png"): _STAFF,
    ("GET", "/admin/static-qrs/{static_qr_id}/qr.svg"): _STAFF,
    ("GET", "/admin/transactions/{transaction_id}/qr.png"): _STAFF,
    ("GET", "/admin/transactions/{transaction_id}/qr.svg"): _STAFF,
    # Operators: boxes and payments
    ("POST", "/admin/devices"): _OPERATORS,
    ("POST", "/admin/devices/bulk"): _OPERATORS,
    ("GET", "/admin/devices"): _STAFF,
    ("GET", "/admin/devices/{device_id}"): _STAFF,
    ("PATCH", "/admin/devices/{device_id}"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/heartbeats"): _STAFF,
    ("GET", "/admin/devices/{device_id}/notifications"): _STAFF,
    ("POST", "/admin/devices/{device_id}/activation-code"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/credentials"): _STAFF,
    ("POST", "/admin/devices/{device_id}/credentials/rotate"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/credentials/revoke"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/suspend"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/resume"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/retire"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/bind"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/bind/confirm"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/unbind"): _OPERATORS,
    ("POST", "/admin/seed"): _ADMIN,
    ("GET", "/admin/health"): _STAFF,
    ("GET", "/admin/health/deep"): _STAFF,
    ("GET", "/admin/alerts"): _STAFF,
    ("GET", "/admin/alerts/{alert_id}"): _STAFF,
    ("POST", "/admin/alerts/{alert_id}/acknowledge"): _OPERATORS | _FINANCE,
    ("POST", "/admin/alerts/{alert_id}/resolve"): _OPERATORS | _FINANCE,
    ("POST", "/admin/exports"): _OPERATORS | _FINANCE,
    ("GET", "/admin/exports"): _OPERATORS | _FINANCE,
    ("GET", "/admin/exports/{export_id}"): _OPERATORS | _FINANCE,
    ("POST", "/admin/exports/{export_id}/cancel"): _OPERATORS | _FINANCE,
    ("GET", "/admin/exports/{export_id}/file"): _OPERATORS | _FINANCE,
    ("GET", "/admin/ledger-entries"): _STAFF,
    ("GET", "/admin/audit-logs"): _STAFF,
    ("POST", "/admin/devices/{device_id}/unbind/confirm"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/commands"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/commands"): _STAFF,
    ("GET", "/admin/devices/{device_id}/commands/{command_id}"): _STAFF,
    ("POST", "/admin/devices/{device_id}/commands/{command_id}/cancel"): _OPERATORS,
    ("GET", "/admin/providers"): _STAFF,
    ("GET", "/admin/providers/credentials"): _STAFF,
    ("POST", "/admin/providers/{provider}/credentials"): _ADMIN,
    ("POST", "/admin/providers/credentials/{credential_id}/rotate"): _ADMIN,
    ("DELETE", "/admin/providers/credentials/{credential_id}"): _ADMIN,
    ("GET", "/admin/providers/routes"): _STAFF,
    ("PUT", "/admin/providers/routes"): _ADMIN,
    ("DELETE", "/admin/providers/routes/{route_id}"): _ADMIN,
    ("GET", "/admin/transactions"): _STAFF,
    ("GET", "/admin/transactions/{transaction_id}"): _STAFF,
    ("POST", "/admin/transactions/{transaction_id}/retry-notification"): _OPERATORS,
    ("POST", "/admin/transactions/{transaction_id}/check-status"): _OPERATORS | _FINANCE,
    ("POST", "/admin/transactions/{transaction_id}/cancel"): _OPERATORS,
    ("POST", "/admin/transactions/{transaction_id}/refund"): _FINANCE,
    ("POST", "/admin/transactions/{transaction_id}/resolve"): _FINANCE,
    ("GET", "/admin/refunds"): _STAFF,
    ("GET", "/admin/refunds/{refund_id}"): _STAFF,
    ("GET", "/admin/provider-reports"): _STAFF,
    ("POST", "/admin/settlements/run"): _FINANCE,
    ("GET", "/admin/settlements"): _STAFF,
    ("GET", "/admin/settlements/{settlement_id}"): _STAFF,
    ("GET", "/admin/settlements/{settlement_id}/items"): _STAFF,
    ("GET", "/admin/fees/profiles"): _STAFF,
    ("GET", "/admin/fees/profiles/{fee_profile_id}"): _STAFF,
    ("POST", "/admin/fees/profiles"): _FINANCE,
    ("POST", "/admin/fees/profiles/{fee_profile_id}/versions"): _FINANCE,
    ("POST", "/admin/provider-reports/{report_id}/assign"): _FINANCE,
    ("POST", "/admin/provider-reports/{report_id}/reject"): _FINANCE,
    ("GET", "/admin/payouts"): _STAFF,
    ("GET", "/admin/payouts/{payout_id}"): _STAFF,
    ("POST", "/admin/payouts/{payout_id}/mark-returned"): _FINANCE,
    ("POST", "/admin/settlements/{settlement_id}/retry-payout"): _FINANCE,
    ("POST", "/admin/settlements/{settlement_id}/mark-paid"): _FINANCE,
    ("GET", "/admin/reconciliation/mappings"): _STAFF,
    ("PUT", "/admin/reconciliation/mappings/{provider}"): _FINANCE,
    ("POST", "/admin/reconciliation/statements"): _FINANCE,
    ("GET", "/admin/reconciliation/statements"): _STAFF,
    ("GET", "/admin/reconciliation/statements/{statement_id}"): _STAFF,
    ("GET", "/admin/reconciliation/differences"): _STAFF,
    ("POST", "/admin/reconciliation/differences/{difference_id}/settle"): _FINANCE,
    ("GET", "/admin/reconciliation/report"): _STAFF,
    ("GET", "/admin/reconciliation/totals"): _STAFF,
    ("GET", "/admin/reconciliation/ledger-checks"): _STAFF,
    # Merchants' own programs, in the words of reference 002 and reference 000
    ("POST", "/api/v1/pos/payments"): _MERCHANTS,
    ("GET", "/api/v1/pos/payments/{reference_id}"): _MERCHANTS,
    ("POST", "/api/v1/pos/payments/{reference_id}/simulate"): _MERCHANTS,
    ("POST", "/api/v1/pos/offline/batch-sync"): _MERCHANTS,
    ("GET", "/api/v1/pos/offline/conflicts"): _MERCHANTS,
    ("POST", "/api/v1/pos/offline/conflicts/{conflict_id}/resolve"): _OWNERS,
    ("POST", "/api/transactions/create"): _MERCHANTS,
    ("GET", "/api/transactions"): _MERCHANTS,
    ("GET", "/api/transactions/{transaction_id}"): _MERCHANTS,
    ("GET", "/api/transactions/{transaction_id}/check-status"): _MERCHANTS,
}

# What a key can be given. What is in no scope is for people alone: their own accounts, people and keys; and decisions
# that somebody answers for, on merchants, on their papers, and on where they are paid.
SCOPES: Scopes = {
    "account:read": frozenset({("GET", "/admin/me")}),
    "organisations:read": frozenset(
        {("GET", "/admin/organisations"), ("GET", "/admin/organisations/{organisation_id}")}
    ),
    "merchants:read": frozenset({("GET", "/admin/merchants"), ("GET", "/admin/merchants/{merchant_id}")}),
    "merchants:write": frozenset({("POST", "/admin/merchants"), ("PATCH", "/admin/merchants/{merchant_id}")}),
    "account-changes:read": frozenset({("GET", "/admin/account-changes")}),
    "documents:read": frozenset(
        {
            ("GET", "/admin/merchants/{merchant_id}/documents"),
            ("GET", "/admin/merchants/{merchant_id}/documents/{document_id}/file"),
        }
    ),
    "documents:write": frozenset(
        {
            ("POST", "/admin/merchants/{merchant_id}/documents"),
            ("POST", "/admin/merchants/{merchant_id}/documents/file"),
        }
    ),
    "outlets:read": frozenset({("GET", "/admin/outlets"), ("GET", "/admin/outlets/{outlet_id}")}),
    "outlets:write": frozenset(
        {("POST", "/admin/merchants/{merchant_id}/outlets"), ("PATCH", "/admin/outlets/{outlet_id}")}
    ),
    "terminals:read": frozenset({("GET", "/admin/terminals"), ("GET", "/admin/terminals/{terminal_id}")}),
    "terminals:write": frozenset(
        {("POST", "/admin/outlets/{outlet_id}/terminals"), ("PATCH", "/admin/terminals/{terminal_id}")}
    ),
    "devices:read": frozenset(
        {
            ("GET", "/admin/devices"),
            ("GET", "/admin/devices/{device_id}"),
            ("GET", "/admin/devices/{device_id}/heartbeats"),
            ("GET", "/admin/devices/{device_id}/notifications"),
            ("GET", "/admin/devices/{device_id}/credentials"),
        }
    ),
    "devices:write": frozenset(
        {
            ("POST", "/admin/devices"),
            ("POST", "/admin/devices/bulk"),
            ("PATCH", "/admin/devices/{device_id}"),
            ("POST", "/admin/devices/{device_id}/activation-code"),
            ("POST", "/admin/devices/{device_id}/bind"),
            ("POST", "/admin/devices/{device_id}/bind/confirm"),
            ("POST", "/admin/devices/{device_id}/unbind"),
            ("POST", "/admin/devices/{device_id}/unbind/confirm"),
        }
    ),
    "devices:service": frozenset(  # out of it and back: what silences a box is given apart
        {
            ("POST", "/admin/devices/{device_id}/credentials/rotate"),
            ("POST", "/admin/devices/{device_id}/credentials/revoke"),
            ("POST", "/admin/devices/{device_id}/suspend"),
            ("POST", "/admin/devices/{device_id}/resume"),
            ("POST", "/admin/devices/{device_id}/retire"),
        }
    ),
    "commands:read": frozenset(
        {
            ("GET", "/admin/devices/{device_id}/commands"),
            ("GET", "/admin/devices/{device_id}/commands/{command_id}"),
        }
    ),
    "commands:write": frozenset(
        {
            ("POST", "/admin/devices/{device_id}/commands"),
            ("POST", "/admin/devices/{device_id}/commands/{command_id}/cancel"),
        }
    ),
    "static-qrs:read": frozenset(
        {
            ("GET", "/admin/static-qrs"),
            ("GET", "/admin/static-qrs/{static_qr_id}"),
            ("GET", "/admin/static-qrs/{static_qr_id}/qr.png"),
            ("GET", "/admin/static-qrs/{static_qr_id}/qr.svg"),
        }
    ),
    "static-qrs:write": frozenset(
        {
            ("POST", "/admin/terminals/{terminal_id}/static-qrs"),
            ("POST", "/admin/terminals/{terminal_id}/static-qrs/issue"),
            ("POST", "/admin/static-qrs/{static_qr_id}/retire"),
        }
    ),
    "transactions:read": frozenset(
        {
            ("GET", "/admin/transactions/{transaction_id}/qr.png"),
            ("GET", "/admin/transactions/{transaction_id}/qr.svg"),
            ("GET", "/admin/transactions"),
            ("GET", "/admin/transactions/{transaction_id}"),
            ("GET", "/admin/provider-reports"),
        }
    ),
    "transactions:write": frozenset(
        {
            ("POST", "/admin/transactions/{transaction_id}/retry-notification"),
            ("POST", "/admin/transactions/{transaction_id}/check-status"),
            ("POST", "/admin/transactions/{transaction_id}/cancel"),
        }
    ),
    "refunds:read": frozenset({("GET", "/admin/refunds"), ("GET", "/admin/refunds/{refund_id}")}),
    "refunds:write": frozenset({("POST", "/admin/transactions/{transaction_id}/refund")}),
    "settlements:read": frozenset(
        {
            ("GET", "/admin/settlements"),
            ("GET", "/admin/settlements/{settlement_id}"),
            ("GET", "/admin/settlements/{settlement_id}/items"),
        }
    ),
    "settlements:write": frozenset({("POST", "/admin/settlements/run")}),
    "fees:read": frozenset({("GET", "/admin/fees/profiles"), ("GET", "/admin/fees/profiles/{fee_profile_id}")}),
    "ledger-entries:read": frozenset({("GET", "/admin/ledger-entries")}),
    "payouts:read": frozenset({("GET", "/admin/payouts"), ("GET", "/admin/payouts/{payout_id}")}),
    "payouts:write": frozenset({("POST", "/admin/settlements/{settlement_id}/retry-payout")}),
    "reconciliation:read": frozenset(
        {
            ("GET", "/admin/reconciliation/mappings"),
            ("GET", "/admin/reconciliation/statements"),
            ("GET", "/admin/reconciliation/statements/{statement_id}"),
            ("GET", "/admin/reconciliation/differences"),
            ("GET", "/admin/reconciliation/report"),
            ("GET", "/admin/reconciliation/totals"),
            ("GET", "/admin/reconciliation/ledger-checks"),
        }
    ),
    "reconciliation:write": frozenset(
        {
            ("PUT", "/admin/reconciliation/mappings/{provider}"),
            ("POST", "/admin/reconciliation/statements"),
        }
    ),
    "audit-logs:read": frozenset({("GET", "/admin/audit-logs")}),
    "alerts:read": frozenset({("GET", "/admin/alerts"), ("GET", "/admin/alerts/{alert_id}")}),
    "alerts:write": frozenset(
        {("POST", "/admin/alerts/{alert_id}/acknowledge"), ("POST", "/admin/alerts/{alert_id}/resolve")}
    ),
    "exports:read": frozenset(
        {
            ("GET", "/admin/exports"),
            ("GET", "/admin/exports/{export_id}"),
            ("GET", "/admin/exports/{export_id}/file"),
        }
    ),
    "exports:write": frozenset({("POST", "/admin/exports"), ("POST", "/admin/exports/{export_id}/cancel")}),
    "mails:read": frozenset({("GET", "/admin/mails")}),
    "health:read": frozenset({("GET", "/admin/health"), ("GET", "/admin/health/deep")}),
    "payments:read": frozenset(
        {
            ("GET", "/api/v1/pos/payments/{reference_id}"),
            ("GET", "/api/transactions"),
            ("GET", "/api/transactions/{transaction_id}"),
            ("GET", "/api/transactions/{transaction_id}/check-status"),
        }
    ),
    "offline:read": frozenset({("GET", "/api/v1/pos/offline/conflicts")}),
    "offline:write": frozenset(
        {
            ("POST", "/api/v1/pos/offline/batch-sync"),
            ("POST", "/api/v1/pos/offline/conflicts/{conflict_id}/resolve"),
        }
    ),
    "payments:write": frozenset(
        {
            ("POST", "/api/v1/pos/payments"),
            ("POST", "/api/v1/pos/payments/{reference_id}/simulate"),
            ("POST", "/api/transactions/create"),
        }
    ),
}

# Where somebody gets who must set up a second factor first.
OPEN_WITHOUT_TOTP: frozenset[Route] = frozenset(
    {
        ("GET", "/admin/me"),
        ("POST", "/admin/logout"),
        ("POST", "/admin/totp"),
        ("POST", "/admin/totp/confirm"),
    }
)

# A whole list leaves the house at once: fewer may have it than may look at its pages.
EXPORTS: Mapping[str, frozenset[str]] = {
    "transactions": _OPERATORS | _FINANCE,
    "refunds": _OPERATORS | _FINANCE,
    "ledger_entries": _FINANCE,
    "settlements": _OPERATORS | _FINANCE,
    "settlement_items": _FINANCE,
    "payouts": _FINANCE,
    "transfers": _FINANCE,
    "differences": _FINANCE,
    "daily_totals": _FINANCE,
    "merchants": _OPERATORS | _FINANCE,
    "outlets": _OPERATORS | _FINANCE,
    "terminals": _OPERATORS | _FINANCE,
    "devices": _OPERATORS,
    "heartbeats": _OPERATORS,
    "audit_logs": _ADMIN,
}

# A key that exports a list, or fetches the file, needs the scope that reads the list besides.
EXPORT_SCOPES: Mapping[str, str] = {
    "transactions": "transactions:read",
    "refunds": "refunds:read",
    "ledger_entries": "ledger-entries:read",
    "settlements": "settlements:read",
    "settlement_items": "settlements:read",
    "payouts": "payouts:read",
    "transfers": "payouts:read",
    "differences": "reconciliation:read",
    "daily_totals": "reconciliation:read",
    "merchants": "merchants:read",
    "outlets": "outlets:read",
    "terminals": "terminals:read",
    "devices": "devices:read",
    "heartbeats": "devices:read",
    "audit_logs": "audit-logs:read",
}
