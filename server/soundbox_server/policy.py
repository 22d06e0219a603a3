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
_PARTNERS = frozenset({"partner"})
_BANKS = frozenset({"bank"})

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
    # Other makers' boxes prove nothing: answered in a window that an operator opened
    ("GET", "/speaker/dev-config"): PUBLIC,
    ("POST", "/speaker/dev-config"): PUBLIC,
    ("POST", "/device/provision/refresh-credential"): DEVICE,
    ("POST", "/device/heartbeat"): DEVICE,
    ("POST", "/device/commands/ack"): DEVICE,
    ("GET", "/device/config"): DEVICE,
    ("POST", "/device/config/ack"): DEVICE,
    ("POST", "/device/transactions/dynamic-qr"): DEVICE,
    ("POST", "/device/logs"): DEVICE,
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
    ("GET", "/admin/devices/{device_id}/availability"): _STAFF,
    ("POST", "/admin/devices/{device_id}/quarantine/release"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/diagnosis"): _STAFF,
    ("GET", "/admin/devices/{device_id}/latency"): _STAFF,
    ("GET", "/admin/outlets/{outlet_id}/latency"): _STAFF,
    ("GET", "/admin/latency"): _STAFF,
    ("GET", "/admin/devices/{device_id}/mqtt-messages"): _STAFF,
    ("GET", "/admin/devices/{device_id}/events"): _STAFF,
    ("GET", "/admin/devices/{device_id}/logs"): _STAFF,
    ("GET", "/admin/devices/{device_id}/logs/tail"): _STAFF,
    ("GET", "/admin/devices/{device_id}/log-files"): _STAFF,
    ("GET", "/admin/devices/{device_id}/log-files/{log_file_id}/file"): _OPERATORS,
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
    ("POST", "/admin/devices/{device_id}/config-window"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/config-window"): _STAFF,
    ("DELETE", "/admin/devices/{device_id}/config-window"): _OPERATORS,
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
    ("GET", "/admin/revenue"): _STAFF,
    ("GET", "/admin/audit-logs"): _STAFF,
    ("POST", "/admin/devices/{device_id}/unbind/confirm"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/config"): _STAFF,
    ("PATCH", "/admin/devices/{device_id}/config"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/config/status"): _STAFF,
    ("POST", "/admin/devices/{device_id}/config/retry-push"): _OPERATORS,
    ("GET", "/admin/config/fleet"): _STAFF,
    ("PATCH", "/admin/config/fleet"): _OPERATORS,
    ("GET", "/admin/config/merchants/{merchant_id}"): _STAFF,
    ("PATCH", "/admin/config/merchants/{merchant_id}"): _OPERATORS,
    ("POST", "/admin/devices/{device_id}/commands"): _OPERATORS,
    ("GET", "/admin/devices/{device_id}/commands"): _STAFF,
    ("GET", "/admin/devices/{device_id}/commands/{command_id}"): _STAFF,
    ("POST", "/admin/devices/{device_id}/commands/{command_id}/cancel"): _OPERATORS,
    ("POST", "/admin/command-batches"): _OPERATORS,
    ("GET", "/admin/command-batches"): _STAFF,
    ("GET", "/admin/command-batches/{batch_id}"): _STAFF,
    ("GET", "/admin/command-batches/{batch_id}/devices"): _STAFF,
    ("POST", "/admin/command-batches/{batch_id}/approve"): _OPERATORS,
    ("POST", "/admin/command-batches/{batch_id}/refuse"): _OPERATORS,
    ("POST", "/admin/command-batches/{batch_id}/stop"): _OPERATORS,
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
    # Merchants' own people and programs: their shop, and nobody else's
    ("GET", "/merchant/me"): _MERCHANTS,
    ("PATCH", "/merchant/merchants/{merchant_id}"): _OWNERS,
    ("GET", "/merchant/dashboard/summary"): _MERCHANTS,
    ("GET", "/merchant/transactions"): _MERCHANTS,
    ("GET", "/merchant/transactions/{transaction_id}"): _MERCHANTS,
    ("GET", "/merchant/outlets"): _MERCHANTS,
    ("GET", "/merchant/devices"): _MERCHANTS,
    ("GET", "/merchant/settlements"): _MERCHANTS,
    ("GET", "/merchant/settlements/{settlement_id}"): _MERCHANTS,
    ("GET", "/merchant/settlements/{settlement_id}/items"): _MERCHANTS,
    ("POST", "/merchant/exports"): _OWNERS,
    ("GET", "/merchant/exports"): _OWNERS,
    ("GET", "/merchant/exports/{export_id}"): _OWNERS,
    ("POST", "/merchant/exports/{export_id}/cancel"): _OWNERS,
    ("GET", "/merchant/exports/{export_id}/file"): _OWNERS,
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
    ("GET", "/api/v1/pos/payments/{reference_id}/qr.png"): _MERCHANTS,
    ("POST", "/api/v1/pos/payments/{reference_id}/simulate"): _MERCHANTS,
    ("POST", "/api/v1/pos/offline/batch-sync"): _MERCHANTS,
    ("GET", "/api/v1/pos/offline/conflicts"): _MERCHANTS,
    ("POST", "/api/v1/pos/offline/conflicts/{conflict_id}/resolve"): _OWNERS,
    ("POST", "/api/transactions/create"): _MERCHANTS,
    ("GET", "/api/transactions"): _MERCHANTS,
    ("GET", "/api/transactions/{transaction_id}"): _MERCHANTS,
    ("GET", "/api/transactions/{transaction_id}/check-status"): _MERCHANTS,
    # What others hear from us: operators look after everybody's, owners after their own
    ("POST", "/admin/webhooks"): _OPERATORS,
    ("GET", "/admin/webhooks"): _STAFF,
    ("GET", "/admin/webhooks/{webhook_id}"): _STAFF,
    ("PATCH", "/admin/webhooks/{webhook_id}"): _OPERATORS,
    ("POST", "/admin/webhooks/{webhook_id}/rotate"): _OPERATORS,
    ("POST", "/admin/webhooks/{webhook_id}/disable"): _OPERATORS,
    ("POST", "/admin/webhooks/{webhook_id}/enable"): _OPERATORS,
    ("POST", "/admin/webhooks/{webhook_id}/ping"): _OPERATORS,
    ("POST", "/admin/webhooks/{webhook_id}/replay"): _OPERATORS,
    ("GET", "/admin/webhooks/{webhook_id}/deliveries"): _STAFF,
    ("GET", "/admin/webhook-deliveries/{delivery_id}"): _STAFF,
    ("POST", "/admin/webhook-deliveries/{delivery_id}/replay"): _OPERATORS,
    ("POST", "/merchant/webhooks"): _OWNERS,
    ("GET", "/merchant/webhooks"): _OWNERS,
    ("GET", "/merchant/webhooks/{webhook_id}"): _OWNERS,
    ("PATCH", "/merchant/webhooks/{webhook_id}"): _OWNERS,
    ("POST", "/merchant/webhooks/{webhook_id}/rotate"): _OWNERS,
    ("POST", "/merchant/webhooks/{webhook_id}/disable"): _OWNERS,
    ("POST", "/merchant/webhooks/{webhook_id}/enable"): _OWNERS,
    ("POST", "/merchant/webhooks/{webhook_id}/ping"): _OWNERS,
    ("POST", "/merchant/webhooks/{webhook_id}/replay"): _OWNERS,
    ("GET", "/merchant/webhooks/{webhook_id}/deliveries"): _OWNERS,
    ("GET", "/merchant/webhook-deliveries/{delivery_id}"): _OWNERS,
    ("POST", "/merchant/webhook-deliveries/{delivery_id}/replay"): _OWNERS,
    # One login for the programs of references 000 and 003
    ("POST", "/api/auth/login"): PUBLIC,
    ("POST", "/api/auth/register"): PUBLIC,
    ("POST", "/api/auth/refresh"): PUBLIC,
    ("POST", "/api/auth/forgot-password"): PUBLIC,
    ("POST", "/api/auth/request-password-reset"): PUBLIC,
    ("POST", "/api/auth/reset-password"): PUBLIC,
    ("POST", "/api/auth/logout"): _STAFF | _MERCHANTS | _PARTNERS | _BANKS,
    # Partners' programs, in the words of reference 003; what knows an unguessable name needs no key
    ("POST", "/api/partner/payment/generate"): _PARTNERS,
    ("POST", "/api/partner/payment/qris"): _PARTNERS,
    ("GET", "/api/partner/payment/status/{transaction_id}"): _PARTNERS,
    ("GET", "/api/license/validate/{license_key}"): PUBLIC,
    ("GET", "/api/license/validate-ownership/{license_key}"): _PARTNERS,
    ("GET", "/api/license/key/{license_key}"): _PARTNERS,
    ("GET", "/api/admin/license-keys/{license_id}"): _STAFF,
    ("GET", "/api/user/profile"): _PARTNERS,
    ("GET", "/api/user/token-balance"): _PARTNERS,
    ("GET", "/api/user/token-usage-stats"): _PARTNERS,
    ("GET", "/api/user/license/{license_key}/usage"): _PARTNERS,
    ("POST", "/api/user/license-keys/{license_key}/use-token"): _PARTNERS,
    ("POST", "/api/user/assign-license"): _PARTNERS,
    ("POST", "/api/user/regenerate-api-key"): _PARTNERS,
    ("POST", "/api/user/revoke-api-key"): _PARTNERS,
    ("GET", "/api/topup/payment-methods"): _PARTNERS,
    ("GET", "/api/topup/bonus-tiers"): _PARTNERS,
    ("POST", "/api/topup/request"): _PARTNERS,
    ("GET", "/api/topup/check/{topup_id}"): PUBLIC,
    ("GET", "/api/topup/status/{topup_id}"): _PARTNERS,
    ("GET", "/api/topup/history"): _PARTNERS,
    ("POST", "/api/topup/cancel/{topup_id}"): _PARTNERS,
    ("POST", "/api/topup/sync/{topup_id}"): PUBLIC,
    ("GET", "/pay/{session_id}/qr.png"): PUBLIC,
    ("POST", "/admin/license-keys"): _OPERATORS,
    ("GET", "/admin/license-keys"): _STAFF,
    ("GET", "/admin/license-keys/{license_id}"): _STAFF,
    ("PATCH", "/admin/license-keys/{license_id}"): _OPERATORS,
    ("POST", "/admin/license-keys/{license_id}/assign"): _OPERATORS,
    ("POST", "/admin/license-keys/{license_id}/revoke"): _OPERATORS,
    ("POST", "/admin/license-keys/{license_id}/tokens"): _FINANCE,
    # Organisations and wallets, in the words of reference 004. What leaves a wallet is the owner's to say, with the PIN
    ("POST", "/api/v1/org/register"): PUBLIC,
    ("POST", "/api/v1/org/login"): PUBLIC,
    ("GET", "/api/v1/org/profile"): _MERCHANTS,
    ("PUT", "/api/v1/org/profile"): _OWNERS,
    ("PUT", "/api/v1/org/put"): _OWNERS,
    ("POST", "/api/v1/wallets"): _OWNERS,
    ("GET", "/api/v1/wallets"): _MERCHANTS,
    ("POST", "/api/v1/wallets/{wallet_code}/topup"): _MERCHANTS,
    ("POST", "/api/v1/txn/payment-session/{wallet_code}"): _MERCHANTS,
    ("POST", "/api/v1/txn/accept-payment/{trace_id}"): _OWNERS,
    ("POST", "/api/v1/txn/transaction"): _MERCHANTS,
    ("POST", "/api/v1/txn/withdraw"): _OWNERS,
    ("POST", "/api/v1/txn/refund/{trace_id}"): _OWNERS,
    ("POST", "/api/v1/txn/invoices"): _MERCHANTS,
    ("GET", "/api/v1/txn/invoices/{invoice_id}"): _MERCHANTS,
    ("POST", "/api/v1/txn/invoices/{invoice_id}/pay"): PUBLIC,
    ("GET", "/pay/invoices/{invoice_id}"): PUBLIC,
    ("POST", "/pay/invoices/{invoice_id}"): PUBLIC,
    ("GET", "/api/merchant/profile"): _MERCHANTS,
    ("GET", "/api/merchant/dashboard"): _MERCHANTS,
    ("GET", "/api/merchant/credit-detail"): _OWNERS,
    ("GET", "/api/merchant/loan-timing"): _OWNERS,
    ("GET", "/api/merchant/product-insights"): _MERCHANTS,
    ("GET", "/api/merchant/alerts"): _MERCHANTS,
    ("POST", "/api/merchant/recalculate"): _OWNERS,
    # Banks see whom an owner lets them see: their own doors, and in the words of reference 000
    ("POST", "/lending/login"): PUBLIC,
    ("POST", "/lending/refresh"): PUBLIC,
    ("POST", "/lending/forgot-password"): PUBLIC,
    ("POST", "/lending/reset-password"): PUBLIC,
    ("GET", "/lending/me"): _BANKS,
    ("POST", "/lending/logout"): _BANKS,
    ("POST", "/lending/password"): _BANKS,
    ("POST", "/lending/totp"): _BANKS,
    ("POST", "/lending/totp/confirm"): _BANKS,
    ("POST", "/lending/totp/remove"): _BANKS,
    ("GET", "/lending/sessions"): _BANKS,
    ("DELETE", "/lending/sessions/{session_id}"): _BANKS,
    ("GET", "/lending/merchants"): _BANKS,
    ("GET", "/lending/merchants/file"): _BANKS,
    ("GET", "/lending/looks"): _BANKS,
    ("GET", "/lending/loan-applications"): _BANKS,
    ("POST", "/lending/loan-applications"): _BANKS,
    ("GET", "/lending/loan-applications/{application_id}"): _BANKS,
    ("POST", "/lending/loan-applications/{application_id}/submit"): _BANKS,
    ("POST", "/lending/loan-applications/{application_id}/review"): _BANKS,
    ("POST", "/lending/loan-applications/{application_id}/approve"): _BANKS,
    ("POST", "/lending/loan-applications/{application_id}/reject"): _BANKS,
    ("POST", "/lending/loan-applications/{application_id}/disburse"): _BANKS,
    ("POST", "/lending/loan-applications/{application_id}/withdraw"): _BANKS,
    ("GET", "/api/bank/merchants/all"): _BANKS,
    ("POST", "/api/bank/merchants/search"): _BANKS,
    ("GET", "/api/bank/merchants/{merchant_id}"): _BANKS,
    ("GET", "/api/bank/merchants/{merchant_id}/credit"): _BANKS,
    ("GET", "/api/bank/merchants/{merchant_id}/alerts"): _BANKS,
    ("GET", "/api/bank/alerts/{merchant_id}"): _BANKS,
    ("GET", "/api/bank/loan-applications/{merchant_id}"): _BANKS,
    ("POST", "/api/bank/loan-applications"): _BANKS,
    ("POST", "/api/bank/batch-assessment"): _BANKS,
    ("GET", "/merchant/banks"): _OWNERS,
    ("GET", "/merchant/consents"): _OWNERS,
    ("POST", "/merchant/consents"): _OWNERS,
    ("GET", "/merchant/consents/{consent_id}"): _OWNERS,
    ("POST", "/merchant/consents/{consent_id}/withdraw"): _OWNERS,
    ("GET", "/merchant/looks"): _OWNERS,
    ("GET", "/merchant/loan-applications"): _OWNERS,
    ("POST", "/merchant/loan-applications"): _OWNERS,
    ("GET", "/merchant/loan-applications/{application_id}"): _OWNERS,
    ("POST", "/merchant/loan-applications/{application_id}/submit"): _OWNERS,
    ("POST", "/merchant/loan-applications/{application_id}/withdraw"): _OWNERS,
    ("GET", "/admin/consents"): _STAFF,
    ("GET", "/admin/consents/{consent_id}"): _STAFF,
    ("GET", "/admin/looks"): _STAFF,
    ("GET", "/admin/loan-applications"): _STAFF,
    ("GET", "/admin/loan-applications/{application_id}"): _STAFF,
    # Forgetting a merchant: operators and owners ask, somebody else approves
    ("POST", "/merchant/erasures"): _OWNERS,
    ("GET", "/merchant/erasures"): _OWNERS,
    ("POST", "/admin/merchants/{merchant_id}/erasures"): _OPERATORS,
    ("GET", "/admin/erasures"): _STAFF,
    ("GET", "/admin/erasures/{erasure_id}"): _STAFF,
    ("POST", "/admin/erasures/{erasure_id}/approve"): _ADMIN,
    ("POST", "/admin/erasures/{erasure_id}/refuse"): _OPERATORS,
    # From where on it is a warning to a bank
    ("GET", "/admin/organisations/{organisation_id}/warning-thresholds"): _STAFF,
    ("PUT", "/admin/organisations/{organisation_id}/warning-thresholds"): _OPERATORS,
    ("GET", "/lending/warning-thresholds"): _BANKS,
    ("PUT", "/lending/warning-thresholds"): _BANKS,
}

# What a key can be given. What is in no scope is for people alone: their own accounts, people and keys; and decisions
# that somebody answers for, on merchants, on their papers, and on where they are paid.
SCOPES: Scopes = {
    "account:read": frozenset({("GET", "/admin/me"), ("GET", "/lending/me")}),
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
            ("GET", "/admin/devices/{device_id}/availability"),
            ("GET", "/admin/devices/{device_id}/diagnosis"),
            ("GET", "/admin/devices/{device_id}/latency"),
            ("GET", "/admin/outlets/{outlet_id}/latency"),
            ("GET", "/admin/latency"),
            ("GET", "/admin/devices/{device_id}/credentials"),
            ("GET", "/admin/devices/{device_id}/config-window"),
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
            ("POST", "/admin/devices/{device_id}/config-window"),
            ("DELETE", "/admin/devices/{device_id}/config-window"),
        }
    ),
    "devices:service": frozenset(  # out of it and back: what silences a box is given apart
        {
            ("POST", "/admin/devices/{device_id}/credentials/rotate"),
            ("POST", "/admin/devices/{device_id}/credentials/revoke"),
            ("POST", "/admin/devices/{device_id}/suspend"),
            ("POST", "/admin/devices/{device_id}/resume"),
            ("POST", "/admin/devices/{device_id}/retire"),
            ("POST", "/admin/devices/{device_id}/quarantine/release"),
        }
    ),
    "device-logs:read": frozenset(
        {
            ("GET", "/admin/devices/{device_id}/mqtt-messages"),
            ("GET", "/admin/devices/{device_id}/events"),
            ("GET", "/admin/devices/{device_id}/logs"),
            ("GET", "/admin/devices/{device_id}/logs/tail"),
            ("GET", "/admin/devices/{device_id}/log-files"),
            ("GET", "/admin/devices/{device_id}/log-files/{log_file_id}/file"),
        }
    ),
    "commands:read": frozenset(
        {
            ("GET", "/admin/devices/{device_id}/commands"),
            ("GET", "/admin/devices/{device_id}/commands/{command_id}"),
            ("GET", "/admin/command-batches"),
            ("GET", "/admin/command-batches/{batch_id}"),
            ("GET", "/admin/command-batches/{batch_id}/devices"),
        }
    ),
    "commands:write": frozenset(
        {
            ("POST", "/admin/devices/{device_id}/commands"),
            ("POST", "/admin/devices/{device_id}/commands/{command_id}/cancel"),
            ("POST", "/admin/command-batches"),
            ("POST", "/admin/command-batches/{batch_id}/stop"),
        }
    ),
    "config:read": frozenset(
        {
            ("GET", "/admin/devices/{device_id}/config"),
            ("GET", "/admin/devices/{device_id}/config/status"),
            ("GET", "/admin/config/fleet"),
            ("GET", "/admin/config/merchants/{merchant_id}"),
        }
    ),
    "config:write": frozenset(
        {
            ("PATCH", "/admin/devices/{device_id}/config"),
            ("POST", "/admin/devices/{device_id}/config/retry-push"),
            ("PATCH", "/admin/config/fleet"),
            ("PATCH", "/admin/config/merchants/{merchant_id}"),
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
            ("GET", "/merchant/settlements"),
            ("GET", "/merchant/settlements/{settlement_id}"),
            ("GET", "/merchant/settlements/{settlement_id}/items"),
        }
    ),
    "settlements:write": frozenset({("POST", "/admin/settlements/run")}),
    "fees:read": frozenset({("GET", "/admin/fees/profiles"), ("GET", "/admin/fees/profiles/{fee_profile_id}")}),
    "ledger-entries:read": frozenset({("GET", "/admin/ledger-entries")}),
    "revenue:read": frozenset({("GET", "/admin/revenue")}),
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
            ("GET", "/merchant/exports"),
            ("GET", "/merchant/exports/{export_id}"),
            ("GET", "/merchant/exports/{export_id}/file"),
            ("GET", "/admin/exports"),
            ("GET", "/admin/exports/{export_id}"),
            ("GET", "/admin/exports/{export_id}/file"),
        }
    ),
    "exports:write": frozenset(
        {
            ("POST", "/admin/exports"),
            ("POST", "/admin/exports/{export_id}/cancel"),
            ("POST", "/merchant/exports"),
            ("POST", "/merchant/exports/{export_id}/cancel"),
        }
    ),
    "mails:read": frozenset({("GET", "/admin/mails")}),
    "health:read": frozenset({("GET", "/admin/health"), ("GET", "/admin/health/deep")}),
    "shop:read": frozenset(
        {
            ("GET", "/merchant/me"),
            ("GET", "/merchant/dashboard/summary"),
            ("GET", "/merchant/outlets"),
            ("GET", "/merchant/devices"),
            ("GET", "/api/merchant/profile"),
            ("GET", "/api/merchant/dashboard"),
            ("GET", "/api/merchant/product-insights"),
            ("GET", "/api/merchant/alerts"),
        }
    ),
    "shop:write": frozenset({("PATCH", "/merchant/merchants/{merchant_id}")}),
    "scores:read": frozenset({("GET", "/api/merchant/credit-detail"), ("GET", "/api/merchant/loan-timing")}),
    "scores:write": frozenset({("POST", "/api/merchant/recalculate")}),
    "warning-thresholds:read": frozenset(
        {
            ("GET", "/admin/organisations/{organisation_id}/warning-thresholds"),
            ("GET", "/lending/warning-thresholds"),
        }
    ),
    "warning-thresholds:write": frozenset(
        {
            ("PUT", "/admin/organisations/{organisation_id}/warning-thresholds"),
            ("PUT", "/lending/warning-thresholds"),
        }
    ),
    "payments:read": frozenset(
        {
            ("GET", "/merchant/transactions"),
            ("GET", "/merchant/transactions/{transaction_id}"),
            ("GET", "/api/v1/pos/payments/{reference_id}"),
            ("GET", "/api/v1/pos/payments/{reference_id}/qr.png"),
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
    "webhooks:read": frozenset(
        {
            ("GET", "/admin/webhooks"),
            ("GET", "/admin/webhooks/{webhook_id}"),
            ("GET", "/admin/webhooks/{webhook_id}/deliveries"),
            ("GET", "/admin/webhook-deliveries/{delivery_id}"),
            ("GET", "/merchant/webhooks"),
            ("GET", "/merchant/webhooks/{webhook_id}"),
            ("GET", "/merchant/webhooks/{webhook_id}/deliveries"),
            ("GET", "/merchant/webhook-deliveries/{delivery_id}"),
        }
    ),
    "webhooks:write": frozenset(
        {
            ("POST", "/admin/webhooks"),
            ("PATCH", "/admin/webhooks/{webhook_id}"),
            ("POST", "/admin/webhooks/{webhook_id}/rotate"),
            ("POST", "/admin/webhooks/{webhook_id}/disable"),
            ("POST", "/admin/webhooks/{webhook_id}/enable"),
            ("POST", "/admin/webhooks/{webhook_id}/ping"),
            ("POST", "/admin/webhooks/{webhook_id}/replay"),
            ("POST", "/admin/webhook-deliveries/{delivery_id}/replay"),
            ("POST", "/merchant/webhooks"),
            ("PATCH", "/merchant/webhooks/{webhook_id}"),
            ("POST", "/merchant/webhooks/{webhook_id}/rotate"),
            ("POST", "/merchant/webhooks/{webhook_id}/disable"),
            ("POST", "/merchant/webhooks/{webhook_id}/enable"),
            ("POST", "/merchant/webhooks/{webhook_id}/ping"),
            ("POST", "/merchant/webhooks/{webhook_id}/replay"),
            ("POST", "/merchant/webhook-deliveries/{delivery_id}/replay"),
        }
    ),
    "partner-payments:read": frozenset({("GET", "/api/partner/payment/status/{transaction_id}")}),
    "partner-payments:write": frozenset(
        {("POST", "/api/partner/payment/generate"), ("POST", "/api/partner/payment/qris")}
    ),
    "licenses:read": frozenset(
        {
            ("GET", "/api/license/validate-ownership/{license_key}"),
            ("GET", "/api/license/key/{license_key}"),
            ("GET", "/api/admin/license-keys/{license_id}"),
            ("GET", "/api/user/profile"),
            ("GET", "/api/user/token-balance"),
            ("GET", "/api/user/token-usage-stats"),
            ("GET", "/api/user/license/{license_key}/usage"),
            ("GET", "/admin/license-keys"),
            ("GET", "/admin/license-keys/{license_id}"),
        }
    ),
    "licenses:write": frozenset(
        {
            ("POST", "/api/user/license-keys/{license_key}/use-token"),
            ("POST", "/api/user/assign-license"),
            ("POST", "/admin/license-keys"),
            ("PATCH", "/admin/license-keys/{license_id}"),
            ("POST", "/admin/license-keys/{license_id}/assign"),
            ("POST", "/admin/license-keys/{license_id}/revoke"),
        }
    ),
    "topups:read": frozenset(
        {
            ("GET", "/api/topup/payment-methods"),
            ("GET", "/api/topup/bonus-tiers"),
            ("GET", "/api/topup/status/{topup_id}"),
            ("GET", "/api/topup/history"),
        }
    ),
    "topups:write": frozenset({("POST", "/api/topup/request"), ("POST", "/api/topup/cancel/{topup_id}")}),
    # The SDK shows its key wherever it has one: whoever has it may exchange or end it.
    "partner-key:write": frozenset({("POST", "/api/user/regenerate-api-key"), ("POST", "/api/user/revoke-api-key")}),
    "wallets:read": frozenset(
        {
            ("GET", "/api/v1/org/profile"),
            ("GET", "/api/v1/wallets"),
            ("POST", "/api/v1/txn/transaction"),  # a list, asked for in a body
            ("GET", "/api/v1/txn/invoices/{invoice_id}"),
        }
    ),
    "wallets:write": frozenset(
        {
            ("POST", "/api/v1/wallets"),
            ("POST", "/api/v1/wallets/{wallet_code}/topup"),
            ("POST", "/api/v1/txn/payment-session/{wallet_code}"),
            ("POST", "/api/v1/txn/accept-payment/{trace_id}"),
            ("POST", "/api/v1/txn/withdraw"),
            ("POST", "/api/v1/txn/refund/{trace_id}"),
            ("POST", "/api/v1/txn/invoices"),
        }
    ),
    "consents:read": frozenset(
        {
            ("GET", "/merchant/banks"),
            ("GET", "/merchant/consents"),
            ("GET", "/merchant/consents/{consent_id}"),
            ("GET", "/merchant/looks"),
            ("GET", "/admin/consents"),
            ("GET", "/admin/consents/{consent_id}"),
            ("GET", "/admin/looks"),
            ("GET", "/lending/looks"),
        }
    ),
    "bank-merchants:read": frozenset(
        {
            ("GET", "/lending/merchants"),
            ("GET", "/lending/merchants/file"),
            ("GET", "/api/bank/merchants/all"),
            ("POST", "/api/bank/merchants/search"),  # lists, asked for in a body
            ("POST", "/api/bank/batch-assessment"),
            ("GET", "/api/bank/merchants/{merchant_id}"),
            ("GET", "/api/bank/merchants/{merchant_id}/credit"),
            ("GET", "/api/bank/merchants/{merchant_id}/alerts"),
            ("GET", "/api/bank/alerts/{merchant_id}"),
        }
    ),
    "loan-applications:read": frozenset(
        {
            ("GET", "/lending/loan-applications"),
            ("GET", "/lending/loan-applications/{application_id}"),
            ("GET", "/api/bank/loan-applications/{merchant_id}"),
            ("GET", "/merchant/loan-applications"),
            ("GET", "/merchant/loan-applications/{application_id}"),
            ("GET", "/admin/loan-applications"),
            ("GET", "/admin/loan-applications/{application_id}"),
        }
    ),
    "erasures:read": frozenset(
        {("GET", "/admin/erasures"), ("GET", "/admin/erasures/{erasure_id}"), ("GET", "/merchant/erasures")}
    ),
    "loan-applications:write": frozenset(
        {
            ("POST", "/lending/loan-applications"),
            ("POST", "/lending/loan-applications/{application_id}/submit"),
            ("POST", "/lending/loan-applications/{application_id}/review"),
            ("POST", "/lending/loan-applications/{application_id}/disburse"),
            ("POST", "/lending/loan-applications/{application_id}/withdraw"),
            ("POST", "/api/bank/loan-applications"),
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
        ("GET", "/lending/me"),
        ("POST", "/lending/logout"),
        ("POST", "/lending/totp"),
        ("POST", "/lending/totp/confirm"),
        ("POST", "/api/auth/logout"),
    }
)

# A whole list leaves the house at once: fewer may have it than may look at its pages.
EXPORTS: Mapping[str, frozenset[str]] = {
    "transactions": _OPERATORS | _FINANCE,
    "refunds": _OPERATORS | _FINANCE,
    "ledger_entries": _FINANCE,
    "settlements": _OPERATORS | _FINANCE,
    "settlement_items": _FINANCE,
    "revenue": _OPERATORS | _FINANCE,
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
    "statements": _OPERATORS | _FINANCE,
    "personal_data": _OPERATORS,
}

# A key that exports a list, or fetches the file, needs the scope that reads the list besides.
EXPORT_SCOPES: Mapping[str, str] = {
    "transactions": "transactions:read",
    "refunds": "refunds:read",
    "ledger_entries": "ledger-entries:read",
    "settlements": "settlements:read",
    "settlement_items": "settlements:read",
    "revenue": "revenue:read",
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
    "statements": "settlements:read",
    "personal_data": "documents:read",
}
