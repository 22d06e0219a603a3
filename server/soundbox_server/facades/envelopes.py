"""The envelope of reference 003, `{success, message, data, error}`, and its errors as its SDKs read them.

Its SDK returns `data` without a look at `success`: every success has it, and every error an HTTP status. Some of them
read `error`, others `message`; the code to program against is in `details` as well, which is all that they hand on.
"""

from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

from fastapi.responses import Response
from pydantic import BaseModel

from soundbox_server.http import BESIDE_THE_ERROR, ErrorForm, answer

Data = TypeVar("Data")


class Said(BaseModel, Generic[Data]):
    """Reference 003's answer."""

    success: Literal[True]
    message: str
    data: Data


def says(data: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a route answers, for its description."""
    return {status: {"model": Said[data]}}


def said(data: object, message: str = "OK", *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return answer({"success": True, "message": message, "data": data}, status, headers)


def error_form(name: str, paths: tuple[str, ...], *, invalid: str | None = None) -> ErrorForm:
    """`invalid` is what the reference's clients look for where a body does not fit."""

    def say(problem: Mapping[str, Any]) -> dict[str, Any]:
        message = invalid if invalid is not None and "errors" in problem else problem["message"]
        return {
            "success": False,
            "error": message,
            "message": message,
            "code": problem["code"],
            "details": _details(problem),
            **{name: problem[name] for name in ("errors", "request_id", "timestamp") if name in problem},
        }

    return ErrorForm(
        name=name,
        paths=paths,
        schema={
            "type": "object",
            "title": name,
            "description": "Reference 003's error; `error` and `message` are the same, `details.code` is the code.",
            "required": ["success", "error", "message", "code", "details", "request_id", "timestamp"],
            "properties": {
                "success": {"const": False},
                "error": {"type": "string"},
                "message": {"type": "string"},
                "code": {"type": "string"},
                "details": {
                    "type": "object",
                    "required": ["code"],
                    "properties": {"code": {"type": "string"}, "requestId": {"type": "string"}},
                },
                **BESIDE_THE_ERROR,
            },
        },
        say=say,
    )


def _details(problem: Mapping[str, Any]) -> dict[str, Any]:
    details = {**problem["details"], "code": problem["code"], "requestId": problem["request_id"]}
    if "retry_after_s" in details:
        details["retryAfter"] = details["retry_after_s"]
    if "errors" in problem:
        fields: dict[str, list[str]] = {}
        for error in problem["errors"]:
            fields.setdefault(str(error.get("field")), []).append(str(error["message"]))
        details["errors"] = fields
    return details
