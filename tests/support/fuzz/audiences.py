"""Who asks, and which paths."""

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


_NOBODYS = "/(login|refresh|forgot-password|reset-password)$"
_ONES_OWN = "^/(admin|merchant)/(logout|sessions|password|totp)"  # whoever asks these ends their own session

AUDIENCES = (
    Audience(
        name="registry",
        paths="^/admin/(merchants|outlets|terminals|static-qrs|account-changes|ledger-entries|revenue|audit-logs|alerts|exports|health)",
        person="per_demo_admin",
    ),
    Audience(
        name="fleet",
        paths="^/admin/(devices|config|command-batches|transactions|refunds|provider-reports|mails|organisations|people|"
        "api-keys|me)(/|$)",
        person="per_demo_admin",
    ),
    Audience(name="money", paths="^/admin/(settlements|payouts|reconciliation)(/|$)", person="per_demo_admin"),
    Audience(name="account", paths=_ONES_OWN, but="^/admin", person="per_demo_owner", afresh=True),
    Audience(
        name="shop",
        paths="^/api/(v1/pos|transactions)(/|$)|^/merchant/(me|dashboard|transactions|settlements|outlets|devices|exports)(/|$)",
        person="per_demo_owner",
    ),
    Audience(name="box", paths="^/device/", but="^/device/provision/activate$", box=True),
    Audience(name="partner", paths="^/integrations/"),
    Audience(
        name="nobody",
        paths=f"^/(admin|merchant){_NOBODYS}|^/device/provision/activate$|^/(health|readyz|metrics)",
    ),
)  # fmt: skip
