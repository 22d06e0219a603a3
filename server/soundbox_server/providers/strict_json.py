"""JSON from strangers: one reading per text, or none."""

import json
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
import orjson

from soundbox_server.errors import ValidationFailed

MAX_BODY_BYTES = 64 * 1024
MAX_DEPTH = 20

Shape = TypeVar("Shape")


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object, or ValidationFailed: not UTF-8, not JSON, a key twice, NaN, too deep, too long.

    Two readers that take different values from the same signed bytes are how a checked amount becomes another one;
    so a repeated key is refused, although JSON permits it.
    """
    if len(body) > MAX_BODY_BYTES:
        raise ValidationFailed("The body is too long.", limit_bytes=MAX_BODY_BYTES)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValidationFailed("The body is not JSON in UTF-8.") from None
    if type(value) is not dict:
        raise ValidationFailed("The body must be a JSON object.")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValidationFailed("The body is nested too deep.", limit=MAX_DEPTH)
    # Written again it is the same in most cases, and then no key was there twice; the others are read key by key.
    if orjson.dumps(value) != body:
        _refuse_repeated_keys(body)
    return value


def read_as(shape: type[Shape], body: bytes) -> Shape:
    """`read_object`, then the fields as `shape` (a msgspec Struct) declares them; raises ValidationFailed."""
    try:
        return msgspec.convert(read_object(body), shape)
    except msgspec.ValidationError as wrong:
        raise ValidationFailed(f"The body is not as described: {str(wrong)[:200]}.") from None


def read_exact(body: bytes) -> dict[str, Any]:
    """`read_object`, with every number that has a fraction or an exponent as a Decimal: money is never a float."""
    read_object(body)
    value: dict[str, Any] = json.loads(body, parse_float=Decimal)
    return value


def read_list(body: bytes) -> list[Any]:
    """A JSON array, by the same rules and with the same exactness; raises ValidationFailed."""
    value = read_exact(b'{"items":' + body + b"}")
    if value.keys() != {"items"} or type(value["items"]) is not list:
        raise ValidationFailed("The body must be a JSON array.")
    return value["items"]


def _refuse_repeated_keys(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_object_once)
    except ValueError:  # a key twice, or a number of more digits than Python reads
        raise ValidationFailed("The body has a key twice, or a number without bounds.") from None


def _object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key is there twice")
    return value


def _depth(value: object) -> int:
    """How deep containers are nested: level by level, so that looking cannot recurse too deep itself."""
    depth, level = 0, [value]
    while containers := [item for item in level if isinstance(item, dict | list)]:
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth
