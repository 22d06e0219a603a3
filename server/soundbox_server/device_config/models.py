from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.device_config.state import ConfigState

_STATES = ", ".join(f"'{state}'" for state in ConfigState)
_TO_DO = text("state IN ('pending', 'pushed', 'drifted')")


class ConfigLayer(Base):
    """What somebody configured for the fleet, a merchant or a box, as JSON. The narrower layer's word counts."""

    __tablename__ = "config_layer"
    __table_args__ = (
        CheckConstraint("scope IN ('fleet', 'merchant', 'device')", name="config_layer_scope"),
        CheckConstraint("scope <> 'fleet' OR subject_id = 'fleet'", name="config_layer_one_fleet"),
    )

    scope: Mapped[str] = mapped_column(primary_key=True)
    subject_id: Mapped[str] = mapped_column(primary_key=True)
    settings: Mapped[str]
    revision: Mapped[int] = mapped_column(BigInteger)  # counts its changes
    updated_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_by: Mapped[str | None]


class DeviceConfig(Base):
    """What a box is to be like, and what it said of it.

    `config` holds the exact bytes that are sent, `sha256` is theirs. `built_from` names the layers' revisions, so that
    a change of any of them is noticed; `key_version` is the key that signed the last push.
    """

    __tablename__ = "device_config"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="device_config_state"),
        CheckConstraint("(version = 0) = (state = 'none')", name="device_config_none_has_no_version"),
        Index("device_config_to_do", "state", "device_id", sqlite_where=_TO_DO, postgresql_where=_TO_DO),
    )

    device_id: Mapped[str] = mapped_column(ForeignKey("device.id"), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    config: Mapped[str]
    sha256: Mapped[str]
    built_from: Mapped[str]
    state: Mapped[str]
    key_version: Mapped[int]
    message_id: Mapped[str | None]  # the last push in the outbox
    changed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    pushed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    acked_version: Mapped[int | None] = mapped_column(BigInteger)
    acked_status: Mapped[str | None]
    acked_sha256: Mapped[str | None]
    acked_errors: Mapped[str | None]  # JSON
    acked_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    reported_version: Mapped[int | None] = mapped_column(BigInteger)
    reported_sha256: Mapped[str | None]
    reported_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # since when it says so
