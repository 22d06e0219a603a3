"""Mail from the outbox to a folder or a server: once it can, again when it could not, and dead in the end."""

import asyncio
import datetime
import ipaddress
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import time_machine
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.databases import fresh_database
from support.hub import open_hub
from support.ports import free_port
from support.shop import NOW, execute, row, rows

from soundbox_server import clock, seal
from soundbox_server.db import Database
from soundbox_server.mail.jobs import RETRY_AFTER_S, Postman
from soundbox_server.mail.service import Mail, queue_mail
from soundbox_server.mail.sinks import FileSink, Sink, SmtpSink
from soundbox_server.outbox import letters
from soundbox_server.outbox import service as outbox

RING = seal.ring(bytes(range(32)))
MAIL = Mail(kind="invitation", person_id="per_1", to="siti@warung.test", subject="Halo: Siti", text="Tautan: à\n")


async def queue(database: Database, **other: Any) -> str:
    at_ms = clock.now_ms()
    return await database.write(
        lambda tx: queue_mail(tx, MAIL, ring=RING, owner="test", trace_id="trc", now_ms=at_ms, **other)
    )


def postman(database: Database, sink: Sink, *, owner: str = "one", **other: Any) -> Postman:
    return Postman(database, sink, ring=RING, sender="Soundbox <no-reply@shop.test>", owner=owner, **other)


async def states(database: Database) -> dict[str, str]:
    return {one["id"]: one["state"] for one in await rows(database, "SELECT id, state FROM outbox_message")}


class Sinkhole:
    """A sink that fails in these ways, one after the other, and then works."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.got: list[str] = []

    def __call__(self, message: EmailMessage, mail_id: str) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.got.append(mail_id)


async def test_a_mail_becomes_a_file_that_only_its_owner_reads(database: Database, tmp_path: Path) -> None:
    mail_id = await queue(database)

    await postman(database, FileSink(tmp_path / "mail")).tick()

    [path] = (tmp_path / "mail").iterdir()
    text = path.read_bytes()
    assert path.name == f"{mail_id}.eml"
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    assert b"To: siti@warung.test\r\n" in text
    assert f"Message-ID: <{mail_id}@shop.test>".encode() in text
    assert await states(database) == {mail_id: "sent"}


async def test_what_fails_is_tried_again_by_the_table_and_is_dead_in_the_end(database: Database) -> None:
    mail_id = await queue(database)
    sink = Sinkhole(*[ConnectionRefusedError()] * 100)
    tries = []
    with time_machine.travel(clock.now_ms() / 1000 + 1, tick=False) as moved:
        for wait in (*RETRY_AFTER_S, 86_400):
            await postman(database, sink).tick()
            await postman(database, sink).tick()  # too early: changes nothing
            tries.append(await row(database, "SELECT state, attempt, reason FROM outbox_message"))
            moved.shift(wait)
        await postman(database, sink).tick()

    last = len(RETRY_AFTER_S) + 1
    assert [tried["attempt"] for tried in tries] == list(range(1, last + 1))
    assert [tried["state"] for tried in tries] == ["published"] * (last - 1) + ["failed"]
    assert {tried["reason"] for tried in tries} == {"ConnectionRefusedError"}
    assert len(sink.failures) == 100 - last
    assert await states(database) == {mail_id: "failed"}


async def test_a_failure_that_passes_costs_a_delay(database: Database) -> None:
    mail_id, sink = await queue(database), Sinkhole(TimeoutError())
    with time_machine.travel(clock.now_ms() / 1000 + 1, tick=False) as moved:
        await postman(database, sink).tick()
        moved.shift(RETRY_AFTER_S[0])
        await postman(database, sink).tick()

    assert sink.got == [mail_id]


async def test_what_has_expired_is_not_sent(database: Database) -> None:
    mail_id, sink = await queue(database, expires_at_ms=clock.now_ms() + 1_000), Sinkhole()
    with time_machine.travel(clock.now_ms() / 1000 + 2, tick=False):
        await postman(database, sink).tick()
        await database.write(lambda tx: outbox.expire(tx, now_ms=clock.now_ms()))

    assert sink.got == []
    assert await states(database) == {mail_id: "expired"}


async def test_two_postmen_send_each_mail_once(database_url: str) -> None:
    first, second = Database(database_url), Database(database_url)
    try:
        for _ in range(15):
            await queue(first)
        sink = Sinkhole()
        await asyncio.gather(*(postman(one, sink).tick() for one in (first, second, first, second)))

        assert len(sink.got) == len(set(sink.got)) == 15
    finally:
        await first.close()
        await second.close()


class SlowSink(Sinkhole):
    """Takes the first mail only when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, message: EmailMessage, mail_id: str) -> None:
        if not self.has_begun.is_set():
            self.has_begun.set()
            assert self.go_on.wait(30)
        super().__call__(message, mail_id)


