"""State to tensors plus JSON, and back, without loss and without pickle.

A tensor's name is the JSON pointer (RFC 6901) of its place, so no two places share one. In the JSON, plain values are
themselves; what JSON cannot express is an object with one key that begins with `$`:

    {"$tensor": [name, dtype]}      {"$int": hex}        beyond 64 bits: parsers differ there
    {"$items": [[key, value]]}      {"$float": hex}      NaN with its payload, the infinities

`$items` is a dict with integer keys, or with keys that could be taken for one of these marks. `Blocks` are a list with
a dict of tensors for each block, and come back as that, from however many files.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.tensorfile import DTYPES
from trainer.types import Blocks, State

_MAX_DEPTH = 100  # a cycle ends here rather than in a RecursionError
_ALL_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if type(value) is torch.dtype}


def encode(state: State) -> tuple[dict[str, Tensor], Any]:
    """Split a state into named tensors and a JSON value.

    Copies are avoided where possible: the tensors share memory with the state. Tuples come back as lists. Raises
    TypeError for a value that is neither a tensor nor JSON (NumPy's included) and ValueError for one that is but cannot
    be stored; both name its place.
    """
    tensors, node, blocks = encode_with_blocks(state)
    if blocks:
        raise TypeError(f"{next(iter(blocks))}: blocks are encoded one by one")
    return tensors, node


def encode_with_blocks(state: State) -> tuple[dict[str, Tensor], Any, dict[str, Blocks]]:
    """Do the same for a state with `Blocks`, which are returned by their place, for `encode_block`."""
    tensors: dict[str, Tensor] = {}
    blocks: dict[str, Blocks] = {}
    return tensors, _encode(state, "", tensors, blocks), blocks


def encode_block(place: str, index: int, block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the named tensors of a block of the `Blocks` at a place."""
    tensors: dict[str, Tensor] = {}
    for name, value in block.items():
        _encode_tensor(value, _block_place(place, index, name), tensors)
    return tensors


def decode(tensors: Mapping[str, Tensor], node: Any) -> State:
    """Join what `encode` split. Raises ValueError if the two do not match."""
    used: set[str] = set()
    state = _decode(node, tensors, used)
    if type(state) is not dict:
        raise ValueError("the top level is not a dict")
    if spare := sorted(tensors.keys() - used):
        raise ValueError(f"tensor {spare[0]!r} has no place in the structure")
    return state


def _encode(value: Any, place: str, tensors: dict[str, Tensor], blocks: dict[str, Blocks]) -> Any:
    # Exact types: NumPy's float64 and str_ are subclasses of float and str, and would come back as something else.
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int:
        return value if _fits_64_bits(value) else {"$int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if place.count("/") >= _MAX_DEPTH:
        raise ValueError(f"{place[:80]}...: nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, Tensor):
        return _encode_tensor(value, place, tensors)
    if isinstance(value, list | tuple):
        return [_encode(item, f"{place}/{i}", tensors, blocks) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return _encode_dict(value, place, tensors, blocks)
    if isinstance(value, Blocks):
        blocks[place] = value
        return [
            {name: _mark(_block_place(place, i, name), dtype) for name, dtype in value.dtypes.items()}
            for i in range(value.count)
        ]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(
        f"{place or '/'}: a checkpoint holds tensors and JSON values, not {kind}; "
        "convert it (torch.from_numpy for an array, .item() for a scalar)"
    )


def _encode_dict(value: dict[Any, Any], place: str, tensors: dict[str, Tensor], blocks: dict[str, Blocks]) -> Any:
    items = []
    plain = True
    for key, item in value.items():
        if type(key) is str:
            plain = plain and not key.startswith("$")
        elif type(key) is int and _fits_64_bits(key):
            plain = False
        else:
            raise TypeError(f"{place or '/'}: dict keys are strings or 64-bit integers, not {key!r}")
        items.append([key, _encode(item, f"{place}/{_escape(key)}", tensors, blocks)])
    return dict(items) if plain else {"$items": items}


def _escape(key: str | int) -> str:
    if isinstance(key, int):
        return f"#{key}"  # so that 0 and "0" differ
    return key.replace("~", "~0").replace("/", "~1").replace("#", "~2")


def _block_place(place: str, index: int, name: str) -> str:
    return f"{place}/{index}/{_escape(name)}"


def _mark(place: str, dtype: torch.dtype) -> dict[str, list[str]]:
    return {"$tensor": [place, str(dtype).removeprefix("torch.")]}


def _encode_tensor(value: Tensor, place: str, tensors: dict[str, Tensor]) -> Any:
    mark = _mark(place, value.dtype)
    dtype = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise TypeError(f"{place}: only dense tensors with data are stored, not {dtype} {value.layout} {value.device}")
    try:
        place.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place!r}: a key on the way to a tensor is not valid Unicode") from None
    value = value.detach().resolve_conj().resolve_neg()
    if value.is_complex():
        value = torch.view_as_real(value)
    elif value.dtype not in DTYPES and value.element_size() == 1:
        value = value.view(torch.uint8)
    if value.dtype not in DTYPES:
        raise TypeError(f"{place}: tensors of {dtype} cannot be stored")
    tensors[place] = value
    return mark


def _decode(node: Any, tensors: Mapping[str, Tensor], used: set[str]) -> Any:
    if node is None or type(node) in (bool, str, int, float):
        return node
    if type(node) is list:
        return [_decode(item, tensors, used) for item in node]
    if type(node) is not dict:
        raise ValueError(f"not a JSON value: {type(node).__name__}")
    if not any(key.startswith("$") for key in node):
        return {key: _decode(item, tensors, used) for key, item in node.items()}
    match node:
        case {"$tensor": [str(name), str(dtype)]} if len(node) == 1:
            used.add(name)
            return _decode_tensor(name, dtype, tensors)
        case {"$int": str(digits)} if len(node) == 1:
            return int(digits, 16)
        case {"$float": str(digits)} if len(node) == 1 and len(digits) == 16:
            return struct.unpack(">d", bytes.fromhex(digits))[0]
        case {"$items": list(items)} if len(node) == 1:
            return {_key(pair): _decode(pair[1], tensors, used) for pair in items}
    raise ValueError(f"unknown entry: {str(node)[:80]}")


def _key(pair: Any) -> str | int:
    if type(pair) is list and len(pair) == 2 and type(pair[0]) in (str, int):
        key: str | int = pair[0]
        return key
    raise ValueError(f"not an item of a dict: {str(pair)[:80]}")


def _decode_tensor(name: str, dtype_name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    stored, dtype = tensors.get(name), _ALL_DTYPES.get(dtype_name)
    if stored is None:
        raise ValueError(f"tensor {name!r} is missing")
    if dtype is not None and stored.dtype == dtype:
        return stored
    if dtype is not None and dtype.is_complex and stored.shape[-1:] == (2,) and stored.dtype == dtype.to_real():
        return torch.view_as_complex(stored)
    if dtype is not None and dtype not in DTYPES and stored.dtype == torch.uint8 and dtype.itemsize == 1:
        return stored.view(dtype)
    raise ValueError(f"tensor {name!r} is {stored.dtype}, which cannot be read as {dtype_name}")


def _fits_64_bits(value: int) -> bool:
    return -(2**63) <= value < 2**63
