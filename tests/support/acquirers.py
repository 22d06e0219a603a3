"""Each kind of provider as this hub meets it: a fake behind a real socket, the settings that lead to it, and what it
sends to our doors."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
from support.fakes import midtrans, paylabs, snap, xendit
from support.fakes.service import OUR_SECRET, Charge, FakeService, private_pem, public_pem, serving
from support.hub import Hub

Notification = tuple[str, dict[str, str], bytes]  # path, headers, body


@dataclass(frozen=True)
class Acquirer:
    """`notify(charge)` is what it sends of a charge as that stands."""

    name: str
    fake: FakeService
    settings: dict[str, Any]
    notify: Callable[[Charge], Notification]

    async def tell(self, hub: Hub, charge: Charge) -> httpx.Response:
        return await send(hub, self.notify(charge))

    @property
    def only_charge(self) -> Charge:
        (charge,) = self.fake.charges.values()
        return charge


async def send(hub: Hub, notification: Notification) -> httpx.Response:
    path, headers, body = notification
    return await hub.http.post(path, content=body, headers=headers)


@asynccontextmanager
async def acquirer(name: str, folder: Path) -> AsyncIterator[Acquirer]:
    """The provider of this name, and nobody else."""
    fake = _FAKES[name]()
    async with serving(fake.app()) as url:
        settings = _SETTINGS[name](url, folder)
        yield Acquirer(name, fake, settings, lambda charge: _NOTIFY[name](fake, charge))


def _snap_settings(url: str, folder: Path) -> dict[str, Any]:
    """A profile file as an operator writes it."""
    (folder / "hub.pem").write_text(private_pem("hub"))
    path = folder / "partners.toml"
    path.write_text(f'''
[acme]
base_url = "{url}/snap"
unsigned_prefix = "/snap"
partner_id = "P1"
client_key = "K1"
channel_id = "95221"
merchant_id = "M1"
client_secret = "{OUR_SECRET}"
notify_secret = "{snap.NOTIFY_SECRET}"
notify_client_key = "acme-at-ours"
private_key_file = "hub.pem"
partner_public_key = """{public_pem("partner")}"""
''')
    return {"snap_partners": path}


def _xendit_settings(url: str, folder: Path) -> dict[str, Any]:
    return {"xendit_url": url, "xendit_secret_key": OUR_SECRET, "xendit_webhook_token": xendit.CALLBACK_TOKEN}


def _midtrans_settings(url: str, folder: Path) -> dict[str, Any]:
    return {"midtrans_url": url, "midtrans_snap_url": url, "midtrans_server_key": OUR_SECRET}


def _paylabs_settings(url: str, folder: Path) -> dict[str, Any]:
    return {
        "paylabs_url": url, "paylabs_merchant_id": "010332", "paylabs_private_key": private_pem("hub"),
        "paylabs_public_key": public_pem("partner"),
    }  # fmt: skip


def now_in_jakarta() -> str:
    return datetime.now(timezone(timedelta(hours=7))).isoformat(timespec="seconds")


def _by_snap(fake: Any, charge: Charge) -> Notification:
    headers, body = snap.signed_by_rsa(json.dumps(snap.told(charge)).encode(), at=now_in_jakarta())
    return snap.NOTIFY_PATH, headers, body


def _by_xendit(fake: Any, charge: Charge) -> Notification:
    return "/api/v1/webhook/xendit", *fake.notification(charge.reference)


def _by_midtrans(fake: Any, charge: Charge) -> Notification:
    return "/api/v1/webhook/midtrans", *fake.notification(charge.reference)


def _by_paylabs(fake: Any, charge: Charge) -> Notification:
    headers, body = paylabs.signed(json.dumps(paylabs.told(charge)).encode(), at=now_in_jakarta())
    return paylabs.NOTIFY_PATH, headers, body


_FAKES: dict[str, Callable[[], FakeService]] = {
    "acme": snap.FakeSnap, "xendit": xendit.FakeXendit, "midtrans": midtrans.FakeMidtrans,
    "paylabs": paylabs.FakePaylabs,
}  # fmt: skip
_SETTINGS: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "acme": _snap_settings, "xendit": _xendit_settings, "midtrans": _midtrans_settings, "paylabs": _paylabs_settings,
}  # fmt: skip
_NOTIFY: dict[str, Callable[[Any, Charge], Notification]] = {
    "acme": _by_snap, "xendit": _by_xendit, "midtrans": _by_midtrans, "paylabs": _by_paylabs,
}  # fmt: skip
ACQUIRERS = tuple(_FAKES)
