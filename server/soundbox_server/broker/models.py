from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class PoisonMessage(Base):
    """An uplink that nobody could take: kept (cut to 1 KiB) and acknowledged, or it would stop every successor."""

    __tablename__ = "poison_message"
    __table_args__ = (Index("poison_message_by_device", "device_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    device_id: Mapped[str]
    topic: Mapped[str]
    payload: Mapped[bytes]
    error: Mapped[str]
    received_at_ms: Mapped[int] = mapped_column(BigInteger)


class ShardBeat(Base):
    """When the worker that owns a shard last said so: the others learn from it that somebody listens there."""

    __tablename__ = "shard_beat"

    shard: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    at_ms: Mapped[int] = mapped_column(BigInteger)
