"""Who asks, and which paths."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Audience:
    """`paths` and `but` are regular expressions over paths; `person` is somebody of the demo world.

    With `afresh` each question is asked in a session of its own.
    """

    name: str
    paths: str
    but: str = ""
    person: str = ""
    box: bool = False
    afresh: bool = False


def joined(audiences: Iterable[Audience]) -> list[Audience]:
    """The same questions in fewer runs: those of the same person are asked together."""
    by_asker: dict[tuple[object, ...], list[Audience]] = {}
    for one in audiences:
        by_asker.setdefault((one.person, one.box, one.afresh, one.person or one.box or one.name), []).append(one)
    return [
        Audience(
            name="+".join(one.name for one in some),
            paths="|".join(f"(?:{f'(?!.*(?:{one.but}))' if one.but else ''}(?:{one.paths}))" for one in some),
            person=some[0].person,
            box=some[0].box,
            afresh=some[0].afresh,
        )
        for some in by_asker.values()
    ]


_NOBODYS = "/(login|refresh|register|forgot-password|request-password-reset|reset-password)$"
_ONES_OWN = "^/(admin|merchant)/(logout|sessions|password|totp)"  # whoever asks these ends their own session

AUDIENCES = (
    Audience(
        name="registry",
        paths="^/admin/(merchants|outlets|terminals|static-qrs|license-keys|account-changes|ledger-entries|revenue|audit-logs|alerts|exports|health)|^/api/admin/",
        person="per_demo_admin",
    ),
    Audience(
        name="fleet",
        paths="^/admin/(devices|config|command-batches|transactions|refunds|provider-reports|mails|organisations|people|"
        "api-keys|me|latency)(/|$)",
        but="/logs/tail$",  # it answers for as long as somebody wants to listen
        person="per_demo_admin",
    ),
    Audience(name="money", paths="^/admin/(settlements|payouts|reconciliation)(/|$)", person="per_demo_admin"),
    Audience(
        name="hooks",
        paths="^/admin/(webhooks|webhook-deliveries|consents|looks|loan-applications|erasures)(/|$)",
        person="per_demo_admin",
    ),
    Audience(name="account", paths=_ONES_OWN, but="^/admin", person="per_demo_owner", afresh=True),
    Audience(name="partners_own", paths="^/api/auth/logout$", person="per_demo_partner", afresh=True),
    Audience(
        name="shop",
        paths="^/api/(v1/pos|transactions|merchant)(/|$)|^/merchant/(me|dashboard|transactions|settlements|outlets|devices|exports|"
        "webhooks|webhook-deliveries|banks|consents|looks|loan-applications|erasures)(/|$)",
        person="per_demo_owner",
    ),
    Audience(name="licensee", paths="^/api/(partner|license|user|topup)/", person="per_demo_partner"),
    Audience(name="wallets", paths="^/api/v1/(org/(profile|put)$|wallets|txn)", but="/pay$", person="per_demo_owner"),
    Audience(
        name="banks", paths="^/(lending|api/bank)/", but=f"{_NOBODYS}|/(logout|sessions|password|totp)",
        person="per_demo_bank",
    ),
    Audience(name="box", paths="^/device/", but="^/device/provision/activate$", box=True),
    Audience(name="partner", paths="^/integrations/"),
    Audience(
        name="nobody",
        paths=f"^/(admin|merchant|lending|api/auth){_NOBODYS}|^/pay/|^/device/provision/activate$|^/(health|readyz|metrics)|"
        "^/api/v1/org/(register|login)$|^/api/v1/txn/invoices/[^/]+/pay$",
    ),
)  # fmt: skip
