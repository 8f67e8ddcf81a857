"""How much memory a device has left."""

from __future__ import annotations

import torch

from trainer.runtime.machine import memory


def free_bytes(device: torch.device) -> int:
    """Return the memory that new allocations on `device` may take, limits of control groups included [bytes]."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    found = memory()
    return found.free if found.total else 2**63  # a system that does not say
