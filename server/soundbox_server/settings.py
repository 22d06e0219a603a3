"""Every setting of the server, read from the environment as SOUNDBOX_<NAME>. Only the composition roots read it.

`description` and `references` feed the configuration table of the README (`soundbox settings`).
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from soundbox_server import seal
from soundbox_server.secret_files import SecretFiles

SHORTEST_SECRET = 8
Port = Annotated[int, Field(ge=0, le=65_535)]


def _setting(default: Any, description: str, *, references: str = "", secret: bool = False) -> Any:
    """`secret`: it may also come from a file (secret_files.py); what is a SecretStr may in any case."""
    return Field(default, description=description, json_schema_extra={"references": references, "secret": secret})


def _partner_secrets(value: object) -> object:
    """`sandbox=first,second;acme=third` or the same as JSON: several secrets of a partner hold during a rotation."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = (part.partition("=") for part in value.split(";") if part.strip())
    return {name.strip(): [secret.strip() for secret in secrets.split(",")] for name, _, secrets in pairs}


def _no_empty_secret(value: dict[str, list[str]]) -> dict[str, list[str]]:
    """An empty secret would let anybody sign: `name=$UNSET` and a trailing comma are mistakes to stop at."""
    for name, secrets in value.items():
        if not name or not secrets or any(len(secret) < SHORTEST_SECRET for secret in secrets):
            raise ValueError(f"each partner needs a name and secrets of at least {SHORTEST_SECRET} characters")
    return value


def _tiers(value: object) -> object:
    """`500=25;1000=100`: from 500 tokens on 25 come besides."""
    if not isinstance(value, str):
        return value
    return dict(part.split("=") for part in value.split(";") if part.strip())


