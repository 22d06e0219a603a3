"""How a box's place is shown."""

from typing import Any

from soundbox_server.clock import rfc3339
from soundbox_server.devices.models import DeviceBinding


def binding(binding: DeviceBinding) -> dict[str, Any]:
    """Where a box stands, and since when."""
    return {
        "device_id": binding.device_id,
        "merchant_id": binding.merchant_id,
        "outlet_id": binding.outlet_id,
        "terminal_id": binding.terminal_id,
        "bound_at": rfc3339(binding.bound_at_ms),
    }
