"""What the broker and the ways to it are made of, from the settings.

Apart from `parts`, so that the broker's supervisor imports no more than it needs.
"""

from functools import partial
from typing import Any

from soundbox_server.broker import probe
from soundbox_server.broker.legacy import LegacySetup
from soundbox_server.broker.mosquitto import TlsListener
from soundbox_server.broker.provisioning import reached_at
from soundbox_server.broker.supervisor import LoadUsers
from soundbox_server.broker.tls import TlsSetup, development_authority
from soundbox_server.devices.config_window import MakersBroker
from soundbox_server.settings import Settings


def broker_address(settings: Settings) -> dict[str, Any]:
    """Where boxes are sent at activation: host, port, tls, and ca_pem where they have to trust a CA of our own."""
    address = {"host": settings.broker_public_host, "port": settings.broker_public_port, "tls": settings.boxes_use_tls}
    if settings.boxes_use_tls and settings.broker_tls_certificate is None:
        return address | {"ca_pem": development_authority(settings.home)}
    if settings.boxes_use_tls and settings.broker_tls_ca is not None:
        return address | {"ca_pem": settings.broker_tls_ca.read_text()}
    return address


def tls_setup(settings: Settings) -> TlsSetup | None:
    """The broker's listeners for boxes from elsewhere; None when there are none."""
    if not settings.broker_tls_port:
        return None
    return TlsSetup(
        listener=TlsListener(settings.broker_tls_host, settings.broker_tls_port, settings.broker_connections),
        names=settings.broker_names,
        provision_port=settings.broker_provision_port,
        certificate=settings.broker_tls_certificate,
        key=settings.broker_tls_key,
    )


def legacy_setup(settings: Settings, load_users: LoadUsers) -> LegacySetup | None:
    """The listener for other makers' boxes; None when there is none."""
    if not settings.broker_legacy_port:
        return None
    return LegacySetup(host=settings.broker_legacy_host, port=settings.broker_legacy_port, load_users=load_users)


def makers_broker(settings: Settings) -> MakersBroker | None:
    """Where other makers' boxes are sent, and a login there to see whether they get in; None when there is none."""
    if not settings.broker_legacy_port:
        return None
    return MakersBroker(
        host=settings.broker_legacy_public_host,
        port=settings.broker_legacy_port,
        lets_in=partial(broker_lets_in, reached_at(settings.broker_legacy_host), settings.broker_legacy_port),
    )


async def broker_lets_in(host: str, port: int, user: str, password: str) -> bool:
    """Whether a login with these works right now; False also while there is no broker."""
    try:
        return await probe.login(host, port, user=user, password=password)
    except OSError:
        return False
