"""Accounts at providers that live in the database, and which provider takes what."""

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base
from soundbox_server.seal import SEALED


class ProviderCredential(Base):
    """What proves us to a provider, as JSON of texts, sealed. `names` are the names in it.

    Without a merchant it is the platform's, and stands before what settings say.
    """

    __tablename__ = "provider_credential"
    __table_args__ = (
        Index("provider_credential_once", "account", unique=True),
        Index("provider_credential_merchant", "merchant_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]
    provider: Mapped[str]
    merchant_id: Mapped[str | None] = mapped_column(ForeignKey("merchant.id"))
    names: Mapped[str]
    sealed: Mapped[str] = mapped_column(info=dict(SEALED))
    version: Mapped[int]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_by: Mapped[str]


class ProviderRoute(Base):
    """Which provider charges by a method, and which one when it definitely did not. Without a merchant: for all that
    have no route of their own."""

    __tablename__ = "provider_route"
    __table_args__ = (
        Index("provider_route_once", "owner", "method", unique=True),
        CheckConstraint("fallback_provider <> primary_provider", name="provider_route_two_providers"),
        CheckConstraint("owner = coalesce(merchant_id, '-')", name="provider_route_owner"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]  # the merchant or "-": a unique key that also holds for the platform's
    merchant_id: Mapped[str | None] = mapped_column(ForeignKey("merchant.id"))
    method: Mapped[str]
    primary_provider: Mapped[str]
    fallback_provider: Mapped[str | None]
    version: Mapped[int]
    changed_at_ms: Mapped[int] = mapped_column(BigInteger)
    changed_by: Mapped[str]
