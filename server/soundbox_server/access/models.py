from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from soundbox_server.access.state import ROLES_OF
from soundbox_server.db import Base
from soundbox_server.seal import SEALED


def _names(values: frozenset[str]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


_ROLE_FITS = " OR ".join(
    f"organisation_kind = '{kind}' AND role IN ({_names(roles)})" for kind, roles in ROLES_OF.items()
)


class Organisation(Base):
    """A tenant and login root."""

    __tablename__ = "organisation"
    __table_args__ = (
        CheckConstraint("kind IN ('platform', 'merchant', 'partner', 'bank')", name="organisation_kind"),
        Index("organisation_with_kind", "id", "kind", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class Person(Base):
    """Somebody who can log in: one organisation, one role. The e-mail address is stored in lower case.

    The organisation's kind stands here as well, so that the database itself refuses a role that does not fit it.
    """

    __tablename__ = "person"
    __table_args__ = (
        ForeignKeyConstraint(
            ["organisation_id", "organisation_kind"],
            ["organisation.id", "organisation.kind"],
            name="person_organisation",
        ),
        CheckConstraint(_ROLE_FITS, name="person_role_fits"),
        CheckConstraint("state IN ('invited', 'active', 'disabled')", name="person_state_known"),
        CheckConstraint("state <> 'active' OR password_hash IS NOT NULL", name="person_active_has_password"),
        CheckConstraint("email = lower(email)", name="person_email_lower"),
        CheckConstraint("language IN ('id', 'en')", name="person_language_known"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(index=True)
    organisation_kind: Mapped[str]
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    role: Mapped[str]
    state: Mapped[str]
    language: Mapped[str]
    password_hash: Mapped[str | None]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class PersonProfile(Base):
    """What somebody told of themselves when they registered. `referral_code` is theirs to hand on."""

    __tablename__ = "person_profile"

    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)
    phone_number: Mapped[str | None]
    address: Mapped[str | None]
    referral_code: Mapped[str] = mapped_column(unique=True)
    referred_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class LoginSession(Base):
    """One login, until it ends. `kind` says what proves it: rotating refresh tokens, a browser's cookie, or a partner's
    token that lives as long as the session. What it was proved with is in `session_secret`."""

    __tablename__ = "login_session"
    __table_args__ = (
        CheckConstraint("kind IN ('token', 'browser', 'partner')", name="login_session_kind_known"),
        CheckConstraint("(ended_at_ms IS NULL) = (end_reason IS NULL)", name="login_session_end_has_reason"),
        Index("login_session_of_person", "person_id", "id"),
        Index("login_session_expiring", "expires_at_ms"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"))
    kind: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    last_used_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    ip: Mapped[str | None]
    user_agent: Mapped[str | None]
    ended_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    end_reason: Mapped[str | None]


class SessionSecret(Base):
    """A refresh token or a cookie, by its SHA-256. Used ones stay for as long as they could have lived: the second use
    of one says that somebody copied it."""

    __tablename__ = "session_secret"

    secret_sha256: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("login_session.id"), index=True)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    used_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class OneTimeToken(Base):
    """A token out of a mail that sets a password, by its SHA-256. It works once."""

    __tablename__ = "one_time_token"
    __table_args__ = (
        CheckConstraint("purpose IN ('invitation', 'password_reset')", name="one_time_token_purpose_known"),
        Index("one_time_token_expiring", "expires_at_ms"),
    )

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    purpose: Mapped[str]
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    used_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class TotpSecret(Base):
    """Somebody's second factor; in force once confirmed. No code is used twice: `last_step` is the newest."""

    __tablename__ = "totp_secret"

    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)
    sealed: Mapped[str] = mapped_column(info=dict(SEALED))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    confirmed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_step: Mapped[int] = mapped_column(BigInteger)


class RecoveryCode(Base):
    """One of the codes that stand in for a lost second factor, by its SHA-256. It works once."""

    __tablename__ = "recovery_code"

    code_sha256: Mapped[str] = mapped_column(primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    used_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class ApiKey(Base):
    """A program's way in: an organisation, a role, and the scopes of that role it may use. Known by its SHA-256."""

    __tablename__ = "api_key"
    __table_args__ = (
        ForeignKeyConstraint(
            ["organisation_id", "organisation_kind"],
            ["organisation.id", "organisation.kind"],
            name="api_key_organisation",
        ),
        CheckConstraint(_ROLE_FITS, name="api_key_role_fits"),
        Index("api_key_of_organisation", "organisation_id", "name"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str]
    organisation_kind: Mapped[str]
    name: Mapped[str]
    role: Mapped[str]
    scopes: Mapped[str]  # names, separated by blanks
    key_sha256: Mapped[str] = mapped_column(unique=True)
    created_by: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    revoked_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_used_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class RateCounter(Base):
    """How often something was tried: hits since the first, when the count begins anew, and until when nobody may."""

    __tablename__ = "rate_counter"
    __table_args__ = (Index("rate_counter_ending", "resets_at_ms"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    hits: Mapped[int]
    resets_at_ms: Mapped[int] = mapped_column(BigInteger)
    blocked_until_ms: Mapped[int] = mapped_column(BigInteger)
