"""One try, at receivers of every kind: those that answer, those that wander off, and those that mean harm."""

import asyncio
import datetime
import gzip
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.ports import free_port
from support.receiver import OK, answered, receiving

from soundbox_server.webhooks.addresses import Reach
from soundbox_server.webhooks.sender import MOST_READ, Answer, Resolve, Sender, look_up

HERE = Reach(https_only=False, loopback=True)
NAME = "hooks.shop.test"
TRUST = httpx.create_ssl_context()


def sender(
    *, reach: Reach = HERE, resolve: Resolve = look_up, timeout_s: float = 5, trust: ssl.SSLContext | None = None
) -> Sender:
    return Sender(reach=reach, trust=trust or TRUST, resolve=resolve, timeout_s=timeout_s)


async def post(url: str, by: Sender) -> Answer:
    return await by.post(url, headers={"Content-Type": "application/json", "webhook-id": "whe_1"}, body=b'{"a":1}')


class Names:
    """A resolver that answers differently each time, as whoever owns a name may."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def test_a_receiver_gets_the_exact_body_and_its_answer_is_kept() -> None:
    async with receiving() as receiver:
        answer = await post(receiver.url("/hooks?shop=1"), sender())

    (got,) = receiver.got
    assert (answer.status, answer.taken, answer.body, answer.error) == (200, True, b"ok", None)
    assert answer.address == "127.0.0.1"
    assert (got.path, got.body) == ("/hooks?shop=1", b'{"a":1}')
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert (got.headers["webhook-id"], got.headers["accept-encoding"]) == ("whe_1", "identity")


async def test_the_connection_goes_to_the_address_that_was_judged() -> None:
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    async with receiving() as receiver:
        first = await post(receiver.url(host=NAME), sender(resolve=names))
        second = await post(receiver.url(host=NAME), sender(resolve=names))

    assert (first.status, first.address) == (200, "127.0.0.1")
    assert receiver.got[0].headers["host"] == f"{NAME}:{receiver.port}"
    assert (second.status, second.error) == (None, "address_refused")  # asked anew, and judged anew
    assert names.asked == [NAME, NAME]  # once for each try: the connection asks nobody
    assert receiver.connections == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "10.0.0.1", "169.254.169.254"])
async def test_a_name_that_leads_inside_is_not_followed(address: str) -> None:
    async with receiving() as receiver:
        outward = sender(reach=Reach(https_only=False), resolve=Names([address]))
        answer = await post(receiver.url(host=NAME), outward)

    assert (answer.status, answer.error) == (None, "address_refused")
    assert receiver.connections == 0


async def test_one_bad_address_among_good_ones_is_enough() -> None:
    async with receiving() as receiver:
        answer = await post(receiver.url(host=NAME), sender(resolve=Names(["127.0.0.1", "10.0.0.1"])))

    assert (answer.error, receiver.connections) == ("address_refused", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
async def test_this_machine_is_not_reached_under_any_of_its_names(host: str) -> None:
    async with receiving() as receiver:
        answer = await post(receiver.url(host=host), sender(reach=Reach(https_only=False)))

    assert (answer.error, receiver.connections) == ("address_refused", 0)


async def test_production_goes_nowhere_without_tls() -> None:
    async with receiving() as receiver:
        answer = await post(receiver.url(), sender(reach=Reach(https_only=True, loopback=True)))

    assert (answer.error, receiver.connections) == ("address_refused", 0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    async with receiving() as elsewhere, receiving(answered(status, b"", f"Location: {elsewhere.url()}")) as receiver:
        answer = await post(receiver.url(), sender())

    assert (answer.taken, answer.reason) == (False, "redirected")
    assert elsewhere.connections == 0


@pytest.mark.parametrize(("status", "taken"), [(200, True), (204, True), (299, True), (400, False), (500, False)])
async def test_only_2xx_is_taken(status: int, taken: bool) -> None:
    async with receiving(answered(status)) as receiver:
        answer = await post(receiver.url(), sender())

    assert (answer.taken, answer.status) == (taken, status)


async def test_a_receiver_that_never_answers_costs_the_timeout() -> None:
    async with receiving(None) as receiver:
        answer = await post(receiver.url(), sender(timeout_s=0.3))

    assert answer.error == "timeout"
    assert 300 <= answer.duration_ms < 3_000


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"])
async def test_headers_or_a_body_that_drip_cost_the_timeout(head: bytes) -> None:
    """Each byte comes in time; all of them together never do."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        try:
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            return

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answer = await post(f"http://127.0.0.1:{port}/", sender(timeout_s=0.4))

    assert answer.error == "timeout"
    assert answer.duration_ms < 3_000


async def test_of_a_huge_answer_a_beginning_is_read() -> None:
    async with receiving(answered(200, b"x" * 5_000_000)) as receiver:
        answer = await post(receiver.url(), sender())

    assert (answer.taken, len(answer.body)) == (True, MOST_READ)


async def test_an_endless_header_is_no_answer() -> None:
    async with receiving(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1_000_000) as receiver:
        answer = await post(receiver.url(), sender())

    assert answer.error in ("bad_answer", "connection_lost")
    assert answer.body == b""


async def test_a_packed_answer_stays_packed() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    async with receiving(answered(200, bomb, "Content-Encoding: gzip")) as receiver:
        answer = await post(receiver.url(), sender())

    assert answer.taken
    assert answer.body == bomb[:MOST_READ]


async def test_an_answer_that_is_none_is_a_failure() -> None:
    for said in (b"220 mail.example ESMTP\r\n\r\n", b"", b"\x00\xff" * 100):
        async with receiving(said) as receiver:
            answer = await post(receiver.url(), sender())

        assert (answer.taken, answer.error) == (False, "bad_answer"), said


async def test_nobody_listening_and_nobody_of_that_name_are_told_apart() -> None:
    async def nobody(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror("no such name")

    assert (await post(f"http://127.0.0.1:{free_port()}/", sender())).error == "connection_failed"
    assert (await post(f"http://{NAME}/", sender(resolve=nobody))).error == "name_not_found"


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's side with a certificate of this name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = folder / f"{name}.pem"
    pem.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(pem)
    return serving, ssl.create_default_context(cafile=str(pem))


async def test_tls_proves_the_name_though_the_address_is_pinned(tmp_path: Path) -> None:
    serving, trust = certificate(tmp_path, NAME)
    names: list[str | None] = []
    serving.sni_callback = lambda _socket, name, _context: names.append(name)
    async with receiving(OK, tls=serving) as receiver:
        right = await post(receiver.url(host=NAME), sender(resolve=Names(["127.0.0.1"]), trust=trust))
        wrong = await post(receiver.url(host="other.shop.test"), sender(resolve=Names(["127.0.0.1"]), trust=trust))
        stranger = await post(receiver.url(host=NAME), sender(resolve=Names(["127.0.0.1"])))

    assert (right.status, names[0]) == (200, NAME)
    assert (wrong.error, stranger.error) == ("tls_failed", "tls_failed")
    assert len(receiver.got) == 1
