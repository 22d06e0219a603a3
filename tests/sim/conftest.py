import json
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_port

from soundbox_protocol.configuration import sha256_of
from soundbox_protocol.messages import (
    Command,
    CredentialResponse,
    DynamicQrDisplay,
    DynamicQrResponse,
    Message,
    PaymentDigest,
    PaymentSkip,
    PaymentSuccess,
    Time,
    encode,
)
from soundbox_protocol.provisioning import credential_key
from soundbox_protocol.sealing import seal
from soundbox_protocol.signing import sign
from soundbox_protocol.times import to_rfc3339
from soundbox_protocol.topics import Downlink, downlink
from soundbox_sim.box import Action, Box, BoxSettings, Listen, NewCredential, Publish, Restart, SendLog, Speak, Tell
from soundbox_sim.journal import Journal

DEVICE, KEY = "dev_01k0000000000000000000000", bytes(range(32))
NOW = 1_779_530_400_000  # 2026-05-23T10:00:00Z


@dataclass
class Hub:
    """The other side: writes what a hub writes, signed for one device."""

    device_id: str = DEVICE
    key: bytes = KEY

    def down(self, channel: Downlink, message: Message, *, key: bytes | None = None) -> tuple[str, bytes]:
        topic = downlink(self.device_id, channel)
        return topic, sign(key or self.key, topic, encode(message))

    def payment(
        self, seq: int, *, at: int = NOW, life_s: int = 60, key: bytes | None = None, **other: Any
    ) -> tuple[str, bytes]:
        facts: dict[str, Any] = {
            "event_id": f"ann_{seq}",
            "transaction_id": f"txn_{seq}",
            "merchant_name": "Warung Sari",
            "amount": 1_000 * seq,
            "currency": "IDR",
            "paid_at": to_rfc3339(at),
            "issued_at": to_rfc3339(at),
            "expires_at": to_rfc3339(at + life_s * 1000),
        }
        return self.down(Downlink.PAYMENT_SUCCESS, PaymentSuccess(seq=seq, **{**facts, **other}), key=key)

    def digest(
        self, seq: int, *, count: int = 3, amount: int = 150_000, at: int = NOW, since: int | None = None
    ) -> tuple[str, bytes]:
        """What was missed from `since`, half an hour ago unless told otherwise, until ten minutes ago."""
        since = at - 1_800_000 if since is None else since
        facts = {
            "event_id": f"ann_{seq}", "seq": seq, "count": count, "amount": amount, "from": to_rfc3339(since),
            "to": to_rfc3339(at - 600_000), "issued_at": to_rfc3339(at), "expires_at": to_rfc3339(at + 60_000),
        }  # fmt: skip
        return self.down(Downlink.PAYMENT_DIGEST, PaymentDigest.model_validate(facts))

    def skip(self, from_seq: int, to_seq: int, *, key: bytes | None = None) -> tuple[str, bytes]:
        return self.down(Downlink.PAYMENT_SKIP, PaymentSkip(from_seq=from_seq, to_seq=to_seq), key=key)

    def command(
        self, command_id: str, name: str = "speak_code", *, at: int = NOW, life_s: int = 300, **payload: Any
    ) -> tuple[str, bytes]:
        message = Command(
            command_id=command_id,
            command_name=name,
            payload=payload,
            issued_at=to_rfc3339(at),
            expires_at=to_rfc3339(at + life_s * 1000),
        )
        return self.down(Downlink.COMMAND, message)

    def config(self, version: int, raw: bytes | None = None, **config: Any) -> tuple[str, bytes]:
        """A push of these settings, or of exactly these bytes."""
        raw = json.dumps(config, separators=(",", ":")).encode() if raw is None else raw
        body = b'{"message_type":"config_push","config_version":%d,"config":%b,"sha256":"%b"}' % (
            version, raw, sha256_of(raw).encode(),
        )  # fmt: skip
        topic = downlink(self.device_id, Downlink.CONFIG_PUSH)
        return topic, sign(self.key, topic, body)

    def credential(self, request_id: str, status: str, **other: Any) -> tuple[str, bytes]:
        topic = downlink(self.device_id, Downlink.CREDENTIAL_RESPONSE)
        said = {"message_type": "credential_response", "correlation_id": request_id, "status": status, **other}
        body = encode(CredentialResponse.model_construct(**said))
        if status == "issued":
            body = seal(credential_key(self.key), topic, body, bytes(range(64)))
        return topic, sign(self.key, topic, body)

    def time(self, nonce: str, *, at: int = NOW) -> tuple[str, bytes]:
        return self.down(Downlink.TIME, Time(server_time=to_rfc3339(at), nonce=nonce))

    def qr(self, request_id: str, *, at: int = NOW, life_s: int = 300, **other: Any) -> tuple[str, bytes]:
        facts = {
            "correlation_id": request_id,
            "transaction_id": "txn_7",
            "status": "success",
            "qr_payload": "00020101021226",
            "expires_at": to_rfc3339(at + life_s * 1000),
        }
        return self.down(Downlink.DYNAMIC_QR_RESPONSE, DynamicQrResponse(**{**facts, **other}))

    def qr_shown(self, transaction_id: str) -> tuple[str, bytes]:
        return self.display(transaction_id, "show", qr_payload="00020101021226", expires_at=to_rfc3339(NOW + 300_000))

    def display(self, transaction_id: str | None, action: Any, **other: Any) -> tuple[str, bytes]:
        message = DynamicQrDisplay(transaction_id=transaction_id, action=action, **other)
        return self.down(Downlink.DYNAMIC_QR_DISPLAY, message)


