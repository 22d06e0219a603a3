"""What doors answer, for the API's description. A view's shape is a TypedDict, so mypy holds the view to it: what is
described is what is sent, and nothing is checked twice while it is sent.
"""

from enum import StrEnum
from typing import Annotated, Any, Generic, NotRequired, TypeVar

from pydantic import AwareDatetime, BaseModel, Field, WithJsonSchema
from typing_extensions import TypedDict

__all__ = ["AnyJson", "NotRequired", "Time", "TypedDict", "among", "answers", "pages"]

Time = Annotated[
    str, WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-05-23T10:00:00.123Z"]})
]
AnyJson = Annotated[Any, WithJsonSchema({"description": "JSON of any shape."})]
Data = TypeVar("Data")


def among(states: type[StrEnum]) -> Any:
    """These words and no others: `Annotated[str, among(DeviceState)]`, for what a column holds as text."""
    return WithJsonSchema({"type": "string", "enum": [state.value for state in states]})


class Enveloped(BaseModel, Generic[Data]):
    """`{data, request_id, timestamp}`: the operators' and merchants' answer."""

    data: Data
    request_id: str = Field(examples=["req_01k9x3m8z6f1q4v7c2b5n0t8rj"])
    timestamp: AwareDatetime = Field(examples=["2026-05-24T00:00:00Z"])


class Paged(Enveloped[list[Data]], Generic[Data]):
    """One page of a list; `next_cursor` is the `cursor` of the next request, and null on the last page."""

    next_cursor: str | None


def answers(data: Any, *, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a route answers in its envelope: `responses=answers(MerchantView) | problems(Conflict)`."""
    return {status: {"model": Enveloped[data]}}


def pages(data: Any) -> dict[int | str, dict[str, Any]]:
    """What a list answers: its rows' shape."""
    return {200: {"model": Paged[data]}}
