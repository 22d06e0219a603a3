from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, false, text, true
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.devices.state import CredentialState, DeviceState

_STATES = ", ".join(f"'{state}'" for state in DeviceState)
_CREDENTIAL_STATES = ", ".join(f"'{state}'" for state in CredentialState)
_ACTIVE = text("unbound_at_ms IS NULL")
_IN_FORCE = text("state = 'active'")
_UNCONFIRMED = text("state = 'issued'")
_RUNNING = text("ended_at_ms IS NULL")
_DUE = text("state = 'active' AND rotate_by_ms IS NOT NULL")


class Device(Base):
    """A soundbox. Its row's lock guards `last_seq`, the number of the last message it was told in order."""

    __tablename__ = "device"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="device_state_known"),
        CheckConstraint("id NOT LIKE 'hub-%'", name="device_id_not_the_hubs"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    serial_number: Mapped[str] = mapped_column(unique=True)
    vendor: Mapped[str]
    model: Mapped[str]
    batch_id: Mapped[str | None]  # the file it was registered with
    state: Mapped[str]
    state_reason: Mapped[str | None]  # what the operator said who suspended, revoked or retired it
    key_version: Mapped[int]
    last_seq: Mapped[int] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    label: Mapped[str | None]
    notes: Mapped[str | None]
    activated_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # the last time: its numbers began anew
    tags: Mapped[str] = mapped_column(server_default="")  # each between two blanks, as in " pilot east "
    codec: Mapped[str] = mapped_column(server_default="native")  # how it is spoken to; vendor and model choose it


class DeviceBinding(Base):
    """Where a box stands. One binding in force for each box; ended ones stay as history."""

    __tablename__ = "device_binding"
    __table_args__ = (
        Index("device_bound_once", "device_id", unique=True, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
        Index("device_binding_terminal", "terminal_id", sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
        Index("device_binding_outlet", "outlet_id", sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"))
    merchant_id: Mapped[str] = mapped_column(ForeignKey("merchant.id"))
    outlet_id: Mapped[str] = mapped_column(ForeignKey("outlet.id"))
    terminal_id: Mapped[str] = mapped_column(ForeignKey("terminal.id"))
    bound_at_ms: Mapped[int] = mapped_column(BigInteger)
    unbound_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class ActivationCode(Base):
    """One code for one box, consumed by one atomic update; only its SHA-256 is kept."""

    __tablename__ = "activation_code"

    code_sha256: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), index=True)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    failures: Mapped[int]
    consumed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class ProvisionAnswer(Base):
    """What a box that asked over MQTT was answered, for ten minutes: the code is used up, and the answer may be lost.

    `answer` is sealed once more with a key of the hub's own, because whoever reads the code's hash could open it.
    """

    __tablename__ = "provision_answer"

    nonce: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    answer: Mapped[bytes]
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)


class DeviceCredential(Base):
    """What a box proves itself with: a token over HTTP (its SHA-256) and a password at the broker ($7$ hash).

    A rotation has two of them for a while: the new one is `issued` until the box confirms that it has stored it, then
    the old one is `superseded`, and its token works until the new one is first used or until `expires_at_ms`.
    """

    __tablename__ = "device_credential"
    __table_args__ = (
        CheckConstraint(f"state IN ({_CREDENTIAL_STATES})", name="device_credential_state"),
        Index(
            "device_credential_in_force", "device_id", unique=True, sqlite_where=_IN_FORCE, postgresql_where=_IN_FORCE
        ),
        Index(
            "device_credential_unconfirmed",
            "device_id",
            unique=True,
            sqlite_where=_UNCONFIRMED,
            postgresql_where=_UNCONFIRMED,
        ),
        Index("device_credential_overdue", "rotate_by_ms", sqlite_where=_DUE, postgresql_where=_DUE),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"))
    token_sha256: Mapped[str] = mapped_column(unique=True)
    broker_hash: Mapped[str]
    state: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    first_used_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # over HTTP, since it is in force
    expires_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # of a superseded one's token; none: at once
    rotate_asked_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    rotate_by_ms: Mapped[int | None] = mapped_column(BigInteger)  # revoked when it is still in force then


class CredentialRevision(Base):
    """One row that counts every change the broker has to learn of; bumped in the change's own transaction."""

    __tablename__ = "credential_revision"
    __table_args__ = (CheckConstraint("id = 1", name="credential_revision_is_one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class BrokerReport(Base):
    """What each supervised broker last said it lets in: the worker that compares may run on another machine."""

    __tablename__ = "broker_report"

    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int | None] = mapped_column(BigInteger)  # that the running broker has read; None: none yet
    users: Mapped[int]
    digest: Mapped[str]  # SHA-256 over the devices' lines of its password file
    reported_at_ms: Mapped[int] = mapped_column(BigInteger)


class DevicePresence(Base):
    """The latest a box said of itself, and how its sessions go.

    Apart from `device`, so that a heartbeat never waits for a payment.
    """

    __tablename__ = "device_presence"
    __table_args__ = (
        CheckConstraint("quarantine IN ('cloned', 'flapping')", name="device_presence_quarantine"),
        CheckConstraint("quarantine IS NULL OR NOT online", name="device_presence_quarantined_is_offline"),
    )

    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    online: Mapped[bool]
    session_epoch: Mapped[int] = mapped_column(BigInteger)
    last_seen_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int] = mapped_column(BigInteger)
    firmware_version: Mapped[str | None]
    max_payload_bytes: Mapped[int]
    verifies_signatures: Mapped[bool]
    command_progress: Mapped[bool] = mapped_column(server_default=false())  # tells how its commands end
    has_clock: Mapped[bool] = mapped_column(server_default=true())  # of its own, without asking
    takes_digests: Mapped[bool] = mapped_column(server_default=true())
    time_asked_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    has_display: Mapped[bool] = mapped_column(server_default=true())
    network_strength: Mapped[int | None]
    battery_level: Mapped[int | None]
    state: Mapped[str | None]
    volume: Mapped[int | None]
    heartbeat_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    heartbeat_s: Mapped[int | None]  # how often it was told to send one
    session_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # when its last birth came
    said_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # the box's own time in it
    offline_reason: Mapped[str | None]
    window_began_ms: Mapped[int] = mapped_column(BigInteger, server_default="0")  # since when births are counted
    births: Mapped[int] = mapped_column(server_default="0")
    strays: Mapped[int] = mapped_column(server_default="0")  # of which some other box's
    stray_epoch: Mapped[int | None] = mapped_column(BigInteger)  # and what the last of those said
    stray_said_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    quarantine: Mapped[str | None]


class DeviceOnline(Base):
    """A time during which a box could be reached, from a birth to whatever ended it."""

    __tablename__ = "device_online"
    __table_args__ = (
        CheckConstraint("ended_at_ms >= began_at_ms", name="device_online_ends_after_it_began"),
        Index("device_online_once", "device_id", unique=True, sqlite_where=_RUNNING, postgresql_where=_RUNNING),
        Index("device_online_by_device", "device_id", "began_at_ms"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"))
    began_at_ms: Mapped[int] = mapped_column(BigInteger)
    ended_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    end_reason: Mapped[str | None]


class ConfigWindow(Base):
    """The time in which a box that can prove nothing may ask for its settings, and what it is recognised by.

    One row for each such box, opened again and again; the numbers it was first given settings under stay pinned.
    """

    __tablename__ = "config_window"

    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    opened_at_ms: Mapped[int] = mapped_column(BigInteger)
    closes_at_ms: Mapped[int] = mapped_column(BigInteger)
    opened_by: Mapped[str | None]
    imei: Mapped[str | None]
    iccid: Mapped[str | None]
    failures: Mapped[int]  # calls in this window that came with other numbers
    grants: Mapped[int]  # since it was first opened
    granted_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class DeviceHeartbeat(Base):
    """History of heartbeats, as they came."""

    __tablename__ = "device_heartbeat"
    __table_args__ = (Index("device_heartbeat_by_device", "device_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"))
    received_at_ms: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str]
    payload: Mapped[bytes]
