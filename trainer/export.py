"""Export a Q-network: weights alone (safetensors), or weights and computation (TorchScript, ONNX).

Whatever is written is read back and compared with the network. Knows no environment and no run: the network,
observations to test it on and the metadata to store are passed in.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

TOLERANCE = 1e-4
"""Largest difference from the eager network, relative to its largest value, or to 1 if that is smaller."""
SUFFIXES = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}

Compute = Callable[[Tensor], Tensor]


class ExportError(RuntimeError):
    """The exported file does not compute what the network computes."""


class QValues(nn.Module):
    """obs [B, *] -> q [B, A]: a Q-network that returns one tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, obs: Tensor) -> Tensor:
        q: Tensor = self.net(obs).q
        return q


def export(kind: str, net: nn.Module, batches: Sequence[Tensor], path: Path, about: Mapping[str, str]) -> float:
    """Write `net`, which is on the CPU, to `path` and return its largest difference from what was written.

    batches: observations [B, *] of different B, the first with B > 1; about: metadata to store in the file.
    Nothing is written to `path` unless the comparison succeeds.

    Raises:
        ValueError: a package is missing.
        ExportError: the difference is too large.
    """
    net = net.eval()
    part = path.with_name(f".{path.name}.part")
    try:
        with torch.no_grad(), _quiet():
            compute = _WRITERS[kind](net, batches[0], part, dict(about))
            error = max(_difference(net, compute, obs) for obs in batches)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return error


def random_batches(shape: Sequence[int], dtype: torch.dtype, sizes: Sequence[int] = (3, 1, 16)) -> list[Tensor]:
    """Return random observations: uniform over all values of uint8 and bool, standard normal otherwise."""
    random = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return [torch.randn(size, *shape, generator=random, dtype=dtype) for size in sizes]
    high = 2 if dtype is torch.bool else 256
    return [torch.randint(high, (size, *shape), generator=random).to(dtype) for size in sizes]


def _difference(net: nn.Module, compute: Compute, obs: Tensor) -> float:
    expected: Tensor = net(obs).q
    found = compute(obs)
    if found.shape != expected.shape:
        raise ExportError(f"q has shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    error = (found - expected).abs().max().item()
    limit = TOLERANCE * max(1.0, expected.abs().max().item())
    if not error <= limit:  # NaN is not agreement
        raise ExportError(f"q differs by {error:.1e} from that of the network, more than {limit:.1e}")
    return error


def _safetensors(net: nn.Module, obs: Tensor, path: Path, about: dict[str, str]) -> Compute:
    # through bytes: only its owner could read a file that save_file wrote
    path.write_bytes(save({name: value.contiguous().clone() for name, value in net.state_dict().items()}, about))
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    return lambda obs: torch.func.functional_call(net, stored, (obs,), strict=True).q


def _torchscript(net: nn.Module, obs: Tensor, path: Path, about: dict[str, str]) -> Compute:
    traced: Any = torch.jit.trace(QValues(net), obs, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, path, _extra_files={"about.json": json.dumps(about)})
    loaded: Compute = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return loaded


def _onnx(net: nn.Module, obs: Tensor, path: Path, about: dict[str, str]) -> Compute:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (what torch.onnx needs)
    except ModuleNotFoundError as error:
        raise ValueError(f"--format onnx needs {error.name}: pip install 'lockstep[export]'") from None
    single = copy.deepcopy(net).float()  # onnxruntime has no double-precision convolution
    program: Any = torch.onnx.export(
        QValues(single),
        (obs,),
        dynamo=True,
        dynamic_shapes={"obs": {0: torch.export.Dim("batch")}},
        input_names=["obs"],
        output_names=["q"],
        verbose=False,
    )
    program.model.metadata_props.update(about)
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda obs: torch.from_numpy(np.asarray(session.run(["q"], {"obs": obs.numpy()})[0]))


_WRITERS: dict[str, Callable[[nn.Module, Tensor, Path, dict[str, str]], Compute]] = {
    "safetensors": _safetensors,
    "torchscript": _torchscript,
    "onnx": _onnx,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporters, which warn of their own deprecations and of packages not needed here."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
