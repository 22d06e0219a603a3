"""The generated schemas: committed as they are, and true of the vectors."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from soundbox_protocol import schemas
from soundbox_protocol.messages import COMMANDS, MESSAGES, PROVISIONING
from soundbox_protocol.topics import Downlink, Uplink

SPEC = Path(__file__).parents[2] / "firmware-protocol"
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}


def conforms(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """The part of JSON Schema that the generated files use, and a KeyError on any other word of it."""
    words = sorted(schema, key="type".__ne__)  # the others need the type to be right
    return all(WORDS[word](value, schema[word], schema, root) for word in words)


def has_type(value: Any, name: str, *_: Any) -> bool:
    return isinstance(value, TYPES[name]) and (name != "integer" or not isinstance(value, bool))


def members_conform(value: Any, members: dict[str, Any], _: Any, root: dict[str, Any]) -> bool:
    return all(conforms(value[name], member, root) for name, member in members.items() if name in value)


WORDS: dict[str, Any] = {
    "type": has_type,
    "const": lambda value, wanted, *_: value == wanted,
    "enum": lambda value, wanted, *_: value in wanted,
    "pattern": lambda value, pattern, *_: re.search(pattern.removesuffix("$") + r"\Z", value) is not None,
    "format": lambda _, name, *__: name == "date-time",  # says no more than the pattern, but for the calendar
    "items": lambda value, inner, _, root: all(conforms(one, inner, root) for one in value),
    "maxItems": lambda value, most, *_: len(value) <= most,
    "maxLength": lambda value, most, *_: len(value) <= most,
    "minimum": lambda value, least, *_: value >= least,
    "maximum": lambda value, most, *_: value <= most,
    "required": lambda value, names, *_: value.keys() >= set(names),
    "properties": members_conform,
    "anyOf": lambda value, choices, _, root: any(
        has_type(value, choice.get("type", "object")) and conforms(value, choice, root) for choice in choices
    ),
    "not": lambda value, inner, _, root: re.search(inner["pattern"], value) is None,
    "$ref": lambda value, ref, _, root: conforms(value, root["$defs"][ref.removeprefix("#/$defs/")], root),
    "additionalProperties": lambda _, allowed, *__: allowed is True,
    **dict.fromkeys(("$schema", "$id", "$defs", "title", "description", "default"), lambda *_: True),
}


def vectors() -> list[Any]:
    return [
        pytest.param(channel, case, id=f"{channel}: {case['name']}")
        for channel in MESSAGES
        for case in json.loads((SPEC / "vectors/v1" / f"{channel.replace('/', '-')}.json").read_text(encoding="utf-8"))
        if case["valid"] or case.get("member")
    ]


def test_the_committed_schemas_are_those_of_the_models() -> None:
    check = subprocess.run(
        [sys.executable, "-m", "soundbox_protocol.schemas", "--check"], capture_output=True, text=True, check=False
    )

    assert (check.returncode, check.stderr) == (0, "")


def test_a_changed_a_missing_and_a_left_over_schema_are_each_named(tmp_path: Path, capsys: Any) -> None:
    schemas.write(tmp_path)
    assert schemas.main(["--check", "--folder", str(tmp_path)]) == 0

    (tmp_path / "time.json").write_text("{}")
    (tmp_path / "event.json").unlink()
    (tmp_path / "gossip.json").write_text("{}")

    assert schemas.main(["--check", "--folder", str(tmp_path)]) == 1
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == [
        *("event.json", "gossip.json", "time.json")
    ]
    assert schemas.main(["--write", "--folder", str(tmp_path)]) == 0
    assert schemas.drift(tmp_path) == []


@pytest.mark.parametrize("end", PROVISIONING)
def test_a_vector_of_a_nameless_box_conforms_exactly_when_it_is_valid(end: str) -> None:
    schema = schemas.provisioning_schema(end)
    found = json.loads((SPEC / f"vectors/v1/provision-{end}.json").read_text(encoding="utf-8"))

    for case in found:
        if case["valid"] or case.get("member"):
            assert conforms(json.loads(case["payload"]), schema, schema) is case["valid"], case["name"]


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((SPEC / f"vectors/v1/{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_commands_payload_has_a_schema_and_a_vector_that_conforms(name: str) -> None:
    schema = schemas.parts()[f"payload-{name.replace('_', '-')}"]
    said = [case["fields"] for case in load("command") if case["valid"] and case["fields"]["command_name"] == name]

    assert said
    assert all(conforms(fields["payload"], schema, schema) for fields in said)
    assert not conforms([], schema, schema)


@pytest.mark.parametrize(
    ("config", "fits"),
    [({}, True), ({"volume": 101}, False), ({"lamp": "red"}, True), ({"language": "jv"}, False),
     ({"quiet_hours": {"start": "22:00", "end": "06:00", "volume": 9}}, False), ({"quiet_hours": {}}, False)],
)  # fmt: skip
def test_a_configuration_conforms_when_a_box_can_have_it(config: dict[str, Any], fits: bool) -> None:
    schema = schemas.parts()["config"]

    assert conforms(config, schema, schema) is fits
    assert all(
        conforms(case["fields"]["config"], schema, schema)
        for case in load("config-push")
        if case["valid"] and case["name"] != "largest"
    )


@pytest.mark.parametrize(("channel", "case"), vectors())
def test_a_vector_conforms_exactly_when_it_is_valid(channel: Uplink | Downlink, case: dict[str, Any]) -> None:
    schema = schemas.schema(channel)
    # The topic, the calendar and the length as encoded are for the reader to check.
    beyond_a_schema = {"somebody-else", "another-message", "no-such-day", "name-too-many-bytes", "payload-too-long",
                       "config-too-long", "backwards"}  # fmt: skip

    accepted = conforms(json.loads(case["payload"]), schema, schema)

    assert accepted is (case["valid"] or case["name"] in beyond_a_schema)


@pytest.mark.parametrize(
    "time", ["0000-01-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-32T00:00:00Z",
             "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z"]
)  # fmt: skip
def test_a_time_that_no_calendar_has_does_not_conform(time: str) -> None:
    schema = schemas.schema(Uplink.TIME_REQUEST)
    asked = {"message_type": "time_request", "device_id": "sbx_001", "nonce": "n1"}

    assert conforms(asked | {"timestamp": "0001-12-31T23:59:59Z"}, schema, schema)
    assert not conforms(asked | {"timestamp": time}, schema, schema)


@pytest.mark.parametrize("name", ["hub-1", "provision"])
def test_a_name_of_the_hub_does_not_conform(name: str) -> None:
    schema = schemas.schema(Uplink.TIME_REQUEST)
    asked = {"message_type": "time_request", "timestamp": "2026-01-01T00:00:00Z", "nonce": "n1"}

    assert conforms(asked | {"device_id": "provision-1"}, schema, schema)
    assert not conforms(asked | {"device_id": name}, schema, schema)
