"""How a partner is reached and what proves us to it: a profile says the first, credentials the second.

A profile comes from settings. Credentials come from settings or sealed from the database, for the platform or for one
merchant that has an account of its own; each set of them is an account, and has its gateway.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from soundbox_server.errors import CredentialsRefused
from soundbox_server.providers import midtrans, paylabs, xendit
from soundbox_server.providers.base import Gateway, Notifying
from soundbox_server.providers.calls import Calls, open_client
from soundbox_server.providers.snap import KnowsToken, SnapConfig, SnapProvider

Kind = Literal["sandbox", "xendit", "midtrans", "paylabs", "snap"]
Values = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One partner. `credentials` are the platform's own, as far as settings have them; `needs` and `may` are the names
    of those there can be, and all of them are kept as secrets. `make(name, credentials)` raises ValueError for what
    cannot be read; keys take up to a second, so it is called off the event loop."""

    name: str
    kind: Kind
    make: Callable[[str, Values], Gateway]
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    base_url: str = ""
    credentials: Values = field(default_factory=dict, repr=False)

    @property
    def configured(self) -> bool:
        """Settings alone are enough."""
        return all(self.credentials.get(name) for name in self.needs)

    def checked(self, values: Values) -> Values:
        """A whole set of credentials. Raises CredentialsRefused with the names, never a value."""
        unknown = sorted(set(values) - {*self.needs, *self.may})
        missing = sorted(name for name in self.needs if not values.get(name))
        if unknown or missing:
            raise CredentialsRefused(
                "These are not the credentials of this provider.", unknown=unknown, missing=missing, provider=self.name
            )
        return values


def account_name(provider: str, merchant_id: str | None) -> str:
    """What attempts and the books call an account. A merchant's own is another one than the platform's, so that its
    secret proves nothing about anybody else's payments."""
    return provider if merchant_id is None else f"{provider}.{merchant_id}"


def provider_of(account: str) -> str:
    """The profile an account belongs to."""
    return account.partition(".")[0]


def xendit_profile(*, base_url: str, qris_api: Any, credentials: Values, timeout_s: float) -> Profile:
    def make(name: str, values: Values) -> Notifying:
        config = xendit.XenditConfig(
            name=name,
            secret_key=values["secret_key"],
            callback_tokens=_several(values["webhook_token"]),
            base_url=base_url,
            qris_api=qris_api,
        )
        return xendit.XenditProvider(config, _calls(name, timeout_s))

    return Profile(
        name="xendit", kind="xendit", make=make, needs=("secret_key", "webhook_token"), base_url=base_url,
        credentials=credentials,
    )  # fmt: skip


def midtrans_profile(
    *, base_url: str, snap_url: str, callback_url: str, credentials: Values, timeout_s: float
) -> Profile:
    def make(name: str, values: Values) -> Notifying:
        config = midtrans.MidtransConfig(
            name=name,
            server_key=values["server_key"],
            base_url=base_url,
            snap_url=snap_url,
            callback_url=callback_url,
        )
        return midtrans.MidtransProvider(config, _calls(name, timeout_s))

    return Profile(
        name="midtrans", kind="midtrans", make=make, needs=("server_key",), base_url=base_url, credentials=credentials
    )


def paylabs_profile(
    *,
    base_url: str,
    callback_url: str,
    signed_callback_path: str | None,
    fee_type: Any,
    credentials: Values,
    timeout_s: float,
) -> Profile:
    def make(name: str, values: Values) -> Notifying:
        config = paylabs.PaylabsConfig(
            name=name,
            merchant_id=values["merchant_id"],
            private_key=values["private_key"],
            partner_public_key=values["public_key"],
            callback_url=callback_url,
            base_url=base_url,
            signed_callback_path=signed_callback_path,
            fee_type=fee_type,
        )
        return paylabs.PaylabsProvider(config, _calls(name, timeout_s))

    return Profile(
        name="paylabs", kind="paylabs", make=make, needs=("merchant_id", "private_key", "public_key"),
        base_url=base_url, credentials=credentials,
    )  # fmt: skip


SNAP_NEEDS = ("partner_id", "client_key", "private_key", "partner_public_key")
SNAP_MAY = ("client_secret", "notify_secret", "notify_client_key", "merchant_id", "terminal_id", "channel_id")
_AS_BYTES = {"client_secret", "notify_secret"}
# Whatever else a SnapConfig has may stand in a profile; these are ours to say.
_OURS = {"name", "base_url", *SNAP_NEEDS, *SNAP_MAY}


def snap_profile(
    name: str,
    wire: Mapping[str, Any],
    *,
    callback_path: str,
    credentials: Values,
    timeout_s: float,
    knows_token_of: Callable[[str], KnowsToken],
) -> Profile:
    """A SNAP partner as a profile file writes it: fields of `SnapConfig`. Raises ValueError for others."""
    if unknown := sorted(set(wire) - {field.name for field in fields(SnapConfig)} | set(wire) & _OURS - {"base_url"}):
        raise ValueError(f"SNAP partner {name}: unknown {', '.join(unknown)}")
    if not isinstance(wire.get("base_url"), str):
        raise ValueError(f"SNAP partner {name}: base_url is missing")
    profile = {"callback_path": callback_path, **wire}

    def make(account: str, values: Values) -> Notifying:
        given = {key: value.encode() if key in _AS_BYTES else value for key, value in values.items() if value}
        given.setdefault("channel_id", "95221")  # "mobile" in SNAP's list; most partners do not look
        given.setdefault("notify_client_key", account)
        own = {} if account == name else {"callback_path": str(profile["callback_path"]).replace(name, account, 1)}
        config = SnapConfig(**{**profile, **given, **own, "name": account})
        return SnapProvider(
            config,
            _calls(account, timeout_s),
            _calls(f"{account} tokens", timeout_s / 3),
            knows_token=knows_token_of(account),
        )

    return Profile(
        name=name, kind="snap", make=make, needs=SNAP_NEEDS, may=SNAP_MAY, base_url=wire["base_url"],
        credentials=credentials,
    )  # fmt: skip


def _calls(name: str, timeout_s: float) -> Calls:
    return Calls(name, open_client(total_timeout_s=timeout_s), total_timeout_s=timeout_s)


def _several(text: str) -> tuple[str, ...]:
    """Secrets separated by commas: two hold while one is exchanged."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
