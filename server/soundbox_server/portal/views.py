"""How a merchant's own people see their shop. What operators note down, what providers said word for word, and how we
name things towards providers stays with the platform's staff.
"""

from typing import Annotated

from soundbox_server.answers import Time, TypedDict, among
from soundbox_server.clock import rfc3339, rfc3339_or_none
from soundbox_server.codecs.choice import traits_of
from soundbox_server.devices import views
from soundbox_server.devices.models import Device, DeviceBinding, DevicePresence
from soundbox_server.devices.state import DeviceState
from soundbox_server.devices.views import BindingView
from soundbox_server.merchants.models import AccountChange, Merchant, Terminal
from soundbox_server.merchants.state import AccountChangeState, AnnouncementPolicy, MerchantState, PlaceState
from soundbox_server.merchants.views import OutletView, merchant_view
from soundbox_server.outbox.models import OutboxMessage
from soundbox_server.outbox.state import Delivery
from soundbox_server.payments.listings import transaction_view
from soundbox_server.payments.methods import PaymentMethod
from soundbox_server.payments.models import Payment, PaymentEvent, Refund
from soundbox_server.payments.state import PaymentState, RefundState
from soundbox_server.portal.settlements import SettledInView

_LEGIBLE = 4


def masked(account_reference: str | None) -> str | None:
    """An account by its last four characters, enough to know one's own: bank:••••••3210."""
    if account_reference is None:
        return None
    kind, colon, number = account_reference.rpartition(":")
    hidden = max(len(number) - _LEGIBLE, min(len(number), _LEGIBLE))
    return f"{kind}{colon}{'•' * hidden}{number[hidden:]}"


class WaitingAccountView(TypedDict):
    settlement_account: str | None
    settlement_account_type: str | None
    status: Annotated[str, among(AccountChangeState)]
    requested_at: Time
    effective_at: Time | None


class OwnMerchantView(TypedDict):
    id: str
    merchant_code: str
    legal_name: str
    brand_name: str
    city: str | None
    postal_code: str | None
    mcc: str | None
    nmid: str | None
    criteria: str | None
    fee_profile_id: str | None
    settlement_account: str | None
    settlement_account_type: str | None
    payout_mode: str
    late_policy: str
    announcement_policy: Annotated[str, among(AnnouncementPolicy)]
    status: Annotated[str, among(MerchantState)]
    status_reason: str | None
    onboarding_status: str
    missing: list[str]
    approved_at: Time | None
    created_at: Time
    outlets_count: int
    pending_account_change: WaitingAccountView | None


def own_merchant_view(merchant: Merchant, *, outlets: int, waiting: AccountChange | None) -> OwnMerchantView:
    shown = merchant_view(merchant)
    return {
        "id": merchant.id,
        "merchant_code": merchant.merchant_code,
        "legal_name": merchant.legal_name,
        "brand_name": merchant.brand_name,
        "city": merchant.city,
        "postal_code": merchant.postal_code,
        "mcc": merchant.mcc,
        "nmid": merchant.nmid,
        "criteria": merchant.criteria,
        "fee_profile_id": merchant.fee_profile_id,
        "settlement_account": masked(merchant.settlement_account_reference),
        "settlement_account_type": merchant.settlement_account_type,
        "payout_mode": merchant.payout_mode,
        "late_policy": merchant.late_policy,
        "announcement_policy": merchant.announcement_policy,
        "status": merchant.status,
        "status_reason": merchant.status_reason,
        "onboarding_status": shown["onboarding_status"],
        "missing": shown["missing"],
        "approved_at": shown["approved_at"],
        "created_at": shown["created_at"],
        "outlets_count": outlets,
        "pending_account_change": _waiting_account(waiting) if waiting else None,
    }


def _waiting_account(change: AccountChange) -> WaitingAccountView:
    return {
        "settlement_account": masked(change.account_reference),
        "settlement_account_type": change.account_type,
        "status": change.state,
        "requested_at": rfc3339(change.requested_at_ms),
        "effective_at": rfc3339_or_none(change.effective_at_ms),
    }


class OwnUserView(TypedDict):
    id: str
    email: str
    name: str
    role: str
    language: str


class OwnOrganisationView(TypedDict):
    id: str
    name: str


class MeView(TypedDict):
    user: OwnUserView | None
    organisation: OwnOrganisationView
    merchants: list[OwnMerchantView]


class OwnTerminalView(TypedDict):
    id: str
    terminal_code: str
    qr_mode: str
    status: Annotated[str, among(PlaceState)]
    is_default: bool


class OwnOutletView(OutletView):
    terminals: list[OwnTerminalView]


def own_terminal_view(terminal: Terminal) -> OwnTerminalView:
    return {
        "id": terminal.id,
        "terminal_code": terminal.terminal_code,
        "qr_mode": terminal.qr_mode,
        "status": terminal.status,
        "is_default": terminal.is_default,
    }


class OwnPresenceView(TypedDict):
    online: bool
    last_seen_at: Time
    heartbeat_at: Time | None
    firmware_version: str | None
    network_strength: int | None
    battery_level: int | None
    state: str | None
    volume: int | None


