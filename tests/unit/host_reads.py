"""What a CPU can tell of host syncs: operations that need a number on the host raise, whatever the device."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.unique_dim, aten._unique2}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class NoHostReads(TorchDispatchMode):
    """Raises where an operation needs a number on the host, or has a result whose shape depends on numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func.overloadpacket in INDEXING and any(i is not None and i.dtype is torch.bool for i in args[1])
        assert func.overloadpacket not in READS and not masks, f"{func} waits for the device"  # noqa: PT018
        return func(*args, **(kwargs or {}))
