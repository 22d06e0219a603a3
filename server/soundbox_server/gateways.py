"""The partners that settings know of, and the routes to them."""

import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from soundbox_server import seal
from soundbox_server.errors import PaymentsClosed
from soundbox_server.providers import snap_tokens
from soundbox_server.providers.banks import Bank
from soundbox_server.providers.base import Gateway, Method
from soundbox_server.providers.profiles import (
    SNAP_MAY,
    SNAP_NEEDS,
    Profile,
    Values,
    midtrans_profile,
    paylabs_profile,
    snap_profile,
    xendit_profile,
)
from soundbox_server.providers.registry import Gateways
from soundbox_server.providers.sandbox import SandboxProvider
from soundbox_server.providers.sandbox_bank import SandboxBank
from soundbox_server.providers.service import Route
from soundbox_server.settings import Settings

XENDIT_WEBHOOK = "/api/v1/webhook/xendit"
MIDTRANS_WEBHOOK = "/api/v1/webhook/midtrans"
PAYLABS_WEBHOOK = "/api/webhook/paylabs"
PAYOUT_CALLBACK = "/integrations/bank/payout-callback"
SNAP_NOTIFY = "/integrations/snap/{partner}/v1.0/qr/qr-mpm-notify"
SNAP_TOKEN = "/integrations/snap/{partner}/v1.0/access-token/b2b"  # noqa: S105 - an address

_MIDTRANS = ("https://api.midtrans.com", "https://app.midtrans.com")
_MIDTRANS_SANDBOX = ("https://api.sandbox.midtrans.com", "https://app.sandbox.midtrans.com")
_PAYLABS = {"SIT": "https://sit-pay.paylabs.co.id", "PROD": "https://pay.paylabs.co.id"}


def open_gateways(settings: Settings) -> Gateways:
    """Those of settings, not opened yet: `refresh` does, with what the database knows. Raises ValueError for a profile
    that cannot be read, PaymentsClosed for a route to nobody."""
    known = profiles(settings)
    by_method = {method: route_of(names) for method, names in settings.provider_routes.items()}
    default = route_of([settings.provider, settings.provider_fallback])
    if nobody := sorted(routed(settings) - set(known)):
        raise PaymentsClosed(f"No such provider: {', '.join(nobody)}. Known: {', '.join(sorted(known))}.")
    if unknown := sorted(set(by_method) - {method.value for method in Method}):
        raise PaymentsClosed(f"SOUNDBOX_PROVIDER_ROUTES: no such method: {', '.join(unknown)}.")
    return Gateways(known, default=default, by_method=by_method)


def open_bank(settings: Settings) -> Bank | None:
    """Whoever pays out to merchants; None where people do. Raises ValueError for a bank that nobody knows."""
    if not settings.payout_bank:
        return None
    if settings.payout_bank != "sandbox":
        raise ValueError(f"SOUNDBOX_PAYOUT_BANK: no such bank: {settings.payout_bank}. Known: sandbox.")
    return SandboxBank(
        base_url=settings.sandbox_url,
        api_key=settings.sandbox_api_key,
        secrets=settings.secrets_of("sandbox"),
        callback_url=f"{settings.public_url}{PAYOUT_CALLBACK}",
        total_timeout_s=settings.provider_timeout_s,
    )


def route_of(names: list[str]) -> Route:
    """A primary and perhaps a fallback."""
    primary, *others = [name for name in names if name]
    return Route(primary=primary, fallback=others[0] if others else None)


def profiles(settings: Settings) -> dict[str, Profile]:
    """Every partner that this installation could reach, whether or not it has credentials. Raises ValueError."""
    found = [_xendit(settings), _midtrans(settings), _paylabs(settings), *_snap(settings)]
    if settings.environment == "development" or "sandbox" in settings.partner_secrets:
        found.append(_sandbox(settings))
    return {profile.name: profile for profile in found}


def _sandbox(settings: Settings) -> Profile:
    def make(name: str, values: Values) -> Gateway:
        return SandboxProvider(
            base_url=settings.sandbox_url,
            api_key=settings.sandbox_api_key,
            secrets=settings.secrets_of("sandbox"),
            callback_url=f"{settings.public_url}/integrations/qris/callback",
            total_timeout_s=settings.provider_timeout_s,
        )

    return Profile(name="sandbox", kind="sandbox", make=make, base_url=settings.sandbox_url)


