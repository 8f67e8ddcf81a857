"""What a function of tensors computes, as a digest, without the compiler: every operation that it calls, in order.

Two functions with the same digest have the same graph, so what was compiled for one serves the other.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from trainer.types import Function

CONSTANT = 1 << 16
"""Bytes up to which the values of a tensor that the function closes over are part of the digest."""
_READ = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


class Fingerprint(NamedTuple):
    """A digest, and the tensors that the function closes over, in the order of their first use."""

    digest: str
    constants: list[Tensor]


class UntellableError(Exception):
    """A function whose operations are not all it depends on."""


def fingerprint(function: Function, example: Sequence[Tensor]) -> Fingerprint:
    """Run `function` once, operation by operation, on zeros like `example`; return what it called.

    Raises UntellableError if it reads a value, changes a tensor that it closes over, or closes over a large one; and
    whatever the function raises on zeros.
    """
    given = [_zeros_like(tensor) for tensor in example]
    with _Recorder(given) as recorder:
        recorder.note("results", list(function(*given)))
    return Fingerprint(recorder.digest.hexdigest(), recorder.constants)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes down the operations called while it is active, with tensors numbered in the order of their appearance."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.digest = hashlib.sha256()
        self.constants: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        self._alive: list[Tensor] = []  # or an id could come back
        for tensor in given:
            self._number(tensor)
            self._write(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if _READ & set(operation.tags) and not (operation is torch.ops.aten.index.Tensor and _by_numbers(args[1])):
            raise UntellableError(f"{operation} reads values")
        for about, value in zip(operation._schema.arguments, args, strict=False):
            if about.is_write and any(id(tensor) not in self._numbers for tensor in _tensors(value)):
                raise UntellableError(f"{operation} changes a tensor from outside")
        self.note(str(operation), args, sorted(named.items()))
        results = operation(*args, **named)
        fresh = not any(value.alias_info for value in operation._schema.returns)
        for tensor in _tensors(results):
            self._result(tensor, fresh)
        return results

    def _result(self, tensor: Tensor, fresh: bool) -> None:
        self._number(tensor)
        if fresh and not tensor.dtype.is_floating_point:  # no value matters, and zero is an index everywhere
            tensor.zero_()

    def note(self, *values: Any) -> None:
        """Add values to the digest; tensors by their numbers."""
        for value in values:
            if isinstance(value, Tensor):
                self._write("tensor", self._numbers.get(id(value)) or self._constant(value))
            elif isinstance(value, (list, tuple)):
                self._write("(")
                self.note(*value)
                self._write(")")
            elif isinstance(value, _PLAIN):
                self._write(type(value).__name__, value)
            else:
                raise UntellableError(f"{type(value).__name__} as an argument")

    def _constant(self, tensor: Tensor) -> int:
        if tensor.nbytes > CONSTANT or tensor.device.type != "cpu":
            raise UntellableError("a large tensor from outside")
        with _disable_current_modes():
            self._write("constant", value_of(tensor))
        self.constants.append(tensor)
        return self._number(tensor)

    def _number(self, tensor: Tensor) -> int:
        if id(tensor) not in self._numbers:
            self._alive.append(tensor)
            self._numbers[id(tensor)] = len(self._alive)
        return self._numbers[id(tensor)]

    def _write(self, *values: object) -> None:
        self.digest.update(repr(values).encode())


# torch wraps the method so that Dynamo leaves it alone, and imports Dynamo for that at the first call
_Recorder.__torch_dispatch__ = inspect.unwrap(_Recorder.__torch_dispatch__)  # type: ignore[method-assign]


def value_of(tensor: Tensor) -> str:
    """Return a digest of a tensor's layout and values."""
    values = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    told = repr((tensor.shape, tensor.stride(), tensor.dtype))
    return hashlib.sha256(told.encode() + values).hexdigest()


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a value, if it is one or a sequence of them."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return [one for one in several if isinstance(one, Tensor)]


def _by_numbers(index: Sequence[Tensor | None]) -> bool:
    """Return whether an index is of numbers, not of flags, whose count would be the shape of the result."""
    return all(one is None or one.dtype not in (torch.bool, torch.uint8) for one in index)


def _zeros_like(tensor: Tensor) -> Tensor:
    """Return zeros with the layout of a tensor; memory that is never touched is never taken."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    length = (last + 1) * tensor.element_size() if tensor.numel() else 0
    flat = torch.from_numpy(np.zeros(length, dtype=np.uint8)).view(tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride())
