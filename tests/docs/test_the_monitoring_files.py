"""The Grafana dashboard and the alert rules name metrics that the hub exposes, with labels and outcomes it has.

Prometheus and Grafana are not run here: their files are read, and every expression is compared with the exposition.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from soundbox_server import metrics
from soundbox_server.payments.state import Outcome
from soundbox_server.providers.base import CallbackOutcome

FOLDER = Path(__file__).parents[2] / "server/monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
SELECTOR = re.compile(r"\b(soundbox_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\bby\s*\(([^)]*)\)")
OUTCOMES = {
    "soundbox_payments_total": {"paid", "paid_late", "failed", "expired", "needs_review"},
    "soundbox_charges_total": {"issued", "failed", "unknown"},
    "soundbox_provider_requests_total": {"answered", "refused", "unknown"},
    "soundbox_callbacks_total": {*Outcome, *get_args(CallbackOutcome)},
}


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


EXPRESSIONS = list(expressions())


def exposed() -> dict[str, set[str]]:
    """Labels by name, as Prometheus stores them: a histogram is three names."""
    labels = {collector: set(collector._labelnames) for collector in metrics.registry._collector_to_names}  # type: ignore[attr-defined]
    named: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        (collector,) = (c for c, names in metrics.registry._collector_to_names.items() if family.name in names)
        suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
        for suffix in suffixes:
            named[family.name + suffix] = labels[collector] | ({"le"} if suffix == "_bucket" else set())
    return named


EXPOSED = exposed()


@pytest.mark.parametrize(("where", "expr"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_what_is_asked_for_is_exposed(where: str, expr: str) -> None:
    asked = SELECTOR.findall(expr)

    assert asked
    known: set[str] = {"instance"}  # Prometheus adds where it read
    for name, matchers in asked:
        assert name in EXPOSED
        known |= EXPOSED[name]
        for label, value in MATCHER.findall(matchers):
            assert label in EXPOSED[name]
            assert label != "outcome" or set(value.split("|")) <= OUTCOMES[name]
    for grouped in GROUPED.findall(expr):
        assert {label.strip() for label in grouped.split(",")} <= known
    assert all(expr.count(opening) == expr.count(closing) for opening, closing in ("()", "{}", "[]"))


def test_a_name_that_is_not_exposed_would_be_found() -> None:
    assert "soundbox_payments_total" in EXPOSED
    assert "soundbox_provider_request_seconds_bucket" in EXPOSED
    assert EXPOSED["soundbox_provider_request_seconds_bucket"] == {"provider", "le"}
    assert "soundbox_payments" not in EXPOSED


def test_the_dashboard_shows_what_payments_are_judged_by() -> None:
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    latency = next(panel for panel in DASHBOARD["panels"] if panel["title"] == "Provider response time")

    assert {"Payment success rate", "Provider availability", "Webhooks received and failed"} <= set(titles)
    assert [re.match(r"histogram_quantile\(([0-9.]+),", target["expr"])[1] for target in latency["targets"]] == [  # type: ignore[index]
        "0.5", "0.95", "0.99",
    ]  # fmt: skip
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(titles) == len(set(titles))
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({(place["x"], place["y"]) for place in places}) == len(places)


def test_every_alert_says_how_bad_it_is_and_what_it_means() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 5
    for rule in RULES:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.fullmatch(r"[0-9]+[smh]", rule.get("for", "0s"))
