"""What we write to people, in their language. The token is the link's fragment, which browsers keep to themselves."""

from dataclasses import dataclass

from soundbox_server.db import Row
from soundbox_server.mail.service import Mail
from soundbox_server.seal import Ring

PLACES = {"platform": "/console", "merchant": "/portal", "partner": "/portal", "bank": "/bank"}


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What writing takes: our address as people reach it, the keys that seal, and who writes."""

    public_url: str
    ring: Ring
    owner: str

    def link(self, organisation_kind: str, token: str) -> str:
        return f"{self.public_url}{PLACES[organisation_kind]}/set-password#{token}"


@dataclass(frozen=True, kw_only=True)
class Addressee:
    """Whom a mail is for."""

    id: str
    email: str
    name: str
    language: str
    organisation_kind: str

    @classmethod
    def of(cls, person: Row) -> "Addressee":
        return cls(
            id=person["id"],
            email=person["email"],
            name=person["name"],
            language=person["language"],
            organisation_kind=person["organisation_kind"],
        )


_INVITATION = {
    "id": (
        "Undangan Anda ke QRIS Soundbox",
        """Halo {name},

Anda diundang memakai QRIS Soundbox dengan alamat e-mail ini.
Buat kata sandi Anda dalam 24 jam melalui tautan berikut:

{link}

Tautan ini hanya dapat dipakai satu kali. Jangan bagikan kepada siapa pun.
""",
    ),
    "en": (
        "Your invitation to QRIS Soundbox",
        """Hello {name},

You have been invited to QRIS Soundbox with this e-mail address.
Choose your password within 24 hours by this link:

{link}

The link works once. Do not share it with anybody.
""",
    ),
}
_RESET = {
    "id": (
        "Atur ulang kata sandi QRIS Soundbox",
        """Halo {name},

Seseorang, semoga Anda sendiri, meminta kata sandi baru untuk alamat e-mail ini.
Buat kata sandi baru dalam 30 menit melalui tautan berikut:

{link}

Tautan ini hanya dapat dipakai satu kali. Bila bukan Anda yang meminta, abaikan e-mail ini: tidak ada yang berubah.
""",
    ),
    "en": (
        "Your new QRIS Soundbox password",
        """Hello {name},

Somebody, we hope you, has asked for a new password for this e-mail address.
Choose it within 30 minutes by this link:

{link}

The link works once. If it was not you, ignore this mail: nothing has changed.
""",
    ),
}
_TEXTS = {"invitation": _INVITATION, "password_reset": _RESET}


def with_link(purpose: str, person: Addressee, link: str) -> Mail:
    """The mail that brings a one-time link."""
    subject, text = _TEXTS[purpose][person.language]
    return Mail(
        kind=purpose,
        person_id=person.id,
        to=person.email,
        subject=subject,
        text=text.format(name=person.name, link=link),
    )
