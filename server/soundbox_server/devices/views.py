"""How a box's place is shown."""

from soundbox_server.answers import Time, TypedDict
from soundbox_server.clock import rfc3339
from soundbox_server.devices.models import DeviceBinding


class BindingView(TypedDict):
    device_id: str
    merchant_id: str
    outlet_id: str
    terminal_id: str
    bound_at: Time


def binding(binding: DeviceBinding) -> BindingView:
    """Where a box stands, and since when."""
    return {
        "device_id": binding.device_id,
        "merchant_id": binding.merchant_id,
        "outlet_id": binding.outlet_id,
        "terminal_id": binding.terminal_id,
        "bound_at": rfc3339(binding.bound_at_ms),
    }
