"""Simulated boxes in a process of their own, watched through the events they print."""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from support.stack import Child, Stack, until


@dataclass
class Boxes:
    """`soundbox-sim run-many` beside a stack, and everything it said."""

    stack: Stack
    events: list[dict[str, Any]] = field(default_factory=list)
    child: Child | None = None
    _reader: "asyncio.Task[None] | None" = None

    async def start(self, **options: Any) -> None:
        """Activate (if need be), connect and bind every box of the stack's world."""
        plans = self.stack.home / "boxes.json"
        plans.write_text(
            json.dumps(
                [
                    {
                        "serial": device["serial_number"],
                        "activation_code": device["activation_code"],
                        "home": str(self.stack.home / "boxes" / device["device_id"]),
                        "terminal_id": device["terminal_id"],
                        "voice": "none",
                    }
                    | options
                    for device in self.stack.world["devices"]
                ]
            )
        )
        log = self.stack.home / "boxes.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).parent / "soundbox-sim"), "run-many", "--file", str(plans),
                "--server", self.stack.url, "--events-json",
                stdout=asyncio.subprocess.PIPE, stderr=errors, stdin=asyncio.subprocess.DEVNULL, limit=2**20,
            )  # fmt: skip
        self.child = Child("boxes", process, log)
        self.stack.children.append(self.child)
        self._reader = asyncio.create_task(self._read(process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.events.append(json.loads(line))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["what"] == kind]

    async def bind_all(self, headers: dict[str, str]) -> None:
        """Bind each box to its terminal as an operator would, once it has activated."""
        async with httpx.AsyncClient(base_url=self.stack.url, headers=headers, timeout=20) as operator:
            for device in self.stack.world["devices"]:
                path = f"/admin/devices/{device['device_id']}"

                async def online(path: str = path) -> bool:
                    presence = (await operator.get(path)).json()["data"]["presence"]
                    return presence is not None and presence["online"]

                await until(online, what=f"{device['device_id']} online")
                bound = await operator.post(f"{path}/bind", json={"terminal_id": device["terminal_id"]})
                assert bound.status_code == 200, bound.text
