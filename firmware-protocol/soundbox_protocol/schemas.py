"""JSON Schemas of every message as it is on the wire, generated from the models.

`python -m soundbox_protocol.schemas --write` writes them, `--check` fails when the files say something else.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from soundbox_protocol.messages import COMMANDS, MESSAGES, PROVISIONING, BoxConfig, Message
from soundbox_protocol.topics import Downlink, Uplink

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BESIDE_THE_PACKAGE = Path(__file__).resolve().parents[1] / "schemas"


def schema(channel: Uplink | Downlink) -> dict[str, Any]:
    """The schema of one channel's message. Unknown members are allowed, as readers ignore them."""
    way = "uplink" if isinstance(channel, Uplink) else "downlink"
    topic = f"devices/{{device_id}}/{way}/{channel.value}"
    return _schema(MESSAGES[channel], topic, is_signed=isinstance(channel, Downlink))


def provisioning_schema(end: str) -> dict[str, Any]:
    """The schema of `request`, which is signed, or `response`, whose secrets are sealed."""
    return _schema(PROVISIONING[end], f"provision/{{nonce}}/{end}", is_signed=end == "request")


def part_schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    """The schema of an object inside a message: a configuration, a command's payload."""
    described = model.model_json_schema()
    described["properties"] = {key: _on_the_wire(field) for key, field in described.get("properties", {}).items()}
    return {"$schema": DIALECT, "$id": f"urn:soundbox:v1:{name.replace('-', '_')}", **described}


def parts() -> dict[str, dict[str, Any]]:
    """Name → schema of each object inside a message."""
    models: dict[str, type[BaseModel]] = {"config": BoxConfig}
    models |= {f"payload-{name.replace('_', '-')}": model for name, model in COMMANDS.items()}
    return {name: part_schema(model, name) for name, model in models.items()}


def _schema(model: type[Message], topic: str, *, is_signed: bool) -> dict[str, Any]:
    described = model.model_json_schema()
    described["properties"] = {name: _on_the_wire(field) for name, field in described["properties"].items()}
    # The constructor fills message_type in, the wire must say it.
    described["required"] = ["message_type", *described["required"]]
    if is_signed:
        described["properties"]["sig"] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}
        described["required"].append("sig")
    return {
        "$schema": DIALECT,
        "$id": f"urn:soundbox:v1:{described['properties']['message_type']['const']}",
        "title": described.pop("title"),
        "description": f"{described.pop('description')}\n\nTopic: {topic}",
        **described,
    }


def files() -> dict[str, str]:
    """File name → content, one schema per message, and one per object inside one."""
    named = {channel.value.replace("/", "-"): schema(channel) for channel in MESSAGES}
    named |= {f"provision-{end}": provisioning_schema(end) for end in PROVISIONING}
    named |= parts()
    return {f"{name}.json": json.dumps(one, indent=2, ensure_ascii=False) + "\n" for name, one in named.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m soundbox_protocol.schemas", description="Schemas of the messages.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="write the schemas")
    what.add_argument("--check", action="store_true", help="fail when a schema is missing, changed or left over")
    parser.add_argument("--folder", type=Path, default=_BESIDE_THE_PACKAGE, help="default: %(default)s")
    chosen = parser.parse_args(arguments)
    if chosen.write:
        write(chosen.folder)
        return 0
    drifted = drift(chosen.folder)
    for name in drifted:
        print(f"{name} differs from the models: run with --write", file=sys.stderr)
    return 1 if drifted else 0


def write(folder: Path) -> None:
    """Make the folder hold exactly the schemas of today's models."""
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in {path.name for path in folder.glob("*.json")} - files().keys():
        (folder / left_over).unlink()
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")


def drift(folder: Path) -> list[str]:
    """Names of schemas that are missing, changed, or belong to no message any more."""
    wanted = files()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def _on_the_wire(field: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only the constructor knows: its defaults of None, and the titles made from field names."""
    return {key: value for key, value in field.items() if key != "title" and (key, value) != ("default", None)}


if __name__ == "__main__":
    sys.exit(main())
