"""Who may do what: one table of role × route. A route that is not in it is closed to everybody.

A new route gets its line here; a test walks the table for every role and for another tenant.
"""

from soundbox_server.access.auth import DEVICE, PUBLIC, SIGNED, Policy

_STAFF = frozenset({"platform_admin", "operator", "finance", "support"})
_OPERATORS = frozenset({"platform_admin", "operator"})

POLICY: Policy = {
    # Whoever has no token yet
    ("POST", "/admin/login"): PUBLIC,
    # Boxes, by their own token
    ("POST", "/device/provision/activate"): PUBLIC,
    ("POST", "/device/heartbeat"): DEVICE,
    ("POST", "/device/commands/ack"): DEVICE,
    ("POST", "/device/transactions/dynamic-qr"): DEVICE,
    # Providers, by their signature
    ("POST", "/integrations/qris/callback"): SIGNED,
    # Operators
    ("POST", "/admin/devices"): _OPERATORS,
    ("GET", "/admin/devices"): _STAFF,
    ("GET", "/admin/devices/{device_id}"): _STAFF,
    ("GET", "/admin/devices/{device_id}/notifications"): _STAFF,
    ("POST", "/admin/devices/{device_id}/activation-code"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/bind"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/bind/confirm"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/unbind"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/unbind/confirm"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/commands"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/commands"): _STAFF,
    ("GET", "/admin/devices/{device_id}/commands/{command_id}"): _STAFF,
    ("POST", "/admin/devices/{device_id}/commands/{command_id}/cancel"): _OPERATORS,
    ("GET", "/admin/transactions"): _STAFF,
    ("GET", "/admin/transactions/{transaction_id}"): _STAFF,
    ("POST", "/admin/transactions/{transaction_id}/retry-notification"): _OPERATORS,
}
