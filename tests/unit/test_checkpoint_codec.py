"""The codec and the tensor files: what goes in comes out, bit for bit, or is refused by name."""

from __future__ import annotations

import json
import math
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.checkpoint import codec, tensorfile

DTYPES = [*tensorfile.DTYPES, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2]


def through_disk(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    tensors, node = codec.encode(state)
    path = folder / "state.safetensors"
    path.write_bytes(b"".join(tensorfile.pack(tensors)))
    text = json.dumps(node, allow_nan=False)
    return codec.decode(tensorfile.unpack(path), json.loads(text))


def bits(tensor: Tensor) -> bytes:
    dense = tensor.resolve_conj().resolve_neg().contiguous().clone(memory_format=torch.contiguous_format)
    return dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""


def same(left: Any, right: Any) -> bool:
    """Compare bitwise; `right` has come back from a checkpoint."""
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and bits(left) == bits(right)
    if isinstance(left, dict):
        return type(right) is dict and list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return type(right) is list and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return type(right) is float and struct.pack(">d", left) == struct.pack(">d", right)
    return type(left) is type(right) and left == right


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    layout = draw(st.sampled_from(["dense", "transposed", "strided", "expanded", "offset", "conjugate"]))
    count = math.prod(shape)
    raw = draw(st.binary(min_size=(3 * count + 1) * dtype.itemsize, max_size=(3 * count + 1) * dtype.itemsize))
    if dtype == torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    flat = torch.frombuffer(bytearray(raw), dtype=dtype)
    match layout:
        case "strided":
            return flat[1::3][:count].reshape(shape) if count == 0 else flat[1::3][:count].unflatten(0, shape or [1])
        case "offset":
            return flat[1 : count + 1].reshape(shape)
        case "transposed":
            dense = flat[:count].reshape(shape)
            return dense.permute(tuple(reversed(range(dense.dim()))))
        case "expanded":
            return flat[:1].reshape([1] * len(shape)).expand(shape)
        case "conjugate" if dtype.is_complex:
            return flat[:count].reshape(shape).conj()
    return flat[:count].reshape(shape)


floats = st.one_of(st.floats(), st.binary(min_size=8, max_size=8).map(lambda raw: struct.unpack(">d", raw)[0]))
keys = st.one_of(st.text(max_size=4), st.sampled_from(["", "/", "a/b", "a", "b", ".", "~1", "#0", "0", "$tensor"]))
leaves = st.one_of(
    st.none(), st.booleans(), st.text(max_size=5), st.integers(), st.integers(-(2**130), 2**130), floats, tensors()
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(st.one_of(keys, st.integers(-2, 2)), inner, max_size=3),
    ),
    max_leaves=10,
)


