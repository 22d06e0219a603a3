"""What production must not run with: one table, read by every start and by `soundbox doctor`.

A start in production lists everything that is wrong at once; in development nothing is refused. What is only doubtful
is said and not refused.
"""

import ipaddress
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from soundbox_server import failpoints
from soundbox_server.broker.mosquitto import find_mosquitto
from soundbox_server.db import Database, Statements
from soundbox_server.gateways import profiles, routed
from soundbox_server.secret_files import readable_by_others
from soundbox_server.settings import Settings

LEAST_SECRET = 16
LEAST_DIFFERENT_BYTES = 16  # of a key's 32; random ones have about 30
COMMON_PASSWORDS = {
    "",
    "admin",
    "changeme",
    "change-me",
    "example",
    "password",
    "postgres",
    "secret",
    "soundbox",
    "test",
}
DEMO_DOORS = {"/admin/seed", "/api/v1/pos/payments/{reference_id}/simulate"}


class UnsafeForProduction(Exception):
    """Everything that was found; the message is for the operator."""

    def __init__(self, problems: Iterable["Problem"]) -> None:
        self.problems = list(problems)
        lines = (f"- {problem.about}: {problem.what}\n  → {problem.mend}" for problem in self.problems)
        super().__init__("\n".join((f"not fit for production, {len(self.problems)} to mend:", *lines)))


@dataclass(frozen=True)
class Problem:
    """Something production does not start with, and what to do about it."""

    about: str
    what: str
    mend: str


Check = Callable[[Settings], Iterator[Problem]]


def problems(settings: Settings) -> list[Problem]:
    """What is wrong with the settings, whatever the environment says."""
    return [problem for check in CHECKS for problem in check(settings)]


def doubts(settings: Settings) -> list[Problem]:
    """What a start in production lets pass, and somebody ought to know of."""
    return [*_mail(settings), *_legacy(settings)]


async def database_problems(database: Database) -> list[Problem]:
    """What is wrong with the database itself. Raises what the database raises."""
    return await database.read(_look_at_postgresql if database.dialect == "postgresql" else _look_at_sqlite)


def refuse_unsafe(settings: Settings) -> None:
    """Raises UnsafeForProduction. Every process calls it before it opens anything."""
    if settings.environment == "production" and (found := problems(settings)):
        raise UnsafeForProduction(found)


async def refuse_unsafe_database(settings: Settings, database: Database) -> None:
    """Raises UnsafeForProduction. Every process that writes calls it before it serves."""
    if settings.environment == "production" and (found := await database_problems(database)):
        raise UnsafeForProduction(found)


def refuse_demo_doors(settings: Settings, paths: Callable[[], Iterable[str]]) -> None:
    """Raises UnsafeForProduction when the API was put together with a door that only a demo has."""
    if settings.environment == "production" and (found := DEMO_DOORS & set(paths())):
        raise UnsafeForProduction(Problem("API", f"{path} is open", "Leave it out in production.") for path in found)


def _master_key(settings: Settings) -> Iterator[Problem]:
    given = settings.master_key.get_secret_value()
    if not given:
        what = "none is given, so this copy would go on with one it makes for itself, in a backup of nobody's"
        mend = "soundbox keys new > a file of mode 0600; name it in SOUNDBOX_MASTER_KEY_FILE, and back it up."
        yield Problem("master key", what, mend)
        return
    try:
        kinds = (("master key", (settings.master,)), ("sealing keys", settings.sealing_ring.keys))
    except ValueError as problem:
        yield Problem("master key", str(problem), "Put the right keys back from the backup.")
        return
    for about, keys in kinds:
        if any(len(set(key)) < LEAST_DIFFERENT_BYTES for key in keys):
            yield Problem(about, "one of them is not random", "Make another with soundbox keys new.")


def _secret_files(_settings: Settings) -> Iterator[Problem]:
    for variable, path in readable_by_others(Settings):
        yield Problem("secrets", f"others may read {path} ({variable})", f"chmod 600 {path}")


def _partner_secrets(settings: Settings) -> Iterator[Problem]:
    for partner, secrets in settings.partner_secrets.items():
        if any(len(secret) < LEAST_SECRET or _is_common(secret) for secret in secrets):
            what = f"a callback secret of {partner} can be guessed: shorter than {LEAST_SECRET} characters, or a sample"
            yield Problem("partner secrets", what, "Agree on another in SOUNDBOX_PARTNER_SECRETS.")