class OwnDeviceView(TypedDict):
    id: str
    serial_number: str
    model: str
    unsigned: bool
    unconfirmed: bool
    label: str | None
    status: Annotated[str, among(DeviceState)]
    binding: BindingView | None
    presence: OwnPresenceView | None
    heard_at: Time | None


def own_device_view(
    device: Device, binding: DeviceBinding | None, presence: DevicePresence | None, heard_at_ms: int | None
) -> OwnDeviceView:
    return {
        "id": device.id,
        "serial_number": device.serial_number,
        "model": device.model,
        "unsigned": traits_of(device.codec).unsigned,
        "unconfirmed": traits_of(device.codec).unconfirmed,
        "label": device.label,
        "status": device.state,
        "binding": views.binding(binding) if binding else None,
        "presence": _presence(presence) if presence else None,
        "heard_at": rfc3339_or_none(heard_at_ms),
    }


def _presence(presence: DevicePresence) -> OwnPresenceView:
    return {
        "online": presence.online,
        "last_seen_at": rfc3339(presence.last_seen_at_ms),
        "heartbeat_at": rfc3339_or_none(presence.heartbeat_at_ms),
        "firmware_version": presence.firmware_version,
        "network_strength": presence.network_strength,
        "battery_level": presence.battery_level,
        "state": presence.state,
        "volume": presence.volume,
    }


class OwnTransactionView(TypedDict):
    id: str
    merchant_id: str
    outlet_id: str
    terminal_id: str
    device_id: str | None
    order_code: str | None
    description: str | None
    method: Annotated[str, among(PaymentMethod)]
    qr_mode: str
    initiation_mode: str
    amount: int
    currency: str
    status: Annotated[str, among(PaymentState)]
    late: bool
    paid_amount: int | None
    refunded_amount: int
    fee_amount: int | None
    net_amount: int | None
    fee_bps: int | None
    issuer: str | None
    created_at: Time
    expires_at: Time
    paid_at: Time | None
    reversed_at: Time | None


def own_transaction_view(payment: Payment) -> OwnTransactionView:
    shown = transaction_view(payment)
    return {
        "id": payment.id,
        "merchant_id": payment.merchant_id,
        "outlet_id": payment.outlet_id,
        "terminal_id": payment.terminal_id,
        "device_id": payment.device_id,
        "order_code": payment.order_code,
        "description": payment.description,
        "method": payment.method,
        "qr_mode": payment.qr_mode,
        "initiation_mode": payment.source,
        "amount": payment.amount,
        "currency": payment.currency,
        "status": payment.state,
        "late": payment.late,
        "paid_amount": payment.paid_amount,
        "refunded_amount": payment.refunded_amount,
        "fee_amount": payment.fee_amount,
        "net_amount": shown["net_amount"],
        "fee_bps": payment.fee_bps,
        "issuer": payment.issuer,
        "created_at": shown["created_at"],
        "expires_at": shown["expires_at"],
        "paid_at": shown["paid_at"],
        "reversed_at": shown["reversed_at"],
    }


TRANSACTION_COLUMNS = (
    "id", "created_at", "merchant_id", "outlet_id", "terminal_id", "device_id", "order_code", "description", "method",
    "qr_mode", "amount", "currency", "status", "late", "paid_amount", "refunded_amount", "fee_amount", "net_amount",
    "fee_bps", "issuer", "paid_at", "reversed_at",
)  # fmt: skip


class OwnRefundView(TypedDict):
    id: str
    amount: int
    fee_returned: int
    status: Annotated[str, among(RefundState)]
    created_at: Time
    finished_at: Time | None


def own_refund_view(refund: Refund) -> OwnRefundView:
    """Why, and by whom on the platform's side, is the platform's."""
    return {
        "id": refund.id,
        "amount": refund.amount,
        "fee_returned": refund.fee_returned,
        "status": refund.state,
        "created_at": rfc3339(refund.created_at_ms),
        "finished_at": rfc3339_or_none(refund.finished_at_ms),
    }


class OwnAnnouncementView(TypedDict):
    event_id: str
    device_id: str | None
    status: Annotated[str, among(Delivery)]
    unsigned: bool
    unconfirmed: bool
    queued_at: Time
    received_at: Time | None
    played_at: Time | None


def own_announcement_view(row: OutboxMessage) -> OwnAnnouncementView:
    return {
        "event_id": row.id,
        "device_id": None if row.reason == "no_device" else row.recipient_id,
        "status": row.state,
        "unsigned": row.unsigned,
        "unconfirmed": row.unconfirmed,
        "queued_at": rfc3339(row.created_at_ms),
        "received_at": rfc3339_or_none(row.received_at_ms),
        "played_at": rfc3339_or_none(row.played_at_ms),
    }


class OwnStepView(TypedDict):
    at: Time
    event: str
    status: Annotated[str, among(PaymentState)]


def own_step_view(step: PaymentEvent) -> OwnStepView:
    return {"at": rfc3339(step.at_ms), "event": step.kind, "status": step.state}


class WholeOwnTransactionView(OwnTransactionView):
    settlement: SettledInView | None
    refunds: list[OwnRefundView]
    announcements: list[OwnAnnouncementView]
    timeline: list[OwnStepView]
