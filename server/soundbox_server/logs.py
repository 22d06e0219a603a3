"""Structured logs: one line an event, with the request and trace they belong to, and nothing secret.

Only names listed in `_MASKED` are ever shortened; tokens, raw callbacks and QR strings are never passed to the logger.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

_MASKED = {"phone", "email", "pan", "password", "token", "secret", "signature", "authorization"}


def _mask(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in _MASKED & fields.keys():
        fields[name] = "***"
    return fields


def _line(fields: Any, **_options: Any) -> bytes:
    return orjson.dumps(fields, default=str)


def configure(*, process: str, form: str = "json", level: str = "info") -> None:
    """Set up structlog and the standard library's logging alike; every line names its process."""
    chain: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask,
    ]
    if form == "json":
        chain += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_line)]
    else:
        chain += [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
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