def _database_url(settings: Settings) -> Iterator[Problem]:
    try:
        url = make_url(settings.database_url)
    except ArgumentError:
        return  # whoever opens it says so
    if url.get_backend_name() == "sqlite" or url.password is None:
        return  # without a password the server asks for something else: a socket's owner, a certificate
    if _is_common(url.password) or url.password == url.username:
        mend = "Change it, and name the new one in SOUNDBOX_DATABASE_URL_FILE."
        yield Problem("database", "its password is one that everybody tries first", mend)


def _habits(settings: Settings) -> Iterator[Problem]:
    if settings.log_level == "debug":
        yield Problem("log", "SOUNDBOX_LOG_LEVEL=debug writes more than may be kept", "Set info, warning or error.")
    if failpoints.armed():
        yield Problem("failpoint", "SOUNDBOX_FAILPOINT is set: it kills the process on purpose", "Unset it.")
    if settings.sandbox_auto_pay_ms:
        yield Problem("provider", "SOUNDBOX_SANDBOX_AUTO_PAY_MS pays QRs that nobody has paid", "Unset it.")


def _providers(settings: Settings) -> Iterator[Problem]:
    """Whom payments go to. Credentials may be in the database: the doctor looks there."""
    try:
        known = profiles(settings)
    except ValueError as problem:
        yield Problem("provider", str(problem), "Mend the file; `soundbox doctor` reads it again.")
        return
    for name in sorted(routed(settings)):
        if name == "sandbox":
            yield Problem("provider", "SOUNDBOX_PROVIDER or a route is sandbox: play money", "Name a real provider.")
        elif name not in known:
            what = f"{name} is none of {', '.join(sorted(known))}"
            yield Problem("provider", what, "Mend SOUNDBOX_PROVIDER, SOUNDBOX_PROVIDER_FALLBACK or _ROUTES.")
        elif urlsplit(known[name].base_url).scheme != "https":
            what = f"{name} is reached at {known[name].base_url}: keys would travel in the open"
            yield Problem("provider", what, "Set its https:// address.")
    if settings.paylabs_fee_type == "OUR":
        what = "SOUNDBOX_PAYLABS_FEE_TYPE=OUR has payers bear the fee: PBI 23/6/PBI/2021, article 52, forbids it"
        yield Problem("fees", what, "Set BEN.")
    if settings.payout_bank == "sandbox":
        yield Problem("payouts", "SOUNDBOX_PAYOUT_BANK is sandbox: play money", "Leave it empty, and pay by hand.")
    yield from _test_accounts(settings)
    path = settings.snap_partners
    if path is not None and path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Problem("secrets", f"others may read {path} (SOUNDBOX_SNAP_PARTNERS)", f"chmod 600 {path}")


def _test_accounts(settings: Settings) -> Iterator[Problem]:
    """Accounts at which no money moves."""
    for name, is_test in (
        ("xendit", settings.xendit_secret_key.get_secret_value().startswith("xnd_development")),
        ("midtrans", settings.midtrans_server_key.get_secret_value().startswith("SB-")),
        ("paylabs", settings.paylabs_server == "SIT" and bool(settings.paylabs_merchant_id)),
    ):
        if is_test:
            yield Problem("provider", f"{name}'s account is one for tests: no money moves", "Name the real one.")


def _broker(settings: Settings) -> Iterator[Problem]:
    if settings.broker_engine == "embedded" or (settings.broker_engine == "auto" and find_mosquitto() is None):
        what = "the embedded broker checks no passwords and no rights"
        yield Problem("broker", what, "Install Mosquitto 2 and set SOUNDBOX_BROKER_ENGINE=mosquitto.")
    if not settings.boxes_use_tls:
        what = "boxes are sent to a plain listener, where their passwords can be read on the way"
        yield Problem("broker", what, "Set SOUNDBOX_BROKER_TLS_PORT, its HOST, CERTIFICATE and KEY.")
    if settings.broker_legacy_port and not settings.broker_legacy_in_production:
        what = "SOUNDBOX_BROKER_LEGACY_PORT opens a plain listener: passwords there can be read, announcements forged"
        mend = "Unset it; or accept that for those boxes with SOUNDBOX_BROKER_LEGACY_IN_PRODUCTION=true."
        yield Problem("broker", what, mend)
    if not _is_loopback(settings.broker_host):
        what = f"the hub would send its passwords in the open to {settings.broker_host}"
        yield Problem("broker", what, "Run api and worker beside their broker: SOUNDBOX_BROKER_HOST=127.0.0.1.")


