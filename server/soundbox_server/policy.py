"""Who may do what: one table of role × route. A route that is not in it is closed to everybody.

A new route gets its line here; a test walks the table for every role and for another tenant.
"""

from soundbox_server.access.auth import DEVICE, PUBLIC, SIGNED, Policy

_STAFF = frozenset({"platform_admin", "operator", "finance", "support"})
_OPERATORS = frozenset({"platform_admin", "operator"})
_FINANCE = frozenset({"platform_admin", "finance"})

POLICY: Policy = {
    # Whoever has no token yet
    ("POST", "/admin/login"): PUBLIC,
    # Boxes, by their own token
    ("POST", "/device/provision/activate"): PUBLIC,
    ("POST", "/device/heartbeat"): DEVICE,
    ("POST", "/device/transactions/dynamic-qr"): DEVICE,
    # Providers, by their signature
    ("POST", "/integrations/qris/callback"): SIGNED,
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
    # Operators
    ("POST", "/admin/devices"): _OPERATORS,
    ("GET", "/admin/devices"): _STAFF,
    ("GET", "/admin/devices/{device_id}"): _STAFF,
    ("PATCH", "/admin/devices/{device_id}"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/heartbeats"): _STAFF,
    ("GET", "/admin/devices/{device_id}/notifications"): _STAFF,
    ("POST", "/admin/devices/{device_id}/activation-code"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/bind"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/unbind"): _OPERATORS,
    ("GET", "/admin/alerts"): _STAFF,
    ("GET", "/admin/alerts/{alert_id}"): _STAFF,
    ("POST", "/admin/alerts/{alert_id}/acknowledge"): _OPERATORS | _FINANCE,
    ("POST", "/admin/alerts/{alert_id}/resolve"): _OPERATORS | _FINANCE,
    ("GET", "/admin/ledger-entries"): _STAFF,
    ("GET", "/admin/audit-logs"): _STAFF,
    ("GET", "/admin/transactions"): _STAFF,
    ("GET", "/admin/transactions/{transaction_id}"): _STAFF,
    ("POST", "/admin/transactions/{transaction_id}/retry-notification"): _OPERATORS,
}
