"""The gateways of this process: one for each account, made once, and which of them a payment goes to."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from soundbox_server import metrics, seal
from soundbox_server.db import Database, Statements
from soundbox_server.errors import InvalidAmount, InvalidPaymentType
from soundbox_server.providers import service
from soundbox_server.providers.base import Gateway, Method, ProviderRefused
from soundbox_server.providers.profiles import Kind, Profile, account_name, provider_of
from soundbox_server.providers.service import EVERYBODY, Route, Stored

log = structlog.get_logger()

LOOK_EVERY_S = 5.0
_CIRCUITS = ("closed", "half-opened", "opened")


@dataclass(frozen=True)
class Opened:
    """A gateway, and which state of its credentials it was made of."""

    gateway: Gateway
    kind: Kind
    made_of: tuple[str, int]  # the credential's id and version; settings' are ("", 0)


class Gateways:
    """Accounts by name. `profiles` are what settings know of; `defaults` the routes where nobody chose one.

    Credentials and routes in the database are looked at every few seconds: another process may have changed them.
    """

    def __init__(
        self, profiles: Mapping[str, Profile], *, default: Route, by_method: Mapping[str, Route] | None = None
    ) -> None:
        self.profiles = profiles
        self._default = default
        self._by_method = by_method or {}
        self._opened: dict[str, Opened] = {}
        self._replaced: list[Gateway] = []  # calls may be under way in them, so they end with the process
        self._routes: Mapping[tuple[str, str], Route] = {}
        self._seen: service.State | None = None
        self._refreshing = asyncio.Lock()

    @classmethod
    def of(cls, *gateways: Gateway) -> "Gateways":
        """These and no others; the first is asked, then the second."""
        names = [gateway.name for gateway in gateways]
        fallback = names[1] if len(names) > 1 else None
        found = cls({}, default=Route(primary=names[0], fallback=fallback))
        found._opened = {gateway.name: Opened(gateway, "sandbox", ("", 0)) for gateway in gateways}
        return found

    async def refresh(self, database: Database, ring: seal.Ring) -> None:
        """Take up what was changed in the database since the last look."""
        async with self._refreshing:
            seen = await database.read(service.state)
            if seen == self._seen:
                return
            credentials, routes = await database.read(_stored)
            self._opened = await asyncio.to_thread(self._reopened, credentials, ring)
            self._routes, self._seen = routes, seen

    async def keep_fresh(self, database: Database, ring: seal.Ring) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.refresh(database, ring)
            except Exception:  # the database may be away; what is known stays in use
                log.exception("providers.not_refreshed")

    def _reopened(self, credentials: Sequence[Stored], ring: seal.Ring) -> dict[str, Opened]:
        """Loading keys takes up to a second each, so it runs in a thread, and what did not change stays."""
        stored = {one.account: one for one in credentials if one.provider in self.profiles}
        wanted = {one.account: (one.id, one.version) for one in stored.values()}
        for profile in self.profiles.values():
            if profile.configured:
                wanted.setdefault(profile.name, ("", 0))
        opened = {}
        for account, made_of in wanted.items():
            before = self._opened.get(account)
            if before is not None and before.made_of == made_of:
                opened[account] = before
            elif gateway := self._make(account, stored.get(account), ring):
                opened[account] = Opened(gateway, self.profiles[provider_of(account)].kind, made_of)
        gone = [one.gateway for name, one in self._opened.items() if opened.get(name) is not one]
        self._replaced += gone
        return opened

    def _make(self, account: str, stored: Stored | None, ring: seal.Ring) -> Gateway | None:
        profile = self.profiles[provider_of(account)]
        try:
            return profile.make(account, profile.credentials if stored is None else stored.opened(ring))
        except (ValueError, seal.CannotUnseal) as problem:  # neither quotes a secret
            log.error("provider.not_opened", account=account, problem=str(problem))
            return None

    def get(self, account: str) -> Gateway:
        """Raises ProviderRefused for an account that is not, or no longer, configured: nobody was asked."""
        opened = self._opened.get(account)
        if opened is None:
            raise ProviderRefused("This provider is not configured.", provider=account)
        return opened.gateway

    def of_kind(self, kind: Kind) -> Sequence[Gateway]:
        """The accounts at one kind of provider."""
        return [one.gateway for one in self._opened.values() if one.kind == kind]

    @property
    def accounts(self) -> Mapping[str, Gateway]:
        return {name: one.gateway for name, one in self._opened.items()}

    def candidates(
        self, merchant_id: str, method: Method, amount_idr: int, *, resting: Collection[str] = ()
    ) -> Sequence[str]:
        """Accounts that may be asked for this, the best first: a merchant's own before the platform's, and those whose
        circuit is open (`resting`) last.

        Raises InvalidPaymentType where nobody offers the method, InvalidAmount below what they take.
        """
        route = self._route(merchant_id, method)
        accounts = [name for provider in route.providers if (name := self._account(provider, merchant_id))]
        offered = [name for name in accounts if method in self._opened[name].gateway.capabilities.methods]
        if not offered:
            raise InvalidPaymentType("No provider offers this method here.", method=method.value)
        least = {name: self._opened[name].gateway.capabilities.minimum_idr for name in offered}
        able = [name for name in offered if amount_idr >= least[name]]
        if not able:
            raise InvalidAmount(f"The amount must be at least {min(least.values())} rupiah.", amount=amount_idr)
        return sorted(able, key=lambda name: name in resting)

    def _route(self, merchant_id: str, method: Method) -> Route:
        for owner in (merchant_id, EVERYBODY):
            if found := self._routes.get((owner, method.value)):
                return found
        return self._by_method.get(method.value, self._default)

    def _account(self, provider: str, merchant_id: str) -> str | None:
        names = (account_name(provider, merchant_id), provider)
        return next((name for name in names if name in self._opened), None)

    async def circuits(self) -> dict[str, str]:
        """Each account's circuit."""
        return {name: await one.gateway.circuit() for name, one in self._opened.items()}

    async def resting(self) -> frozenset[str]:
        """Accounts that failed so often that they are left in peace for a moment."""
        return frozenset(name for name, circuit in (await self.circuits()).items() if circuit == "opened")

    async def show(self) -> None:
        """Set the figures of this process."""
        metrics.provider_circuit.clear()
        for name, circuit in (await self.circuits()).items():
            metrics.provider_circuit.labels(name).set(_CIRCUITS.index(circuit))

    async def aclose(self) -> None:
        for gateway in (*self._replaced, *self.accounts.values()):
            await gateway.aclose()


async def asked_for(gateways: Gateways) -> bool:
    """Whether there is a provider, and each of them is asked."""
    circuits = (await gateways.circuits()).values()
    return bool(circuits) and all(circuit != "opened" for circuit in circuits)


async def _stored(tx: Statements) -> tuple[Sequence[Stored], Mapping[tuple[str, str], Route]]:
    return await service.stored_credentials(tx), await service.stored_routes(tx)