def _doors(settings: Settings) -> Iterator[Problem]:
    if urlsplit(settings.public_url).scheme != "https":
        what = f"SOUNDBOX_PUBLIC_URL is {settings.public_url}: logins and tokens would travel in the open"
        yield Problem("API", what, "Put a proxy with TLS before it and set its https:// address.")
    for about, host, setting in (
        ("API", settings.http_host, "SOUNDBOX_HTTP_HOST"),
        ("worker", settings.worker_host, "SOUNDBOX_WORKER_HOST"),
    ):
        if not _is_loopback(host) and not settings.trusted_proxies:
            what = f"{setting}={host} speaks plain HTTP to whoever comes"
            mend = "Listen on 127.0.0.1, or name the proxy before it in SOUNDBOX_TRUSTED_PROXIES."
            yield Problem(about, what, mend)
    if any(network.prefixlen == 0 for network in settings.trusted_proxies):
        what = "SOUNDBOX_TRUSTED_PROXIES names everybody, which lets any caller choose the address it is counted under"
        yield Problem("API", what, "Name the proxies' addresses or networks.")


def _home(settings: Settings) -> Iterator[Problem]:
    if settings.home.exists() and stat.S_IMODE(settings.home.stat().st_mode) & 0o007:
        what = f"everybody on this machine may look into {settings.home}"
        yield Problem("home", what, f"chmod 750 {settings.home}")


def _webhooks(settings: Settings) -> Iterator[Problem]:
    if settings.webhook_loopback:
        what = "whoever names an address for webhooks could reach what listens on this machine only"
        yield Problem("webhooks", what, "Leave SOUNDBOX_WEBHOOK_LOOPBACK out.")


def _mail(settings: Settings) -> Iterator[Problem]:
    if not settings.smtp_host:
        what = f"no mail leaves: invitations and links for new passwords stay in {settings.home / 'mail'}"
        yield Problem("mail", what, "Name a server in SOUNDBOX_SMTP_HOST, with its USER and PASSWORD.")
        return
    if settings.smtp_security == "none" and not _is_loopback(settings.smtp_host):
        what = f"links that open accounts go in the open to {settings.smtp_host}"
        yield Problem("mail", what, "Set SOUNDBOX_SMTP_SECURITY to starttls or tls.")
    if settings.mail_from.rstrip("> ").endswith(".invalid"):
        what = f"it is sent by {settings.mail_from}, which no server takes for true"
        yield Problem("mail", what, "Set SOUNDBOX_MAIL_FROM to an address of your own.")


def _legacy(settings: Settings) -> Iterator[Problem]:
    if settings.broker_legacy_port:
        what = "other makers' boxes believe whoever can read their password on the way, and confirm nothing"
        yield Problem("broker", what, "Let in only the networks these boxes come from, and replace them in time.")


CHECKS: tuple[Check, ...] = (
    _master_key, _secret_files, _partner_secrets, _database_url, _habits, _providers, _broker, _doors, _home,
    _webhooks,
)  # fmt: skip


async def _look_at_postgresql(tx: Statements) -> list[Problem]:
    found = [
        Problem(
            "database",
            f"{setting} is off: a power cut would lose what was answered",
            f"ALTER SYSTEM SET {setting} = on;",
        )
        for setting in ("fsync", "full_page_writes", "synchronous_commit")
        if (await tx.fetch(f"SELECT current_setting('{setting}') AS value"))[0]["value"] == "off"
    ]
    return found + await _demo_accounts(tx)


async def _look_at_sqlite(tx: Statements) -> list[Problem]:
    """We ask for WAL and FULL at each connection; some file systems cannot have the first."""
    mode, sync = [(await tx.fetch(f"PRAGMA {name}"))[0][0] for name in ("journal_mode", "synchronous")]
    found = []
    if (mode, sync) != ("wal", 2):
        what = f"SQLite runs with journal_mode={mode}, synchronous={sync}, and not with WAL and FULL"
        found.append(Problem("database", what, "Put it on a local file system, or use PostgreSQL."))
    return found + await _demo_accounts(tx)


async def _demo_accounts(tx: Statements) -> list[Problem]:
    rows = await tx.fetch("SELECT count(*) AS many FROM person WHERE email LIKE '%@demo.test'")
    if not rows[0]["many"]:
        return []
    what = f"{rows[0]['many']} accounts of the demo are in it, whose password is printed in the handbook"
    return [Problem("database", what, "Begin with an empty database: the demo seed is for development.")]


def _is_common(secret: str) -> bool:
    return secret.lower() in COMMON_PASSWORDS or secret.lower().startswith(("change", "example", "sample"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
