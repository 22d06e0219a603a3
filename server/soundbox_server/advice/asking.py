"""One call of the model: a bounded question, a bounded wait, a bounded answer. Never raises for what it does.

It goes out as webhooks do: the address is looked up and judged, the connection goes to the one that was judged, and no
redirect is followed. The key is in a header, and no header is kept or logged.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from soundbox_server.webhooks.sender import MOST_READ, Answer, Sender

USER_AGENT = "QRIS-Soundbox-Advice/1"
LONGEST_WAIT_S = 3_600
_TOKENS = 1_000_000  # more than any call takes: what is beyond is no count


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Chat completions at `url`, as OpenAI describes them."""

    sender: Sender
    url: str
    model: str
    most_tokens: int
    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """`content` is what the model said; without it `failure` says why there is none."""

    took_ms: int
    content: str | None = None
    failure: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    retry_after_s: int | None = None


async def ask(endpoint: Endpoint, messages: Sequence[Mapping[str, str]]) -> Reply:
    body = {
        "model": endpoint.model,
        "messages": list(messages),
        "max_tokens": endpoint.most_tokens,
        "temperature": 0.2,
        "response_format": {"type": "json_object"},
        "stream": False,
    }
    headers = {
        "Content-Type": "application/json", "Accept": "application/json", "User-Agent": USER_AGENT,
        "Authorization": f"Bearer {endpoint.key}",
    }  # fmt: skip
    return _read(await endpoint.sender.post(endpoint.url, headers=headers, body=orjson.dumps(body)))


def _read(answer: Answer) -> Reply:
    if answer.error is not None:
        return Reply(took_ms=answer.duration_ms, failure=answer.error)
    if answer.status != 200:
        return Reply(took_ms=answer.duration_ms, failure=answer.reason, retry_after_s=_retry_after(answer.headers))
    if len(answer.body) >= MOST_READ:
        return Reply(took_ms=answer.duration_ms, failure="too_large")
    try:
        said = orjson.loads(answer.body)
        choice = said["choices"][0]
        content, ended = choice["message"]["content"], choice.get("finish_reason")
        usage = said.get("usage")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return Reply(took_ms=answer.duration_ms, failure="bad_answer")
    if not isinstance(content, str):
        return Reply(took_ms=answer.duration_ms, failure="bad_answer")
    return Reply(
        took_ms=answer.duration_ms,
        content=None if ended == "length" else content,
        failure="cut_off" if ended == "length" else None,
        tokens_in=_count(usage, "prompt_tokens"),
        tokens_out=_count(usage, "completion_tokens"),
    )


def _count(usage: Any, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count <= _TOKENS else None


def _retry_after(headers: Mapping[str, str]) -> int | None:
    said = headers.get("retry-after", "")
    return min(int(said), LONGEST_WAIT_S) if re.fullmatch(r"[0-9]{1,6}", said) else None
