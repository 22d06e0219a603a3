"""The TLS listener as a box meets it: protocol versions, certificate, renewal."""

import asyncio
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import aiomqtt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from soundbox_server.broker.certificates import authority_pem, issue, read_pair, served_pair
from soundbox_server.broker.engine import BrokerStartError, Pace
from soundbox_server.broker.mosquitto import files_in, write_atomically

QUICK = Pace(certificate=0.05)
NOW = datetime.now(UTC)


@pytest.fixture
async def tls_broker(start_mosquitto, tls_setup):
    async with start_mosquitto(tls=tls_setup(), pace=QUICK) as running:
        yield running


async def test_a_box_is_heard_over_tls_and_the_hub_over_the_plain_listener(tls_broker, heard_until):
    async with tls_broker.client("hub-shard-0") as hub, tls_broker.client("dev_alpha", tls=True) as alpha:
        await hub.subscribe("devices/+/uplink/#", qos=1)
        await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)
        await alpha.publish("devices/dev_alpha/uplink/event", b"up", qos=1)
        await hub.publish("devices/dev_alpha/downlink/payment/success", b"down", qos=1)

        assert await heard_until(hub, b"up") == [("devices/dev_alpha/uplink/event", b"up")]
        assert await heard_until(alpha, b"down") == [("devices/dev_alpha/downlink/payment/success", b"down")]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken_with_forward_secrecy_and_authenticated_encryption(tls_broker, version):
    context = tls_broker.trust
    context.minimum_version = context.maximum_version = version

    spoken, cipher, _ = await asyncio.to_thread(_handshake, tls_broker, context, "localhost")

    assert spoken == version.name.replace("_", ".")
    assert "GCM" in cipher or "CHACHA20" in cipher


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_older_tls_is_refused_by_the_broker(tls_broker, version):
    context = tls_broker.trust
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is not our own library that refuses
    context.minimum_version = context.maximum_version = version

    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        await asyncio.to_thread(_handshake, tls_broker, context, "localhost")


@pytest.mark.parametrize(
    "cipher", ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"]
)
async def test_ciphers_without_forward_secrecy_or_authentication_are_refused(tls_broker, cipher):
    context = tls_broker.trust
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")

    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        await asyncio.to_thread(_handshake, tls_broker, context, "localhost")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_the_certificate_is_for_the_names_that_boxes_are_sent_to(tls_broker, name):
    assert await asyncio.to_thread(_handshake, tls_broker, tls_broker.trust, name)


async def test_a_box_that_trusts_somebody_else_or_was_sent_elsewhere_does_not_log_in(tls_broker, tmp_path):
    stranger = ssl.create_default_context(cadata=authority_pem(tmp_path / "stranger", now=NOW))

    for context, name in ((stranger, "localhost"), (tls_broker.trust, "broker.example")):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(_handshake, tls_broker, context, name)


async def test_names_and_passwords_are_checked_there_too(tls_broker, is_admitted):
    assert await is_admitted(tls_broker.client("dev_alpha", tls=True))
    assert not await is_admitted(tls_broker.client("dev_alpha", password="wrong", tls=True))
    nameless = aiomqtt.Client(
        "127.0.0.1", tls_broker.tls.listener.port, identifier="dev_alpha", tls_context=tls_broker.trust, timeout=5
    )
    assert not await is_admitted(nameless)


async def test_a_revoked_box_is_cut_off_there_too(tls_broker, registry, eventually):
    async with tls_broker.client("dev_alpha", tls=True) as alpha:
        registry.remove("dev_alpha")
        with pytest.raises(aiomqtt.MqttError):
            async with asyncio.timeout(2):
                await anext(aiter(alpha.messages))


async def test_nobody_else_may_read_the_keys(tls_broker):
    files = files_in(tls_broker.home)

    assert files.served.stat().st_mode & 0o777 == 0o600
    assert (files.tls / "authority.pem").stat().st_mode & 0o777 == 0o600
    assert files.tls.stat().st_mode & 0o777 == 0o700


async def test_a_certificate_put_in_place_of_the_old_one_is_served_without_cutting_anybody_off(
    start_mosquitto, tls_setup, tmp_path, eventually, heard_until
):
    certificate, key = tmp_path / "broker.crt", tmp_path / "broker.key"
    _write(certificate, key, days=10, authority=tmp_path / "ca")
    trust = ssl.create_default_context(cadata=authority_pem(tmp_path / "ca", now=NOW))
    setup = tls_setup(certificate=certificate, key=key)
    async with start_mosquitto(tls=setup, pace=QUICK) as broker, broker.client("hub-pub-0") as hub:
        first = await asyncio.to_thread(_certificate, broker, trust)
        async with aiomqtt.Client(
            "127.0.0.1", setup.listener.port, username="dev_alpha", password="secret of dev_alpha",
            identifier="dev_alpha", tls_context=trust, timeout=5,
        ) as alpha:  # fmt: skip
            await alpha.subscribe("devices/dev_alpha/downlink/#", qos=1)

            _write(certificate, key, days=20, authority=tmp_path / "ca")
            await eventually(lambda: _certificate(broker, trust) != first)

            await hub.publish("devices/dev_alpha/downlink/x", b"still here", qos=1)
            assert await heard_until(alpha, b"still here")
        assert broker.health.certificate_ends_ms == _ends_ms(certificate, key)


