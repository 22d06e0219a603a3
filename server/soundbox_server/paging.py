"""Lists, page by page. Keyset pages: stable while rows arrive, and as fast at the end as at the start.

A room describes a list once, as a `Listing`; its door serves a page of it, and an export reads it to the end.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from soundbox_server.errors import ValidationFailed
from soundbox_server.http import envelope
from soundbox_server.ids import lowest_id

CLOCK_SLACK_MS = 600_000  # a row's id and its time are made by the same process, moments apart

# A cursor is the key of a page's last row, each part behind a tilde, which no id holds.
CURSOR = r"^~[A-Za-z0-9_.:-]{1,64}$"
TRIPLE_CURSOR = r"^(~[A-Za-z0-9_.:-]{1,64}){3}$"
NUMBERED_CURSOR = r"^~[A-Za-z0-9_.:-]{1,64}~[0-9]{1,9}$"

Key = tuple[str | int, ...]
Rows = Select[*tuple[Any, ...]]


class Page(BaseModel):
    """The query of a list. Its filters are fields of a subclass, and so is a cursor of another form."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(20, ge=1, le=100, description="rows a page")
    cursor: str | None = Field(None, pattern=CURSOR, description="next_cursor of the page before")


Asked = TypeVar("Asked", bound=Page)


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[Asked]):
    """A list: who may be asked for (`select`), in which order (`key`, unique), and how a row is shown.

    `columns` are what a table of it shows: paths into what `show` makes of a row, as in `actor.id`.
    """

    asked: type[Asked]
    key: tuple[InstrumentedAttribute[Any], ...]
    select: Callable[[Asked], Rows]
    show: Callable[..., Mapping[str, Any]]
    columns: tuple[str, ...] = ()
    newest_first: bool = True


async def page(
    request: Request,
    session: AsyncSession,
    listing: Listing[Asked],
    asked: Asked,
    *,
    beside: Callable[[Sequence[Any]], Awaitable[Sequence[Mapping[str, Any]]]] | None = None,
) -> Response:
    """`{data, next_cursor, …}`: one page. `beside(rows)` finds what to add to each row."""
    shown, cursor = await rows_of_page(session, listing, asked, beside=beside)
    return envelope(request, shown, next_cursor=cursor)


async def rows_of_page(
    session: AsyncSession,
    listing: Listing[Asked],
    asked: Asked,
    *,
    beside: Callable[[Sequence[Any]], Awaitable[Sequence[Mapping[str, Any]]]] | None = None,
) -> tuple[list[Mapping[str, Any]], str | None]:
    """One page's rows as the list shows them, and where the next one begins."""
    found = await read(session, listing, asked, after=_key(listing, asked.cursor), limit=asked.limit + 1)
    more = len(found) > asked.limit
    rows = found[: asked.limit]
    shown = [show(listing, row) for row in rows]
    if beside is not None:
        shown = [{**one, **extra} for one, extra in zip(shown, await beside(rows), strict=True)]
    return shown, encode_cursor(*key_of(listing, rows[-1])) if more else None


async def read(
    session: AsyncSession, listing: Listing[Asked], asked: Asked, *, after: Key | None, limit: int
) -> Sequence[Any]:
    """At most so many rows beyond this key, each with its key's columns at the end."""
    query = listing.select(asked).add_columns(*listing.key).limit(limit)
    query = query.order_by(*(column.desc() if listing.newest_first else column.asc() for column in listing.key))
    if after is not None:
        query = query.where(_beyond(listing, after))
    return (await session.execute(query)).all()


def show(listing: Listing[Any], row: Sequence[Any]) -> Mapping[str, Any]:
    """One row that `read` found, as the list shows it."""
    return listing.show(*row[: len(row) - len(listing.key)])


def key_of(listing: Listing[Any], row: Sequence[Any]) -> Key:
    """Where the next page begins when this row was the last."""
    return tuple(row[len(row) - len(listing.key) :])


def _key(listing: Listing[Any], cursor: str | None) -> Key | None:
    """Where the page begins. Raises ValidationFailed for another list's cursor."""
    if cursor is None:
        return None
    kinds, parts = [column.type.python_type for column in listing.key], cursor.split("~")[1:]
    if len(parts) != len(kinds):
        raise ValidationFailed("This is no cursor of this list.", field="cursor")
    return tuple(int(part) if kind is int else part for kind, part in zip(kinds, parts, strict=True))


def _beyond(listing: Listing[Any], after: Key) -> ColumnElement[bool]:
    if len(listing.key) == 1:
        return listing.key[0] < after[0] if listing.newest_first else listing.key[0] > after[0]
    ours = tuple_(*listing.key)
    return ours < after if listing.newest_first else ours > after


def matching(query: Rows, *wanted: tuple[InstrumentedAttribute[Any], object]) -> Rows:
    """Rows whose columns hold these values; None asks for nothing."""
    for column, value in wanted:
        if value is not None:
            query = query.where(column == str(value))
    return query


def between(
    query: Rows,
    *,
    at: InstrumentedAttribute[int],
    id_: InstrumentedAttribute[str],
    prefix: str,
    from_ms: int | None,
    to_ms: int | None,
) -> Rows:
    """Rows of `from_ms` ≤ time < `to_ms`, found by their ids: these sort by birth, and need no index of their own."""
    if from_ms is not None:
        query = query.where(at >= from_ms, id_ >= lowest_id(prefix, from_ms - CLOCK_SLACK_MS))
    if to_ms is not None:
        query = query.where(at < to_ms, id_ < lowest_id(prefix, to_ms + CLOCK_SLACK_MS))
    return query


def beginning(column: InstrumentedAttribute[Any], text: str) -> ColumnElement[bool]:
    """The column begins with this text, whatever the case; the text's own % and _ mean themselves."""
    return column.istartswith(text, autoescape=True)


def encode_cursor(*key: str | int) -> str:
    return "".join(f"~{part}" for part in key)