@settings(max_examples=250, deadline=None)
@given(state=st.dictionaries(keys, values, max_size=4))
def test_round_trip_is_bitwise(state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    assert same(state, through_disk(state, tmp_path_factory.getbasetemp()))


@settings(max_examples=150, deadline=None)
@given(tensor=tensors())
def test_the_library_reads_what_the_stream_writes(tensor: Tensor, tmp_path_factory: pytest.TempPathFactory) -> None:
    named, _ = codec.encode({"a": tensor, "b": [tensor, torch.tensor(1.0, dtype=torch.float64)]})
    path = tmp_path_factory.getbasetemp() / "stream.safetensors"
    raw = b"".join(tensorfile.pack(named))
    path.write_bytes(raw)
    assert same(dict(sorted(named.items())), dict(sorted(safetensors.torch.load_file(path).items())))
    assert (8 + int.from_bytes(raw[:8], "little")) % 8 == 0


def test_every_tensor_is_aligned_to_its_element() -> None:
    state = {"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(3, dtype=torch.int16), "c": torch.zeros(3)}
    head = next(iter(tensorfile.pack(codec.encode(state | {"d": torch.zeros(1, dtype=torch.float64)})[0])))
    widths = {"U8": 1, "I16": 2, "F32": 4, "F64": 8}
    for entry in json.loads(bytes(head[8:])).values():
        assert (len(head) + entry["data_offsets"][0]) % widths[entry["dtype"]] == 0


def test_keys_that_would_collide_when_joined() -> None:
    one, two, three, four = (torch.tensor(float(i)) for i in range(4))
    state = {"a": {"b/c": one}, "a/b": {"c": two}, "a.b": {"c": three}, "__metadata__": four}
    named, _ = codec.encode(state)
    assert len(named) == 4
    state["ints"] = {0: one, "0": two, "#0": three}
    assert len(codec.encode(state)[0]) == 7


def test_user_dicts_that_look_like_marks(tmp_path: Path) -> None:
    state = {"x": {"$tensor": ["/x", "float32"]}, "y": {"$int": "ff"}, "$items": [[1, 2]]}
    assert same(state, through_disk(state, tmp_path))


def test_tensors_that_share_memory_all_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state = {"base": base, "again": base, "part": base[3:7], "turned": base.reshape(3, 4).T}
    assert same(state, through_disk(state, tmp_path))


def test_optimizer_and_module_states(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
    back = through_disk(state, tmp_path)
    assert isinstance(state["net"], OrderedDict)
    assert same(json.loads(json.dumps(list(back["optimizer"]["state"]))), [0, 1])
    twin = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    twin.load_state_dict(back["optimizer"])
    assert same(optimizer.state_dict()["state"], twin.state_dict()["state"])


def test_large_tensors_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorfile, "_CHUNK", 7)
    state = {"w": torch.arange(33, dtype=torch.int16), "v": torch.arange(7, dtype=torch.uint8)}
    chunks = list(tensorfile.pack(codec.encode(state)[0]))
    assert max(len(chunk) for chunk in chunks[1:]) == 7
    assert same(state, through_disk(state, tmp_path))


def test_packing_copies_no_dense_tensor() -> None:
    tensor = torch.zeros(1000)
    *_, view = tensorfile.pack(codec.encode({"w": tensor})[0])
    tensor.fill_(1.0)
    assert bytes(view) == bits(torch.ones(1000))


def test_what_is_read_does_not_need_its_file(tmp_path: Path) -> None:
    state = {"w": torch.arange(1000.0)}
    back = through_disk(state, tmp_path)
    (tmp_path / "state.safetensors").write_bytes(bytes(5000))
    assert same(state, back)


@pytest.mark.parametrize(
    "value",
    [np.zeros(3), np.float64(1.5), np.int64(3), np.str_("a"), np.bool_(True), {1, 2}, b"raw", 1j, object(), Path("x")],
    ids=lambda value: type(value).__name__,
)
def test_foreign_values_are_refused_by_place(value: Any) -> None:
    with pytest.raises(TypeError, match=r"/replay/a~1b/1: .*tensors and JSON values, not .*\."):
        codec.encode({"replay": {"a/b": [0, value]}})


def test_foreign_keys_and_tensors_are_refused_by_place() -> None:
    with pytest.raises(TypeError, match=r"/a: dict keys are strings or 64-bit integers, not \(1, 2\)"):
        codec.encode({"a": {(1, 2): 0}})
    with pytest.raises(TypeError, match="/a: only dense tensors"):
        codec.encode({"a": torch.eye(2).to_sparse()})
    with pytest.raises(TypeError, match="/a: only dense tensors"):
        codec.encode({"a": torch.empty(2, device="meta")})
    with pytest.raises(ValueError, match="not valid Unicode"):
        codec.encode({"\ud800": torch.zeros(1)})
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    with pytest.raises(ValueError, match="nested deeper than"):
        codec.encode(cycle)


@pytest.mark.parametrize(
    "node",
    [
        [],
        {"w": {"$tensor": ["/v", "float32"]}},
        {"w": {"$tensor": ["/w", "float64"]}},
        {"w": {"$tensor": ["/w", "complex64"]}},
        {"w": {"$tensor": ["/w", "nn"]}},
        {"w": {"$tensor": "/w"}},
        {"w": {"$tensor": ["/w", "float32"], "more": 1}},
        {"w": {"$items": [[1]]}},
        {"w": {"$items": [[[1], 2]]}},
        {"w": {"$int": 3}},
        {"w": {"$float": "00"}},
        {"w": {"$call": "os.system"}},
        {},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(node: Any) -> None:
    with pytest.raises(ValueError):
        codec.decode({"/w": torch.zeros(3)}, node)