@dataclass
class Bench:
    """A box on a workbench: what it wants done is written down, and its plug can be pulled."""

    folder: Path
    settings: BoxSettings = field(default_factory=lambda: BoxSettings(terminal_id="term_1"))
    account: str = "first"
    now: int = NOW
    sent: list[Publish] = field(default_factory=list)
    said: list[Speak] = field(default_factory=list)
    told: list[Tell] = field(default_factory=list)
    wished: list[Listen | Restart | SendLog] = field(default_factory=list)
    kept: list[NewCredential] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.box = self._power_on()

    def _power_on(self) -> Box:
        box = Box(
            DEVICE,
            KEY,
            Journal(self.folder, fsync=lambda _file: None),
            account=self.account,
            now_ms=self.now,
            token=lambda: secrets.token_urlsafe(16),
            settings=self.settings,
            keep=self.kept.append,
        )
        self.do(box.boot(self.now))
        return box

    def do(self, actions: list[Action]) -> None:
        self.sent += [action for action in actions if isinstance(action, Publish)]
        self.said += [action for action in actions if isinstance(action, Speak)]
        self.told += [action for action in actions if isinstance(action, Tell)]
        self.wished += [action for action in actions if isinstance(action, Listen | Restart | SendLog)]

    def hear(self, message: tuple[str, bytes]) -> None:
        self.do(self.box.hear(*message, self.now))

    def finish(self) -> None:
        """The speaker ends the sentence it is saying."""
        self.do(self.box.spoken(self.said[-1].event_id, self.now))

    def wait(self, ms: int) -> None:
        self.now += ms
        self.do(self.box.tick(self.now))

    def go_online(self) -> None:
        self.box.connect(self.now)
        self.do(self.box.birth(self.now))

    def reboot(self) -> None:
        self.box.power_off()
        self.box = self._power_on()

    @property
    def spoken_ids(self) -> list[str | None]:
        return [speech.event_id for speech in self.said]

    def acks(self) -> list[tuple[str, str]]:
        return [(ack["event_id"], ack["status"]) for ack in self.payloads("payment_ack")]

    def reports(self) -> list[tuple[str, str, str | None]]:
        """What became of commands, as told: id, status, reason."""
        return [(ack["command_id"], ack["status"], ack.get("reason")) for ack in self.payloads("command_ack")]

    def payloads(self, message_type: str) -> list[dict[str, Any]]:
        every = [json.loads(message.payload) for message in self.sent]
        return [payload for payload in every if payload["message_type"] == message_type]

    def heard_of(self, what: str) -> list[dict[str, Any]]:
        return [told.facts for told in self.told if told.what == what]


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(**settings: Any) -> Bench:
        bench = Bench(tmp_path / f"box-{len(benches)}", BoxSettings(**{"terminal_id": "term_1", **settings}))
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.box.power_off()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@dataclass
class Mosquitto:
    """A real broker on a port of its own, which may be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true"]
        config.write_text("\n".join([*lines, "persistence true", f"persistence_location {self.folder}/", ""]))
        binary = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") or shutil.which("mosquitto")
        assert binary, "these tests need Mosquitto"
        with (self.folder / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen([binary, "-c", str(config)], stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    broker = Mosquitto(folder, free_port())
    broker.start()
    yield broker
    broker.kill()