async def test_a_pair_that_does_not_fit_never_reaches_the_broker(start_mosquitto, tls_setup, tmp_path, eventually):
    certificate, key = tmp_path / "broker.crt", tmp_path / "broker.key"
    _write(certificate, key, days=10, authority=tmp_path / "ca")
    setup = tls_setup(certificate=certificate, key=key)
    async with start_mosquitto(tls=setup, pace=QUICK) as broker:
        served = files_in(broker.home).served.read_text()

        _write(certificate, tmp_path / "other.key", days=20, authority=tmp_path / "ca")
        await eventually(lambda: broker.health.last_error is not None)

        assert "does not belong" in broker.health.last_error
        assert files_in(broker.home).served.read_text() == served
        assert broker.health.answering


@pytest.mark.parametrize("wrong", ["missing", "no PEM", "ended", "of another key"])
async def test_a_broker_whose_certificate_cannot_be_served_does_not_start(start_mosquitto, tls_setup, tmp_path, wrong):
    certificate, key = tmp_path / "broker.crt", tmp_path / "broker.key"
    if wrong != "missing":
        _write(certificate, key, days=-1 if wrong == "ended" else 10, authority=tmp_path / "ca")
    if wrong == "no PEM":
        certificate.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    if wrong == "of another key":
        _write(certificate, tmp_path / "other.key", days=10, authority=tmp_path / "ca")

    with pytest.raises(BrokerStartError, match="the TLS listener has no certificate"):
        async with start_mosquitto(tls=tls_setup(certificate=certificate, key=key)):
            pass


async def test_our_own_certificate_is_renewed_a_month_before_its_end(tls_broker, eventually):
    files = files_in(tls_broker.home)
    old = issue(files.tls, names=tls_broker.tls.names, now=NOW - timedelta(days=61))
    assert not old.ends_within(timedelta(0), now=NOW)

    write_atomically(files.served, old.pem)
    await eventually(lambda: files.served.read_text() != old.pem)

    renewed = served_pair(files.served)
    assert renewed is not None
    assert not renewed.ends_within(timedelta(days=80), now=NOW)
    await eventually(
        lambda: _certificate(tls_broker, tls_broker.trust) == renewed.certificate.public_bytes(Encoding.DER)
    )


async def test_a_certificate_for_other_names_is_replaced_at_the_next_start(start_mosquitto, tls_setup):
    async with start_mosquitto(tls=tls_setup()):
        pass
    async with start_mosquitto(tls=tls_setup(names=["broker.example", "localhost"])) as broker:
        assert await asyncio.to_thread(_handshake, broker, broker.trust, "broker.example")


async def test_a_restart_keeps_authority_and_certificate(start_mosquitto, tls_setup):
    seen = []
    for _ in range(2):
        async with start_mosquitto(tls=tls_setup()) as broker:
            seen.append(files_in(broker.home).served.read_text())

    assert seen[0] == seen[1]


def test_a_pair_in_a_log_line_shows_no_key(tmp_path):
    assert "PRIVATE" not in repr(issue(tmp_path, names=["localhost"], now=NOW))


def test_two_processes_that_start_together_make_one_authority(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: authority_pem(tmp_path / "tls", now=NOW), range(8)))

    assert len(made) == 1
    assert [file.name for file in (tmp_path / "tls").iterdir()] == ["authority.pem"]


def _handshake(broker, context: ssl.SSLContext, name: str) -> tuple[str, str, bytes]:
    with (
        socket.create_connection(("127.0.0.1", broker.tls.listener.port), timeout=5) as wire,
        context.wrap_socket(wire, server_hostname=name) as secured,
    ):
        return secured.version(), secured.cipher()[0], secured.getpeercert(binary_form=True)


def _certificate(broker, context: ssl.SSLContext) -> bytes | None:
    try:
        return _handshake(broker, context, "localhost")[2]
    except OSError:
        return None


def _write(certificate, key, *, days: int, authority) -> None:
    """A pair as an operator's renewal tool would leave it: two files."""
    pair = issue(authority, names=["localhost", "127.0.0.1"], now=NOW - timedelta(days=90 - days))
    private, _, chain = pair.pem.partition("-----BEGIN CERTIFICATE-----")
    key.write_text(private)
    certificate.write_text(f"-----BEGIN CERTIFICATE-----{chain}")


def _ends_ms(certificate, key) -> int:
    return int(read_pair(certificate, key, now=NOW).ends_at.timestamp() * 1000)