async def test_a_mail_that_takes_longer_than_its_lease_is_sent_once_and_holds_up_no_other(database: Database) -> None:
    slow, other = await queue(database), await queue(database)
    sink, quick = SlowSink(), Sinkhole()
    with time_machine.travel(clock.now_ms() / 1000 + 1, tick=False) as moved:
        sending = asyncio.create_task(postman(database, sink, hold_every_s=0.01).tick())
        await asyncio.to_thread(sink.has_begun.wait, 30)
        for _ in range(3):
            moved.shift(letters.LEASE_MS / 1000 - 1)
            await held_until(database, slow, clock.now_ms() + letters.LEASE_MS)
            await postman(database, quick, owner="two").tick()
        sink.go_on.set()
        await sending

    assert (quick.got, sink.got) == ([other], [slow])
    assert await states(database) == {slow: "sent", other: "sent"}


async def held_until(database: Database, mail_id: str, due_at_ms: int) -> None:
    async with asyncio.timeout(30):
        while (await row(database, "SELECT due_at_ms FROM outbox_message WHERE id = $1", mail_id))["due_at_ms"] != (
            due_at_ms
        ):
            await asyncio.sleep(0.01)


async def test_a_postman_who_crashed_holds_a_mail_up_for_its_lease(database: Database) -> None:
    mail_id, sink = await queue(database), Sinkhole()
    at_ms = clock.now_ms()
    await database.write(lambda tx: letters.claim(tx, "mail", now_ms=at_ms, owner="crashed", limit=9))
    await postman(database, sink).tick()
    before = list(sink.got)
    with time_machine.travel((at_ms + letters.LEASE_MS) / 1000 + 1, tick=False):
        await postman(database, sink).tick()
    await database.write(lambda tx: letters.failed(
        tx, mail_id, attempt=1, reason="late", now_ms=at_ms, retry_after_s=RETRY_AFTER_S))  # fmt: skip

    assert (before, sink.got) == ([], [mail_id])
    assert await states(database) == {mail_id: "sent"}  # the late word of the one who crashed changes nothing


async def test_a_mail_whose_key_is_gone_is_put_off_and_says_so(database: Database) -> None:
    await queue(database)
    sink = Sinkhole()
    other = Postman(database, sink, ring=seal.ring(bytes(32)), sender="a@b.test", owner="x")
    await other.tick()

    assert sink.got == []
    assert (await row(database, "SELECT reason FROM outbox_message"))["reason"] == "CannotUnseal"


async def test_the_boxes_sweep_leaves_mail_alone_and_mail_leaves_boxes_alone(database: Database) -> None:
    mail_id = await queue(database)
    said = outbox.Message(
        id="evt_1", kind="payment_success", recipient_id="sbx_001", address="t", body=b"{}", created_at_ms=NOW,
        expires_at_ms=None, trace_id="trc",
    )  # fmt: skip
    later = clock.now_ms() + 60_000

    async def sweep(tx: Any) -> list[str]:
        await outbox.queue(tx, [said], owner="test")
        tx.queued.clear()
        await outbox.make_due(tx, recipients=["sbx_001"], now_ms=NOW)
        assert await outbox.waiting_for_birth(tx, now_ms=later) == []
        await outbox.claim_due(tx, now_ms=later, owner="test")
        return [message.id for message in tx.queued]

    claimed = await database.write(sweep)
    await postman(database, sink := Sinkhole()).tick()

    assert (claimed, sink.got) == (["evt_1"], [mail_id])


async def test_mail_that_ended_a_month_ago_is_forgotten_and_what_waits_is_not(database: Database) -> None:
    sent, waiting, young = await queue(database), await queue(database), await queue(database)
    month_ms = 30 * 24 * 3_600_000
    for mail_id, ended_at_ms in ((sent, clock.now_ms() - month_ms), (young, clock.now_ms() - month_ms + 60_000)):
        await execute(
            database,
            "UPDATE outbox_message SET state = 'sent', finished_at_ms = $2 WHERE id = $1",
            mail_id,
            ended_at_ms,
        )

    await postman(database, Sinkhole()).forget()

    assert set(await states(database)) == {waiting, young}


