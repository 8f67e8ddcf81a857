"""Functions that compute the same have one fingerprint; any difference in what they compute is one in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from trainer.build.fingerprint import CONSTANT, UntellableError, fingerprint
from trainer.types import Function

ONE = [torch.zeros(3, 4)]
TWO = [torch.zeros(3), torch.zeros(3)]
TABLE = torch.arange(12.0).view(3, 4)
EQUAL, TRANSPOSED, OTHER = TABLE.clone(), TABLE.t().contiguous().t(), TABLE + 1
LARGE, STATE = torch.zeros(CONSTANT), torch.zeros(1)


def gradient(factor: float) -> Function:
    def differentiate(x: Tensor) -> list[Tensor]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            loss = (leaf.exp() * factor).sum()
        return list(torch.autograd.grad(loss, leaf))

    return differentiate


SAME: list[tuple[Function, Function, Sequence[Tensor]]] = [
    (lambda x: [x + 1], lambda y: [y.add(1)], ONE),
    (lambda x: [x * TABLE], lambda x: [x * EQUAL], ONE),
    (gradient(2.0), gradient(2.0), ONE),
]
DIFFERENT: dict[str, tuple[Function, Function, Sequence[Tensor]]] = {
    "a number": (lambda x: [x + 1], lambda x: [x + 2], ONE),
    "its type": (lambda x: [x + 1], lambda x: [x + 1.0], ONE),
    "a number in the backward pass": (gradient(2.0), gradient(3.0), ONE),
    "an operation": (lambda x: [x.sin()], lambda x: [x.cos()], ONE),
    "an argument by name": (lambda x: [x.sum(0)], lambda x: [x.sum(0, keepdim=True)], ONE),
    "which argument": (lambda x, y: [x - y], lambda x, y: [y - x], TWO),
    "which result": (lambda x, y: [x + y, x], lambda x, y: [x + y, y], TWO),
    "the order of results": (lambda x: [x.sin(), x.cos()], lambda x: [x.sin(), x.cos()][::-1], ONE),
    "how often": (lambda x: [x.sin()], lambda x: [x.sin().sin()], ONE),
    "in place": (lambda x: [x.add(1)], lambda x: [x.add_(1)], ONE),
    "a constant's values": (lambda x: [x + TABLE], lambda x: [x + OTHER], ONE),
    "a constant's layout": (lambda x: [x + TABLE], lambda x: [x + TRANSPOSED], ONE),
    "which constant": (lambda x: [x + TABLE, TABLE], lambda x: [x + TABLE, OTHER], ONE),
}


@pytest.mark.parametrize("number", range(len(SAME)))
def test_the_same(number: int) -> None:
    one, other, example = SAME[number]
    assert fingerprint(one, example).digest == fingerprint(other, example).digest


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_difference(what: str) -> None:
    one, other, example = DIFFERENT[what]
    assert fingerprint(one, example).digest != fingerprint(other, example).digest


@pytest.mark.parametrize(
    "example", [torch.zeros(4, 3), torch.zeros(4, 3).t(), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(1, 4)]
)
def test_the_layout_of_arguments_counts(example: Tensor) -> None:
    assert fingerprint(lambda x: [x + 1], [example]).digest != fingerprint(lambda x: [x + 1], ONE).digest


def test_constants_are_in_the_order_of_their_use() -> None:
    first, second = torch.ones(3), torch.full((3,), 2.0)
    found = fingerprint(lambda x, y: [x + second, y + first, x * second], TWO)
    assert [id(tensor) for tensor in found.constants] == [id(second), id(first)]


def test_arguments_are_left_alone_and_large_ones_cost_nothing() -> None:
    small = torch.full((3,), 7.0)
    large = torch.zeros(1).expand(1 << 40)  # 4 TB

    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        x.add_(1)
        y[:3].copy_(x)
        return [y[2]]

    assert fingerprint(function, [small, small.clone()]).digest
    torch.testing.assert_close(small, torch.full((3,), 7.0))
    assert fingerprint(lambda x: [x[5:7] + 1], [large]).digest


def test_any_index_is_valid() -> None:
    """Values do not matter, so those of indices are zero, whatever they are computed from."""
    table = torch.arange(4.0)

    def function(x: Tensor) -> list[Tensor]:
        number = torch.searchsorted(x.cumsum(0), torch.ones(2)) + 100
        return [table[number % 1000]]

    assert fingerprint(function, [torch.zeros(8)]).constants[0] is table


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x + x.sum().item()],
        lambda x: [x[x > 0]],
        lambda x: [x.nonzero()],
        lambda x: [x + LARGE[:4]],
        lambda x: [x + STATE.add_(1)],
        lambda x: [x + torch.rand(4, generator=torch.Generator())],
    ],
    ids=["reads a value", "selects by flags", "nonzero", "a large constant", "changes a constant", "a generator"],
)
def test_what_cannot_be_told(function: Function) -> None:
    with pytest.raises(UntellableError):
        fingerprint(function, ONE)
    assert STATE.item() == 0


SCRIPT = """
import sys, torch
from trainer.build.fingerprint import fingerprint
table = torch.arange(5)
print(fingerprint(lambda x: [x.softmax(1), table], [torch.zeros(3, 4)]).digest)
assert not {"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules)
"""


def test_it_is_the_same_in_every_process_and_imports_no_compiler() -> None:
    command = [sys.executable, "-c", SCRIPT]
    told = [subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout for _ in range(2)]
    assert told[0] == told[1]
