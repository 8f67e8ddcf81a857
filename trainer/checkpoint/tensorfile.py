"""One safetensors file: written as a stream of chunks, read by the library.

The library's own writer is not used: it can neither hash while writing nor report a full disk with its errno.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
}
_CHUNK = 16 << 20  # bytes; large enough for the disk, small next to a replay ring


def pack(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file, chunk by chunk.

    At most one tensor is copied at a time, and only if it is strided or lives on a device. A chunk is valid until the
    next one is asked for.
    """
    # Widest elements first: every tensor is then aligned to its own element, which readers that map the file need.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        view = _bytes_of(tensors[name])
        for begin in range(0, len(view), _CHUNK):
            yield view[begin : begin + _CHUNK]


def unpack(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file to the CPU.

    Raises whatever the library does for a malformed file (SafetensorError, KeyError, OSError).
    """
    with safe_open(path, framework="pt", device="cpu") as file:
        # Clones: what the library returns may be mapped from the file, which is deleted while the run goes on.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _bytes_of(tensor: Tensor) -> memoryview:
    dense = tensor.cpu().contiguous()
    # Not view(-1): a single element may keep a stride other than 1 and still count as contiguous.
    flat = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8)
    return flat.numpy().data
