"""A box of another maker in a real database."""

from support.shop import NOW, Shop

from soundbox_server.db import Database, Statements, transaction
from soundbox_server.devices import config_window, makers_mqtt
from soundbox_server.devices import service as devices
from soundbox_server.uplinks import Foreign

IMEI, ICCID = "860000000000001", "89620000000000000001"
NUMBERS = {"imei": IMEI, "iccid": ICCID}


async def register(database: Database, serial: str = "SN0001", *, model: str = "QF100") -> str:
    """Its id; nobody has let it in."""

    async def work(tx: Statements) -> str:
        return (await devices.register(tx, serial_number=serial, vendor="bizone", model=model, now_ms=NOW))[0]

    return await database.write(work)


async def open_window(database: Database, device_id: str, *, now_ms: int = NOW, **other: object) -> None:
    wanted = {"for_s": 900, "imei": None, "iccid": None, "forget_pins": False, "by": "per_1"} | other
    await database.write(
        lambda tx: config_window.open_window(tx, device_id, **wanted, now_ms=now_ms)  # type: ignore[arg-type]
    )


async def call(
    database: Database, serial: str = "SN0001", *, now_ms: int = NOW, **other: str
) -> config_window.Granted | None:
    """The config call; `$7$` and its password is what the broker is told."""
    return await database.write(
        lambda tx: config_window.take_call(
            tx, serial_number=serial, **NUMBERS | other, hash_password=lambda word: f"$7${word}", now_ms=now_ms
        )
    )


async def beat(database: Database, serial: str = "SN0001", *, payload: bytes = b"{}", now_ms: int = NOW) -> None:
    said = Foreign(topic=f"soundbox/{serial}/down/heartbeat", payload=payload, received_at_ms=now_ms)
    await database.write(lambda tx: makers_mqtt.on_qf100_heartbeat(tx, [said]))


async def qf100(shop: Shop, serial: str = "SN0001", *, online: bool = True) -> str:
    """One that was let in and stands at the shop's terminal. Its id."""
    device_id = await register(shop.database, serial)
    await open_window(shop.database, device_id)
    assert await call(shop.database, serial) is not None
    async with transaction(shop.database) as session:
        await devices.bind(session, device_id=device_id, terminal_id=shop.terminal_id, now_ms=NOW)
    if online:
        await beat(shop.database, serial)
    return device_id
