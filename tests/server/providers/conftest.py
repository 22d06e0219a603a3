"""Each partner as a real HTTP service on loopback, with our adapter for it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.fakes import midtrans, paylabs, snap, xendit
from support.fakes.service import FakeService, serving

from soundbox_server.providers.base import Gateway


@dataclass
class World:
    """A partner that lives somewhere, and our way to it."""

    fake: Any
    gateway: Gateway
    config: object


@dataclass(frozen=True)
class Partner:
    """How to make a world: the fake's class, and the module with `config` and `gateway` for it."""

    module: Any
    fake: Callable[[], FakeService]
    profile: dict[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def world(self, *, total_timeout_s: float = 5, **changes: Any) -> AsyncIterator[World]:
        fake = self.fake()
        async with serving(fake.app()) as url:
            config = self.module.config(url, **self.profile | changes)
            gateway = self.module.gateway(config, total_timeout_s=total_timeout_s)
            try:
                yield World(fake, gateway, config)
            finally:
                await gateway.aclose()


PARTNERS = {
    "snap": Partner(snap, snap.FakeSnap),
    "snap asymmetric": Partner(
        snap, lambda: snap.FakeSnap(signed="asymmetric"), {"requests_signed": "asymmetric", "client_secret": b""}
    ),
    "xendit": Partner(xendit, xendit.FakeXendit),
    "midtrans": Partner(midtrans, midtrans.FakeMidtrans),
    "paylabs": Partner(paylabs, paylabs.FakePaylabs),
}


@pytest.fixture(params=PARTNERS)
def partner(request: pytest.FixtureRequest) -> Partner:
    return PARTNERS[request.param]


@pytest.fixture
async def world(partner: Partner) -> AsyncIterator[World]:
    async with partner.world() as world:
        yield world