def _xendit(settings: Settings) -> Profile:
    return xendit_profile(
        base_url=settings.xendit_url,
        qris_api=settings.xendit_qris_api,
        credentials={
            "secret_key": settings.xendit_secret_key.get_secret_value(),
            "webhook_token": settings.xendit_webhook_token.get_secret_value(),
        },
        timeout_s=settings.provider_timeout_s,
    )


def _midtrans(settings: Settings) -> Profile:
    key = settings.midtrans_server_key.get_secret_value()
    api, page = _MIDTRANS_SANDBOX if key.startswith("SB-") else _MIDTRANS
    return midtrans_profile(
        base_url=settings.midtrans_url or api,
        snap_url=settings.midtrans_snap_url or page,
        callback_url=settings.public_url + MIDTRANS_WEBHOOK,
        credentials={"server_key": key},
        timeout_s=settings.provider_timeout_s,
    )


def _paylabs(settings: Settings) -> Profile:
    return paylabs_profile(
        base_url=settings.paylabs_url or _PAYLABS[settings.paylabs_server],
        callback_url=settings.public_url + PAYLABS_WEBHOOK,
        signed_callback_path=settings.paylabs_signed_path or None,
        fee_type=settings.paylabs_fee_type,
        credentials={
            "merchant_id": settings.paylabs_merchant_id,
            "private_key": settings.paylabs_private_key.get_secret_value(),
            "public_key": settings.paylabs_public_key.get_secret_value(),
        },
        timeout_s=settings.provider_timeout_s,
    )


def _snap(settings: Settings) -> list[Profile]:
    """Each table of the file is a partner: its profile, and its credentials unless the database has them."""
    if settings.snap_partners is None:
        return []
    try:
        partners = tomllib.loads(settings.snap_partners.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ValueError(f"SOUNDBOX_SNAP_PARTNERS: {settings.snap_partners}: {problem}") from None
    return [_snap_partner(settings, name, said) for name, said in partners.items()]


def _snap_partner(settings: Settings, name: str, said: Any) -> Profile:
    if not isinstance(said, dict) or not name.replace("-", "").isalnum() or not name.isascii():
        raise ValueError(f"SOUNDBOX_SNAP_PARTNERS: {name}: a partner is a table, its name letters, digits and dashes")
    folder = Path(settings.snap_partners or ".").parent
    credentials = {one: _credential(name, one, said, folder) for one in (*SNAP_NEEDS, *SNAP_MAY)}
    ours = {*credentials, *(f"{one}_file" for one in credentials)}
    wire = {one: value for one, value in said.items() if one not in ours}
    return snap_profile(
        name,
        wire,
        callback_path=SNAP_NOTIFY.format(partner=name),
        credentials={one: value for one, value in credentials.items() if value},
        timeout_s=settings.provider_timeout_s,
        knows_token_of=lambda account: partial(_knows, settings, account),
    )


def _credential(partner: str, name: str, said: Mapping[str, Any], folder: Path) -> str:
    """A text in the table, or in the file that it names."""
    if path := said.get(f"{name}_file"):
        try:
            return (folder / str(path)).read_text().strip()
        except (OSError, UnicodeDecodeError) as problem:
            raise ValueError(f"SOUNDBOX_SNAP_PARTNERS: {partner}: {name}_file: {problem}") from None
    return str(said.get(name, ""))


def snap_token_key(settings: Settings) -> bytes:
    """What proves the tokens that we issue to SNAP partners."""
    return seal.derive(settings.master, "soundbox/snap-token/v1")


def _knows(settings: Settings, account: str, token: str, now_ms: int) -> bool:
    return snap_tokens.knows(snap_token_key(settings), account, token, now_ms=now_ms)


def routed(settings: Settings) -> set[str]:
    """Every provider that a payment may go to by settings."""
    by_method = (name for names in settings.provider_routes.values() for name in names)
    return {name for name in (settings.provider, settings.provider_fallback, *by_method) if name}