def _networks(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDBOX_", env_ignore_empty=True, extra="ignore")

    environment: Literal["development", "production"] = _setting(
        "development", "production refuses default secrets and the demo seed", references="NODE_ENV"
    )
    home: Path = _setting(Path(".soundbox"), "folder of everything this running copy owns: keys, SQLite, broker files")
    database_url: str = _setting(
        "", "sqlite:///path or postgresql://user:password@host/name; default: SQLite in the home folder",
        references="DB_HOST, DB_PORT, DB_NAME, DB_USER, DB_PASSWORD, MONGO_URI", secret=True,
    )  # fmt: skip
    master_key: SecretStr = _setting(
        SecretStr(""), "32 bytes as base64url that all other keys derive from; default: the file master.key in home",
        references="JWT_ACCESS_TOKEN_SECRET, JWT_REFRESH_TOKEN_SECRET, JWT_SECRET",
    )  # fmt: skip
    master_key_previous: SecretStr = _setting(
        SecretStr(""), "earlier master keys, comma-separated: they only open what was sealed under them"
    )
    sealing_keys: SecretStr = _setting(
        SecretStr(""),
        "32-byte keys as base64url, comma-separated, newest first, that seal secrets in the database; default: one "
        "derived from the master key",
    )
    http_host: str = _setting("127.0.0.1", "address the API listens on")
    http_port: Port = _setting(8080, "port of the API", references="PORT")
    public_url: str = _setting(
        "",
        "the API's address as providers and boxes reach it; default: http://host:port",
        references="BASE_URL, NOTIFY_URL",
    )
    worker_host: str = _setting("127.0.0.1", "address of the worker's health and metrics")
    worker_port: Port = _setting(8081, "port of the worker's health and metrics")
    broker_host: str = _setting("127.0.0.1", "MQTT broker the hub connects to", references="MQTT_HOST")
    broker_port: Port = _setting(1883, "port of the MQTT broker", references="MQTT_PORT")
    broker_public_host: str = _setting("", "broker address handed to boxes at activation; default: broker_host")
    broker_public_port: Port = _setting(
        0, "port handed to boxes at activation; 0: broker_tls_port when that is on, else broker_port"
    )
    broker_tls_port: Port = _setting(
        0, "port of the broker's TLS listener for boxes; 0: none (soundbox up chooses one)"
    )
    broker_tls_host: str = _setting("127.0.0.1", "address of the TLS listeners; 0.0.0.0 lets boxes in from elsewhere")
    broker_tls_certificate: Path | None = _setting(
        None, "PEM file of the TLS listeners' certificate and its chain; default: signed by a CA made in home"
    )
    broker_tls_key: Path | None = _setting(None, "PEM file of the key that belongs to it")
    broker_tls_ca: Path | None = _setting(
        None, "PEM file of a private CA that signed it, handed to boxes at activation; not for a public CA's"
    )
    broker_provision_port: Port = _setting(
        0, "TLS port where boxes that cannot speak HTTPS ask for their name over MQTT; 0: none"
    )
    broker_connections: int = _setting(20_000, "boxes the TLS listener lets in at once")
    broker_engine: Literal["auto", "mosquitto", "embedded"] = _setting(
        "auto", "auto: Mosquitto when it is on PATH, else the embedded broker (loopback only, no per-device rights)"
    )
    broker_legacy_port: Port = _setting(
        0, "plain port, of a broker of its own, for other makers' boxes that cannot do TLS (QF100); 0: none"
    )
    broker_legacy_host: str = _setting("127.0.0.1", "address it listens on; 0.0.0.0 lets such boxes in from elsewhere")
    broker_legacy_public_host: str = _setting(
        "", "its address as it is handed to those boxes; default: broker_public_host"
    )
    broker_legacy_in_production: bool = _setting(
        False, "accept in production that passwords and messages of such boxes can be read and forged on the way"
    )
    broker_shard: int = _setting(0, "number of the broker shard this worker serves")
    access_token_minutes: int = _setting(10, "life of an access token", references="JWT_ACCESS_TOKEN_EXPIRY")
    token_signing_keys: SecretStr = _setting(
        SecretStr(""),
        "32-byte keys as base64url (soundbox keys new), comma-separated: the first signs access tokens, all prove "
        "them; default: one derived from the master key",
    )
    refresh_token_days: int = _setting(
        7, "how long a session lives without a refresh", references="JWT_REFRESH_TOKEN_EXPIRY"
    )
    require_totp: bool | None = _setting(
        None, "whether platform staff and banks must have a second factor; default: in production"
    )
    argon2_memory_kib: Annotated[int, Field(ge=19_456)] = _setting(65_536, "memory that hashing a password takes")
    argon2_time_cost: Annotated[int, Field(ge=2)] = _setting(3, "passes over that memory")
    argon2_parallelism: Annotated[int, Field(ge=1)] = _setting(4, "lanes of that memory")
    logins_per_minute: Annotated[int, Field(ge=1)] = _setting(20, "login attempts of one address")
    login_failures: Annotated[int, Field(ge=1)] = _setting(
        5, "wrong passwords for one person from one address before each further one has to wait"
    )
    login_failure_minutes: Annotated[int, Field(ge=1)] = _setting(
        15, "how long they count, and the longest they have to wait"
    )
    login_delay_s: Annotated[int, Field(ge=1)] = _setting(30, "the first wait; it doubles with each further failure")
    activation_failures_per_minute: Annotated[int, Field(ge=1)] = _setting(
        10, "wrong activation codes from one address"
    )
    password_resets_per_hour: Annotated[int, Field(ge=1)] = _setting(
        5, "reset mails for one e-mail address; for one network address four times as many"
    )
    trusted_proxies: Annotated[list[IPvAnyNetwork], NoDecode, BeforeValidator(_networks)] = _setting(
        [],
        "addresses or networks of the proxies before us, comma-separated: X-Forwarded-For is believed from them only",
    )
    mail_from: str = _setting("no-reply@soundbox.invalid", "sender of mail", references="SMTP_FROM, EMAIL_FROM")
    smtp_host: str = _setting(
        "", "SMTP server; without one, mail is put into the folder mail in home", references="SMTP_HOST"
    )
    smtp_port: Port = _setting(587, "its port", references="SMTP_PORT")
    smtp_security: Literal["starttls", "tls", "none"] = _setting(
        "starttls", "how the connection is encrypted", references="SMTP_SECURE"
    )
    smtp_user: str = _setting("", "user at the SMTP server; without one, nobody logs in", references="SMTP_USER")
    smtp_password: SecretStr = _setting(SecretStr(""), "its password", references="SMTP_PASS, SMTP_PASSWORD")
    smtp_ca_file: str = _setting("", "authority that signed its certificate, when it is one of your own")
    provider: str = _setting(
        "sandbox", "who charges where no route says otherwise: sandbox, xendit, midtrans, paylabs or a SNAP partner"
    )
    provider_fallback: str = _setting("", "who is asked when that one definitely did not charge")
    provider_routes: Annotated[dict[str, list[str]], NoDecode, BeforeValidator(_partner_secrets)] = _setting(
        {}, "other providers by method: va_bca=midtrans,xendit;ovo=xendit (a primary, and a fallback if there is one)"
    )
    provider_timeout_s: Annotated[float, Field(gt=0, le=25)] = _setting(
        15, "how long a provider may take to answer; what it did by then is found out by asking again"
    )
    xendit_secret_key: SecretStr = _setting(SecretStr(""), "Xendit's API key", references="XENDIT_SECRET_KEY")
    xendit_webhook_token: SecretStr = _setting(
        SecretStr(""), "what Xendit's callbacks carry; two, comma-separated, while it is exchanged",
        references="XENDIT_WEBHOOK_TOKEN",
    )  # fmt: skip
    xendit_url: str = _setting("https://api.xendit.co", "Xendit's API")
    xendit_qris_api: Literal["payment_requests", "qr_codes"] = _setting(
        "payment_requests",
        "by which of Xendit's APIs QRIS is issued; qr_codes finds no charge whose answer was lost",
    )
    midtrans_server_key: SecretStr = _setting(
        SecretStr(""), "Midtrans' server key; one that begins with SB- belongs to its sandbox",
        references="MIDTRANS_SERVER_KEY",
    )  # fmt: skip
    midtrans_url: str = _setting("", "Midtrans' Core API; default: by the key, the sandbox's or the real one")
    midtrans_snap_url: str = _setting("", "Midtrans' pages for cards; default: likewise")
    paylabs_merchant_id: str = _setting("", "our merchant id at Paylabs", references="MID")
    paylabs_private_key: SecretStr = _setting(
        SecretStr(""), "our RSA key that signs what we send to Paylabs, as PEM or base64", references="PRIVATE_KEY"
    )
    paylabs_public_key: SecretStr = _setting(
        SecretStr(""), "Paylabs' RSA key that its messages are proved with", references="PUBLIC_KEY"
    )
    paylabs_server: Literal["SIT", "PROD"] = _setting("PROD", "which Paylabs", references="PAYLABS_SERVER")
    paylabs_url: str = _setting("", "Paylabs' API; default: by paylabs_server")
    paylabs_signed_path: str = _setting("", "the path that Paylabs signs when it notifies us; default: the door's own")
    paylabs_fee_type: Literal["BEN", "OUR"] = _setting(
        "BEN", "who bears Paylabs' fee; OUR adds it to what is paid, which production refuses: surcharges are forbidden"
    )
    snap_partners: Path | None = _setting(
        None, "TOML file with a table for each SNAP BI acquirer: how it is reached, and its credentials"
    )
    partner_secrets: Annotated[
        dict[str, list[str]], NoDecode, BeforeValidator(_partner_secrets), AfterValidator(_no_empty_secret)
    ] = _setting(
        {}, "callback secrets by partner: name=secret,next_secret;name=…; the sandbox's derive from the master key",
        references="XENDIT_WEBHOOK_TOKEN, MIDTRANS_SERVER_KEY, PRIVATE_KEY", secret=True,
    )  # fmt: skip
    payout_bank: str = _setting(
        "", "who pays settlements out: sandbox, or nobody but people; default: the sandbox in development, else nobody"
    )
    sandbox_host: str = _setting("127.0.0.1", "address of the acquirer simulator")
    sandbox_port: Port = _setting(8082, "port of the acquirer simulator")
    sandbox_url: str = _setting("", "where the hub reaches the acquirer simulator; default: its host and port")
    sandbox_auto_pay_ms: int = _setting(0, "demo: the simulated customer pays each QR after so many ms; 0: never")
    settlement_calendar: Path | None = _setting(
        None,
        "TOML file that corrects the days on which banks are closed: lists closed and open, and the years it knows",
    )
    qr_life_s: int = _setting(300, "life of a dynamic QR", references="expiry in reference 001's sample: 5 minutes")
    wallet_life_s: int = _setting(900, "how long a payer has in an e-wallet's app")
    va_life_s: int = _setting(86_400, "life of a virtual account's number")
    card_life_s: int = _setting(3_600, "life of a page for cards")
    wallet_session_s: Annotated[int, Field(ge=1)] = _setting(600, "how long a wallet has to pay what it is asked for")
    wallet_fee_percent: Annotated[int, Field(ge=0, le=100)] = _setting(
        0, "service fee of a payment from wallet to wallet, on top of what the payee asks for"
    )
    announcement_life_s: int = _setting(60, "how long after the commit a payment may still be spoken")
    late_report_s: int = _setting(600, "a payment reported later than this is not spoken")
    webhook_loopback: bool | None = _setting(
        None, "webhooks may go to this machine itself; default: in development, and never in production"
    )
    token_bonus_tiers: Annotated[
        dict[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=0)]], NoDecode, BeforeValidator(_tiers)
    ] = _setting(
        {100: 0, 500: 25, 1_000: 100, 5_000: 750, 10_000: 2_000},
        "tokens that come besides so many bought by a partner: 500=25;1000=100",
    )
    callback_most: int = _setting(64, "callbacks that may share one commit")
    callback_waiting: int = _setting(4_096, "callbacks that may wait for a commit before 503 is answered")
    possession_check: Literal["", "off", "on"] = _setting(
        "", "on: a box speaks a code before it is bound or unbound; default: on in production, off in development"
    )
    mqtt_log_per_device: Annotated[int, Field(ge=1, le=10_000)] = _setting(
        200, "messages over MQTT of each box that are kept for looking back, both directions together"
    )
    device_log_lines: Annotated[int, Field(ge=1, le=100_000)] = _setting(1_000, "lines of each box's log that are kept")
    device_events: Annotated[int, Field(ge=1, le=100_000)] = _setting(200, "events of each box that are kept")
    silent_speaker_minutes: Annotated[int, Field(ge=1, le=1_440)] = _setting(
        10, "a box that was told of payments and played none for so long is an alert"
    )
    silent_speaker_payments: Annotated[int, Field(ge=1, le=100)] = _setting(
        2, "and so many payments: a single one may have come in the moment the plug was pulled"
    )
    keep_heartbeats_days: Annotated[int, Field(ge=1)] = _setting(30, "how long boxes' heartbeats are kept")
    keep_mqtt_log_days: Annotated[int, Field(ge=1)] = _setting(
        7, "how long messages over MQTT, and answers that no box acknowledges, are kept"
    )
    keep_device_logs_days: Annotated[int, Field(ge=1)] = _setting(14, "how long lines and files of boxes' logs stay")
    keep_device_events_days: Annotated[int, Field(ge=1)] = _setting(90, "how long boxes' events are kept")
    keep_presence_days: Annotated[int, Field(ge=31)] = _setting(
        400, "how long it is kept when boxes were online; the days of their availability are made of it"
    )
    keep_command_payloads_days: Annotated[int, Field(ge=1)] = _setting(
        90, "how long it is kept what ended commands said and were answered; that they were given stays"
    )
    scoring_model: Literal["soundbox-v2", "paybaba-v1"] = _setting(
        "soundbox-v2", "the model that merchants are scored by; scores that were given before stay"
    )
    alert_revenue_drop_threshold: Annotated[float, Field(gt=0, le=100)] = _setting(
        30, "by how many % revenue must fall before there is a warning", references="ALERT_REVENUE_DROP_THRESHOLD"
    )
    alert_refund_spike_threshold: Annotated[float, Field(gt=0, le=100)] = _setting(
        5, "by how many points the refund rate must rise", references="ALERT_REFUND_SPIKE_THRESHOLD"
    )
    alert_settlement_delay_hours: Annotated[float, Field(gt=0)] = _setting(
        72, "how many hours payouts must take on average", references="ALERT_SETTLEMENT_DELAY_HOURS"
    )
    alert_transaction_drop_threshold: Annotated[float, Field(gt=0, le=100)] = _setting(
        25, "by how many % the number of transactions must fall", references="ALERT_TRANSACTION_DROP_THRESHOLD"
    )
    alert_score_drop_threshold: Annotated[float, Field(gt=0, le=100)] = _setting(
        15, "by how many points a score must fall"
    )
    warnings_to_partners: bool = _setting(
        False, "partners with a license of a merchant's hear by webhook of its early warnings, but for its score's"
    )
    ai_api_key: SecretStr = _setting(
        SecretStr(""),
        "key of a language model that writes texts beside the built-in ones; without one there are none",
        references="QWEN_API_KEY",
    )
    ai_base_url: str = _setting(
        "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "where the model answers chat completions as OpenAI describes them",
        references="QWEN_BASE_URL",
    )
    ai_model: Annotated[str, Field(min_length=1, max_length=100)] = _setting("qwen-plus", "name of the model")
    ai_timeout_s: Annotated[float, Field(gt=0, le=60)] = _setting(5, "how long it may take to answer")
    ai_most_tokens: Annotated[int, Field(ge=100, le=10_000)] = _setting(800, "tokens that an answer may have")
    ai_calls_a_day: Annotated[int, Field(ge=1)] = _setting(
        1_000, "calls of the model on a day in Jakarta, by all processes together"
    )
    ai_private_network: bool = _setting(
        False, "the model may live on this machine or in a network of our own, there also without TLS"
    )
    log_format: Literal["json", "console"] = _setting("json", "log lines as JSON or for reading")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "least severe level logged")

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        self.home = self.home.absolute()
        self.database_url = self.database_url or f"sqlite:///{self.home / 'soundbox.db'}"
        self.public_url = (self.public_url or f"http://{self.http_host}:{self.http_port}").rstrip("/")
        if self.environment == "development" and "payout_bank" not in self.model_fields_set:
            self.payout_bank = "sandbox"
        self.sandbox_url = (self.sandbox_url or f"http://{self.sandbox_host}:{self.sandbox_port}").rstrip("/")
        self.broker_public_host = self.broker_public_host or self.broker_host
        self.broker_public_port = self.broker_public_port or self.broker_tls_port or self.broker_port
        self.broker_legacy_public_host = self.broker_legacy_public_host or self.broker_public_host
        if (self.broker_tls_certificate is None) != (self.broker_tls_key is None):
            raise ValueError("SOUNDBOX_BROKER_TLS_CERTIFICATE and SOUNDBOX_BROKER_TLS_KEY go together")
        if self.broker_provision_port and not self.broker_tls_port:
            raise ValueError("SOUNDBOX_BROKER_PROVISION_PORT needs SOUNDBOX_BROKER_TLS_PORT")
        self.ai_base_url = self.ai_base_url.rstrip("/")
        if not self.ai_base_url.startswith("https://") and not self.ai_private_network:
            raise ValueError("SOUNDBOX_AI_BASE_URL begins with https://, unless SOUNDBOX_AI_PRIVATE_NETWORK is on")
        self.possession_check = self.possession_check or ("on" if self.environment == "production" else "off")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, *others, *named.values(), SecretFiles(settings_cls))

    @property
    def boxes_use_tls(self) -> bool:
        """Whether boxes are sent to the TLS listener."""
        return self.broker_tls_port != 0

    @property
    def broker_names(self) -> tuple[str, ...]:
        """What a certificate made here is for: where boxes are sent to, and this machine's own names for itself."""
        return tuple(dict.fromkeys((self.broker_public_host, "localhost", "127.0.0.1", "::1")))

    @property
    def master(self) -> bytes:
        """The 32-byte master key. Creates the key file at the first start when no setting gives one."""
        if given := self.master_key.get_secret_value():
            return seal.parse_master_key(given)
        self.home.mkdir(parents=True, exist_ok=True)
        return _master_from_file(self.home / "master.key")

    @property
    def sealing_ring(self) -> seal.Ring:
        """The keys for sealed secrets in the database. Raises ValueError when one of them is none."""
        return seal.ring(
            self.master,
            sealing_keys=_keys(self.sealing_keys, "SOUNDBOX_SEALING_KEYS"),
            previous_masters=_keys(self.master_key_previous, "SOUNDBOX_MASTER_KEY_PREVIOUS"),
        )

    def secrets_of(self, partner: str) -> list[bytes]:
        """The callback secrets of a partner, newest first; none for a partner nobody configured."""
        if partner in self.partner_secrets:
            return [secret.encode() for secret in self.partner_secrets[partner]]
        if partner == "sandbox" and self.environment == "development":
            return [seal.base64url(seal.derive(self.master, "soundbox/sandbox/callback/v1")).encode()]
        return []

    @property
    def webhooks_may_loop_back(self) -> bool:
        return self.environment == "development" if self.webhook_loopback is None else self.webhook_loopback

    @property
    def totp_required(self) -> bool:
        return self.environment == "production" if self.require_totp is None else self.require_totp

    @property
    def token_keys(self) -> list[Ed25519PrivateKey]:
        """The key that signs access tokens, then others that prove them. An earlier master key's is none of them: after
        a leak it could sign for anybody."""
        keys = _keys(self.token_signing_keys, "SOUNDBOX_TOKEN_SIGNING_KEYS")
        given = [Ed25519PrivateKey.from_private_bytes(key) for key in keys]
        return given or [seal.token_signing_key(self.master)]

    @property
    def sandbox_api_key(self) -> str:
        return seal.base64url(seal.derive(self.master, "soundbox/sandbox/api-key/v1"))


def _keys(setting: SecretStr, variable: str) -> list[bytes]:
    try:
        return [seal.parse_master_key(text) for text in setting.get_secret_value().split(",") if text.strip()]
    except ValueError as problem:
        raise ValueError(f"{variable}: each key is 32 bytes as base64url") from problem


@lru_cache(maxsize=8)
def _master_from_file(path: Path) -> bytes:
    return seal.read_or_create_master_key(path)
