"""A box changes its credential over MQTT, and the broker that carries it learns nothing."""

from typing import Any

import pytest
from support.shop import MASTER, NOW, Shop, rows

from soundbox_protocol.messages import CredentialRequest, CredentialResponse, decode
from soundbox_protocol.provisioning import credential_key, unpacked_credential
from soundbox_protocol.sealing import unseal
from soundbox_protocol.signing import verify
from soundbox_server import seal
from soundbox_server.db import Database
from soundbox_server.devices import credentials, service
from soundbox_server.devices.credential_mqtt import CredentialRequests
from soundbox_server.uplinks import Uplink

TIME = "2026-05-23T10:00:00Z"


def key_of(device_id: str, key_version: int) -> bytes:
    return seal.announcement_key(MASTER, device_id, key_version)


REQUESTS = CredentialRequests(
    issue=credentials.issue,
    confirm=credentials.confirm,
    hash_password=lambda password: f"$7${password[:8]}",
    key_of=key_of,
    owner="test",
)


async def ask(database: Database, *asked: tuple[str, str | None], now_ms: int = NOW) -> list[tuple[Any, bytes]]:
    """Ask for each (device, confirm) in one group; the answers as the boxes read them, and their bytes."""
    uplinks = [
        Uplink(
            device_id=device,
            message=CredentialRequest(device_id=device, timestamp=TIME, request_id=f"r{number}", confirm=confirm),
            payload=b"",
            received_at_ms=now_ms,
        )
        for number, (device, confirm) in enumerate(asked)
    ]

    async def work(tx: Any) -> list[Any]:
        await REQUESTS(tx, uplinks)
        return list(tx.queued)

    return [
        (decode(CredentialResponse, verify(key_of(sent.recipient_id, 1), sent.address, sent.body)), sent.body)
        for sent in await database.write(work)
    ]


def opened(device: str, payload: bytes) -> tuple[str, str]:
    topic = f"devices/{device}/downlink/credential/response"
    body = verify(key_of(device, 1), topic, payload)
    return unpacked_credential(unseal(credential_key(key_of(device, 1)), topic, body)[1])


async def states(database: Database, device: str) -> list[str]:
    found = await rows(database, "SELECT state FROM device_credential WHERE device_id = $1 ORDER BY id", device)
    return [one["state"] for one in found]


async def test_a_credential_changes_in_two_phases(database: Database, shop: Shop) -> None:
    device = await shop.box()
    revision = await database.write(service.credential_revision)

    ((issued, payload),) = await ask(database, (device, None), now_ms=NOW + 1)
    token, password = opened(device, payload)
    between = (await states(database, device), await database.write(service.credential_revision))
    ((confirmed, _),) = await ask(database, (device, issued.credential_id))

    assert (issued.status, issued.correlation_id) == ("issued", "r0")
    assert between == (["active", "issued"], revision)  # nothing has changed yet for anybody
    assert (confirmed.status, confirmed.credential_id) == ("confirmed", issued.credential_id)
    assert await states(database, device) == ["superseded", "active"]
    assert await database.write(service.credential_revision) == revision + 1
    _, users = await database.read(service.broker_users)
    assert dict(users)[device] == REQUESTS.hash_password(password)
    assert len(token) == 43
    (entry,) = await rows(database, "SELECT action, actor_kind, subject_id FROM audit_entry")
    assert entry == {"action": "device.credential_rotated", "actor_kind": "device", "subject_id": device}


async def test_what_travels_and_what_is_stored_names_no_secret(database: Database, shop: Shop) -> None:
    device = await shop.box()

    ((_, payload),) = await ask(database, (device, None))

    stored = str([await rows(database, f"SELECT * FROM {table}") for table in ("device_credential", "outbox_message")])
    for secret in opened(device, payload):
        assert secret.encode() not in payload
        assert secret not in stored


async def test_the_same_confirmation_again_is_answered_again(database: Database, shop: Shop) -> None:
    device = await shop.box()
    ((issued, _),) = await ask(database, (device, None))
    await ask(database, (device, issued.credential_id))
    revision = await database.write(service.credential_revision)

    ((again, _),) = await ask(database, (device, issued.credential_id))

    assert again.status == "confirmed"
    assert await database.write(service.credential_revision) == revision


async def test_asked_twice_only_the_last_one_can_be_confirmed(database: Database, shop: Shop) -> None:
    device = await shop.box()
    ((first, _),) = await ask(database, (device, None))
    ((second, _),) = await ask(database, (device, None))

    ((refused, _),) = await ask(database, (device, first.credential_id))
    ((confirmed, _),) = await ask(database, (device, second.credential_id))

    assert (refused.status, refused.error_code) == ("failed", "NOT_FOUND")
    assert confirmed.status == "confirmed"


@pytest.mark.parametrize("confirm", ["cred_nowhere", "others"])
async def test_a_box_confirms_its_own_credentials_only(database: Database, shop: Shop, confirm: str) -> None:
    device, other = await shop.box(), await shop.box()
    ((others, _),) = await ask(database, (other, None))
    wanted = others.credential_id if confirm == "others" else confirm

    ((refused, _),) = await ask(database, (device, wanted))

    assert (refused.status, refused.error_code) == ("failed", "NOT_FOUND")
    assert await states(database, other) == ["active", "issued"]


async def test_several_boxes_at_once_get_each_its_own_answer(database: Database, shop: Shop) -> None:
    boxes = [await shop.box() for _ in range(3)]

    answers = await ask(database, *((box, None) for box in reversed(boxes)))

    assert len({opened(box, payload) for box, (_, payload) in zip(sorted(boxes), answers, strict=True)}) == 3
