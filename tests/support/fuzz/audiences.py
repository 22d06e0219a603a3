"""Who asks, and which paths."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Audience:
    """`paths` and `but` are regular expressions over paths; `without` names checks that cannot apply, each with its
    reason beside it."""

    name: str
    paths: str
    but: str = ""
    role: str | None = None
    box: bool = False
    without: tuple[str, ...] = ()


AUDIENCES = (
    Audience(name="staff", paths="^/admin/", but="^/admin/login$", role="platform_admin"),
    Audience(name="box", paths="^/device/", but="^/device/provision/activate$", box=True),
    Audience(name="partner", paths="^/integrations/"),
    Audience(name="nobody", paths="^/(admin/login|device/provision/activate)$"),
)
