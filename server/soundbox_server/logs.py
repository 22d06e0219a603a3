"""Structured logs: one line an event, with the request and trace they belong to, and nothing secret.

Only names listed in `_MASKED` are ever shortened; tokens, raw callbacks and QR strings are never passed to the logger.
"""

import logging
import sys
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
import structlog

_MASKED = {"phone", "email", "pan", "password", "token", "secret", "signature", "authorization"}


def _mask(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in _MASKED & fields.keys():
        fields[name] = "***"
    return fields


def _stamp(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    seconds, ns = divmod(time.time_ns(), 1_000_000_000)
    fields["timestamp"] = f"{_second(seconds)}.{ns // 1_000:06}Z"
    return fields


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def _json(logger: object, method: str, fields: MutableMapping[str, Any]) -> bytes:
    """The whole line in one step: a payment writes four, and each step of a chain costs as much as its work."""
    structlog.contextvars.merge_contextvars(logger, method, fields)
    fields["level"] = method
    _mask(logger, method, _stamp(logger, method, fields))
    if fields.get("exc_info"):
        structlog.processors.format_exc_info(logger, method, fields)
    return orjson.dumps(fields, default=str)


def configure(*, process: str, form: str = "json", level: str = "info") -> None:
    """Set up structlog and the standard library's logging alike; every line names its process."""
    chain: list[Any] = [_json]
    if form != "json":
        chain = [
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _stamp,
            _mask,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ]
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer)
        if form == "json"
        else structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
