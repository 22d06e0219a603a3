"""Structured logs: one line an event, with the request and trace they belong to, and nothing secret.

Only names listed in `_MASKED` are ever shortened; tokens, raw callbacks and QR strings are never passed to the logger.
"""

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO

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


class Lines:
    """A structlog logger of bytes, a line for each call. What is logged in one turn of the event loop leaves with one
    system call at its end: a payment logs four lines, and a call for each cost as much as all else that a box's answer
    takes. Warnings and worse leave at once, with what waits, and so does every line where no event loop runs.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()
        atexit.register(self.flush)
        os.register_at_fork(before=self.flush)  # or the child would say it once more

    def msg(self, line: bytes) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.urgent(line)
            return
        with self._lock:
            self._waiting.append(line)
            first = len(self._waiting) == 1
        if first:
            loop.call_soon(self.flush)

    debug = info = log = msg

    def urgent(self, line: bytes) -> None:
        with self._lock:
            self._waiting.append(line)
        self.flush()

    warning = warn = error = err = exception = critical = fatal = failure = urgent

    def flush(self) -> None:
        with self._lock:
            lines, self._waiting = self._waiting, []
            if lines:
                self._file.write(b"\n".join((*lines, b"")))
                self._file.flush()


def _one_for_all(lines: Lines) -> Callable[..., Lines]:
    return lambda *_names: lines


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
        logger_factory=_one_for_all(Lines(sys.stderr.buffer))
        if form == "json"
        else structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