async def test_finding_what_is_due_reads_an_index_of_letters_alone(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    database = Database(fresh_database(request, "sqlite", tmp_path))
    try:
        plan = await rows(
            database,
            "EXPLAIN QUERY PLAN SELECT id FROM outbox_message WHERE transport = 'mail' AND transport <> 'mqtt' "
            "AND state IN ('queued', 'published') AND due_at_ms <= 5 AND (expires_at_ms IS NULL OR expires_at_ms > 5) "
            "ORDER BY due_at_ms, id LIMIT 20",
        )
        assert "outbox_letter_due" in str(plan)
    finally:
        await database.close()


async def test_operators_see_dead_letters_and_not_what_they_say(database_url: str, tmp_path: Path) -> None:
    async with open_hub(database_url, tmp_path / "home") as hub:
        database, ring = hub.app.state.database, hub.app.state.sealing_ring
        at_ms = clock.now_ms()
        await database.write(lambda tx: queue_mail(tx, MAIL, ring=ring, owner="t", trace_id="t", now_ms=at_ms))
        await execute(database, "UPDATE outbox_message SET state = 'failed', reason = 'SMTPDataError', attempt = 7")
        dead = await hub.http.get("/admin/mails?status=failed&person_id=per_1", headers=hub.as_role("support"))
        sent = await hub.http.get("/admin/mails?status=sent", headers=hub.as_role("support"))

    [one] = dead.json()["data"]
    assert (one["status"], one["reason"], one["attempts"], one["kind"]) == ("failed", "SMTPDataError", 7, "invitation")
    assert "warung.test" not in dead.text
    assert sent.json()["data"] == []


# A real server


class Server:
    """An SMTP server that answers each RCPT with the next of these, then with 250."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.got: list[Envelope] = []

    async def handle_RCPT(self, _s: Any, _session: Any, envelope: Envelope, address: str, _o: Any) -> str:  # noqa: N802
        if self.answers:
            return self.answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        self.got.append(envelope)
        return "250 OK"


@contextmanager
def serving(server: Server, **options: Any) -> Iterator[int]:
    port = free_port()
    controller = Controller(server, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "mail.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def authenticates(_s: Any, _session: Any, _e: Any, mechanism: str, data: Any) -> AuthResult:
    known = (data.login, data.password) == (b"hub", b"let me in")
    return AuthResult(success=known, handled=known)  # not handled: the server itself says no


async def test_a_server_with_starttls_and_a_login_gets_the_mail(database: Database, certificate: Path) -> None:
    mail_id, server = await queue(database), Server()
    options = {"tls_context": tls(certificate), "require_starttls": True, "authenticator": authenticates,
               "auth_required": True}  # fmt: skip
    with serving(server, **options) as port:
        sink = SmtpSink(host="127.0.0.1", port=port, user="hub", password="let me in", cafile=str(certificate))
        await postman(database, sink).tick()

    [got] = server.got
    assert (got.mail_from, got.rcpt_tos) == ("no-reply@shop.test", ["siti@warung.test"])
    assert b"Subject: Halo: Siti" in bytes(got.original_content or b"")
    assert await states(database) == {mail_id: "sent"}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"cafile": None}, "SSLCertVerificationError"), ({"password": "wrong"}, "SMTPAuthenticationError"),
    ],
)  # fmt: skip
async def test_a_server_that_cannot_be_trusted_or_does_not_know_us_gets_nothing(
    database: Database, certificate: Path, other: dict[str, Any], reason: str
) -> None:
    await queue(database)
    server = Server()
    options = {"tls_context": tls(certificate), "require_starttls": True, "authenticator": authenticates}
    with serving(server, **options) as port:
        how: dict[str, Any] = {"user": "hub", "password": "let me in", "cafile": str(certificate)}
        await postman(database, SmtpSink(host="127.0.0.1", port=port, **how | other)).tick()

    assert server.got == []
    assert await row(database, "SELECT state, reason FROM outbox_message") == {"state": "published", "reason": reason}


async def test_a_server_without_encryption_is_not_spoken_to_unless_it_is_asked_for(database: Database) -> None:
    await queue(database)
    server = Server()
    with serving(server) as port:
        await postman(database, SmtpSink(host="127.0.0.1", port=port)).tick()
        refused = await row(database, "SELECT reason FROM outbox_message")
        with time_machine.travel(time.time() + RETRY_AFTER_S[0] + 1, tick=True):
            await postman(database, SmtpSink(host="127.0.0.1", port=port, security="none")).tick()

    assert refused["reason"] == "SMTPNotSupportedError"
    assert len(server.got) == 1


@pytest.mark.parametrize(("answer", "state"), [("451 later", "published"), ("550 no such user", "failed")])
async def test_a_refusal_for_good_is_dead_at_once_and_one_for_now_is_not(
    database: Database, answer: str, state: str
) -> None:
    mail_id = await queue(database)
    with serving(Server(answer)) as port:
        await postman(database, SmtpSink(host="127.0.0.1", port=port, security="none")).tick()

    assert await states(database) == {mail_id: state}
