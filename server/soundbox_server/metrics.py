"""What Prometheus may ask. What the database knows (outbox depth, boxes online) is read when it asks."""

from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

registry = CollectorRegistry()

# A provider may take fifteen seconds; what counts is where most of its answers lie.
_ANSWERS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20)
_LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

callbacks = Counter(
    "soundbox_callbacks_total", "QRIS callbacks by partner and outcome.", ["partner", "outcome"], registry=registry
)
callback_seconds = Histogram(
    "soundbox_callback_seconds",
    "From a callback's arrival to its durable outcome.",
    buckets=_LATENCIES,
    registry=registry,
)
callback_group = Histogram(
    "soundbox_callback_group_size",
    "Callbacks that shared one commit.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
    registry=registry,
)
payments = Counter(
    "soundbox_payments_total",
    "Payments by provider, how the QR was made (dynamic, static, transfer, none) and what a provider's word made of "
    "them: paid, paid_late, failed, expired, needs_review.",
    ["provider", "qr_mode", "outcome"],
    registry=registry,
)
payments_waiting = Gauge("soundbox_payments_waiting", "Payments that can be paid and are not yet.", registry=registry)
charges = Counter(
    "soundbox_charges_total",
    "What came of asking a provider for something to pay by: issued, failed, unknown.",
    ["provider", "outcome"],
    registry=registry,
)
provider_requests = Counter(
    "soundbox_provider_requests_total",
    "Requests to a provider: answered, refused (it never heard them), unknown (its answer was lost).",
    ["provider", "outcome"],
    registry=registry,
)
provider_request_seconds = Histogram(
    "soundbox_provider_request_seconds",
    "How long a provider took to answer, its repetition and the wait for a free place included.",
    ["provider"],
    buckets=_ANSWERS,
    registry=registry,
)
announcement_seconds = Histogram(
    "soundbox_announcement_seconds",
    "From the payment's commit to each hop of its announcement.",
    ["hop"],
    buckets=_LATENCIES,
    registry=registry,
)
published = Counter("soundbox_published_total", "Messages handed to the broker, by kind.", ["kind"], registry=registry)
publish_failures = Counter(
    "soundbox_publish_failures_total",
    "Messages the broker did not take; the sweep sends them again.",
    registry=registry,
)
uplinks = Counter(
    "soundbox_uplinks_total",
    "Messages from boxes by channel and what became of them.",
    ["channel", "outcome"],
    registry=registry,
)
not_recorded = Counter(
    "soundbox_not_recorded_total",
    "Messages (mqtt) and log lines (log) that were not written down for looking back: too many came, or the database "
    "was away.",
    ["kind"],
    registry=registry,
)
forgotten = Counter(
    "soundbox_forgotten_rows_total", "Rows that retention removed, by what they were.", ["kind"], registry=registry
)
heard_seconds = Histogram(
    "soundbox_heard_seconds",
    "From a payment's commit to the moment its box says it was heard.",
    buckets=_LATENCIES,
    registry=registry,
)
mails = Counter(
    "soundbox_mails_total", "Mails by what became of a try: sent, put_off, dead.", ["outcome"], registry=registry
)
webhooks = Counter(
    "soundbox_webhooks_total",
    "Tries to deliver an event by what became of them: delivered, put_off, dead.",
    ["outcome"],
    registry=registry,
)
webhook_seconds = Histogram(
    "soundbox_webhook_seconds", "How long a receiver took to answer.", buckets=_ANSWERS, registry=registry
)
webhooks_waiting = Gauge("soundbox_webhooks_waiting", "Events on their way to a receiver.", registry=registry)
advice = Counter(
    "soundbox_advice_total",
    "Calls of the language model, by what for and what became of them: accepted, refused, failed.",
    ["use", "verdict"],
    registry=registry,
)
advice_unfit = Counter(
    "soundbox_advice_unfit_total",
    "Answers of the language model that are not shown, or that never came, by reason.",
    ["reason"],
    registry=registry,
)
advice_seconds = Histogram(
    "soundbox_advice_seconds", "How long the language model took to answer.", buckets=_ANSWERS, registry=registry
)
broker_differences = Counter(
    "soundbox_broker_differences_total",
    "Times a broker was found not to let in exactly whom the database has in force, by what was wrong.",
    ["kind"],
    registry=registry,
)
outbox_depth = Gauge(
    "soundbox_outbox_depth", "Messages by state that still have somewhere to go.", ["state"], registry=registry
)
devices_online = Gauge("soundbox_devices_online", "Boxes whose birth is newer than their last will.", registry=registry)
provider_circuit = Gauge(
    "soundbox_provider_circuit",
    "Whether this process asks a provider: 0 it does, 1 it tries once, 2 it leaves it in peace after failures.",
    ["provider"],
    registry=registry,
)
broker_connected = Gauge(
    "soundbox_broker_connected", "1 while this process is connected to the broker.", registry=registry
)
shard_owned = Gauge("soundbox_shard_owned", "1 while this worker owns its broker shard.", registry=registry)


@lru_cache(maxsize=1_024)
def labelled(metric: Any, *labels: str) -> Any:
    """`metric.labels(…)`, remembered: finding it anew costs more than counting."""
    return metric.labels(*labels)
