"""Bytes on the wire of one update by each strategy: its formula, what the trainer counts, and what the loopback saw.

The formulas are written down again here, for gloo and independently of the trainer's own count. The loopback device
counts whole packets: headers, acknowledgements and gloo's handshakes come on top. In its own network namespace it
counts no other traffic.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.slow_net import call, sweep, why_not


@dataclass(frozen=True)
class Shape:
    """What a formula needs to know. shapes: of the parameters; ranks: how many."""

    shapes: Sequence[Sequence[int]]
    ranks: int
    period: int = 16
    share: float = 0.01
    factors: int = 4

    @property
    def count(self) -> int:
        return sum(_size(shape) for shape in self.shapes)

    @property
    def bytes(self) -> int:
        return 4 * self.count

    @property
    def peers(self) -> int:
        return self.ranks - 1


def _size(shape: Sequence[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _all_reduce(of: Shape) -> float:
    return 2 * of.bytes * of.peers


def _zero1(of: Shape) -> float:
    padded = -(-of.count // (16 * of.ranks)) * 16 * of.ranks * 4
    return 3 * padded * of.peers + 4 * of.ranks * of.peers  # gloo's reduce-scatter is an all-reduce; plus the norm


def _fp16(of: Shape) -> float:
    return 2 * 2 * (-(-of.count // of.ranks) * of.ranks) * of.peers


def _int8(of: Shape) -> float:
    chunks = -(-of.count // (256 * of.ranks)) * of.ranks
    return 2 * chunks * (256 + 4) * of.peers


def _topk(of: Shape) -> float:
    return max(1, round(of.share * of.count)) * (4 + 4) * of.ranks * of.peers


def _powersgd(of: Shape) -> float:
    travel = 0
    for shape in of.shapes:
        short, long = sorted((shape[0], _size(shape) // shape[0]))
        rank = min(of.factors, short)
        small = len(shape) > 1 and rank * (short + long) < short * long
        travel += rank * (short + long) if small else short * long
    return 2 * 4 * travel * of.peers


def _server(of: Shape) -> float:
    return 2 * of.bytes * of.peers + 4 * of.ranks * of.peers  # there, back, and the norm


FORMULAS: dict[str, tuple[str, Callable[[Shape], float]]] = {
    "flat": ("2n(p-1)", _all_reduce),
    "sockets": ("2n(p-1)", _all_reduce),
    "ddp": ("2n(p-1)", _all_reduce),
    "overlap": ("2n(p-1)", _all_reduce),
    "zero1": ("3n(p-1) on gloo", _zero1),
    "fp16": ("n(p-1)", _fp16),
    "int8": ("(n/2 + n/128)(p-1)", _int8),
    "topk": ("2kn p(p-1)", _topk),
    "powersgd": ("2f(p-1), f: bytes of the factors", _powersgd),
    "local_sgd": ("2n(p-1)/H", lambda of: _all_reduce(of) / of.period),
    "gossip": ("(n+4)p", lambda of: (of.bytes + 4.0) * of.ranks),
    "server": ("2n(p-1)", _server),
    "server-async": ("(2n+32)(p-1)", lambda of: (2 * of.bytes + 32.0) * of.peers),
}
"""Strategy -> bytes of one update, all p ranks together, in words and from a Shape; n: bytes of the gradient."""


def loopback() -> int:
    """Return the bytes that this namespace's loopback device has carried so far."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    return 0


@contextmanager
def private_loopback() -> Iterator[str | None]:
    """Make a namespace that has only a loopback device; None where that is not permitted."""
    if why_not() is not None:
        yield None
        return
    sweep()
    name = f"lockstep-{os.getpid()}-lo"
    call("ip", "netns", "add", name)
    try:
        call("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        call("ip", "netns", "del", name)


def enter(name: str) -> None:
    """Move this process, which has no other threads yet, into a network namespace."""
    clone_newnet = 0x40000000
    with open(f"/run/netns/{name}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), clone_newnet):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")
