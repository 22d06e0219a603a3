"""What can be asked for as a file: a list as it is, or a report, which is a list with something above and below it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from sqlalchemy.ext.asyncio import AsyncSession

from soundbox_server.exports.writing import Form, ListForm
from soundbox_server.paging import Asked, Listing

LIST_FORMATS = ("csv", "jsonl")


@dataclass(frozen=True, kw_only=True)
class Report(Generic[Asked]):
    """Rows in a form of their own. `open` looks up what stands around the rows; it raises NotFound where what is
    reported of does not exist, or is another's, and is asked before anything is queued."""

    listing: Listing[Asked]
    formats: tuple[str, ...]
    open: Callable[[AsyncSession, Asked, str], Awaitable[Form]]


Kind = Listing[Any] | Report[Any]
Kinds = Mapping[str, Kind]


def listing_of(kind: Kind) -> Listing[Any]:
    return kind.listing if isinstance(kind, Report) else kind


def formats_of(kind: Kind) -> tuple[str, ...]:
    return kind.formats if isinstance(kind, Report) else LIST_FORMATS


async def open_form(kind: Kind, session: AsyncSession, asked: Any, format_: str, *, with_bom: bool) -> Form:
    if isinstance(kind, Report):
        return await kind.open(session, asked, format_)
    return ListForm(format_, kind.columns, with_bom=with_bom)
