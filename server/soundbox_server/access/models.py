from sqlalchemy import BigInteger, CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.db import Base


class Organisation(Base):
    """A tenant and login root."""

    __tablename__ = "organisation"
    __table_args__ = (CheckConstraint("kind IN ('platform', 'merchant', 'partner', 'bank')", name="organisation_kind"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class Person(Base):
    """Somebody who can log in. The e-mail address is stored in lower case."""

    __tablename__ = "person"
    __table_args__ = (
        CheckConstraint(
            "role IN ('platform_admin', 'operator', 'finance', 'support', 'merchant_owner', 'merchant_staff', "
            "'bank', 'partner')",
            name="person_role",
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisation.id"), index=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    role: Mapped[str]
    password_hash: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
