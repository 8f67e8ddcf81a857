"""CPU time of the layers of the Nature CNN alone, against their arithmetic: by memory layout and precision.

    python -m benchmarks.layers [--batch N] [--repeats N] [--calls N]

A layer's forward pass and the gradients of its weights and of its input are each measured alone, on one thread. `floor`
is what one of these takes at the speed of a large matrix product on the same core.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import cpu_time, interleaved, median, spread, table
from benchmarks.rows import write_rows

SIDE = 1024
"""Of the square matrices whose product shows what a core can do."""
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PARTS = ("forward", "weights", "input")

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "8x8 stride 4, 4 -> 32": (lambda: nn.Conv2d(4, 32, 8, 4), (4, 84, 84)),
    "4x4 stride 2, 32 -> 64": (lambda: nn.Conv2d(32, 64, 4, 2), (32, 20, 20)),
    "3x3, 64 -> 64": (lambda: nn.Conv2d(64, 64, 3), (64, 9, 9)),
    "3136 -> 512": (lambda: nn.Linear(3136, 512), (3136,)),
}
"""Those of Mnih et al. 2015, by name: a constructor, and the shape of the input."""


def parts(layer: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    """Return a call of each part of a layer by itself."""
    x = x.requires_grad_()
    out = layer(x)
    gradient = torch.ones_like(out)

    def backward(*to: Tensor) -> None:
        torch.autograd.grad(out, to, gradient, retain_graph=True)

    return {
        "forward": lambda: layer(x),
        "weights": functools.partial(backward, *layer.parameters()),
        "input": functools.partial(backward, x),
    }


def measure(batch: int, repeats: int, calls: int) -> list[dict[str, Any]]:
    """Return one row for each layer, layout and precision."""
    square = torch.randn(SIDE, SIDE)

    def several(work: Callable[[], object]) -> float:
        return cpu_time(lambda: [work() for _ in range(calls)]) / calls

    works = {"floor": functools.partial(several, lambda: square @ square)}
    cases = {}
    for (name, (make, shape)), layout, dtype in product(LAYERS.items(), LAYOUTS, DTYPES):
        if len(shape) == 1 and layout == "channels last":
            continue  # vectors have only one layout
        layer = make().to(DTYPES[dtype])
        x = torch.randn(batch, *shape).to(DTYPES[dtype], memory_format=LAYOUTS[layout])
        cases[name, layout, dtype] = 2 * layer(x).numel() * next(layer.parameters())[0].numel()
        for part, work in parts(layer, x).items():
            works[f"{name}, {layout}, {dtype}: {part}"] = functools.partial(several, work)
    interleaved(works, 1)
    took = interleaved(works, repeats)
    flops = 2 * SIDE**3 / median(took["floor"])
    return [
        {
            "layer": name,
            "layout": layout,
            "dtype": dtype,
            "batch": batch,
            "calls": calls,
            "repeats": repeats,
            "gflops": flops / 1e9,
            "floor_ms": 1e3 * operations / flops,
            "ms": {part: 1e3 * median(took[f"{name}, {layout}, {dtype}: {part}"]) for part in PARTS},
            "spread_ms": {part: [1e3 * t for t in edges(took[f"{name}, {layout}, {dtype}: {part}"])] for part in PARTS},
        }
        for (name, layout, dtype), operations in cases.items()
    ]


def edges(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def report(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text."""
    lines = [
        (
            f"{row['layer']}, {row['layout']}, {row['dtype']}",
            f"{row['floor_ms']:.1f}",
            *(f"{row['ms'][part]:.1f} ({spread(row['spread_ms'][part], 1)})" for part in PARTS),
        )
        for row in rows
    ]
    return table((f"ms, floor at {rows[0]['gflops']:.0f} GFLOP/s", "floor", *PARTS), lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--calls", type=int, default=5, help="calls in one measurement")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = measure(options.batch, options.repeats, options.calls)
    print(report(rows))
    print(f"rows: {write_rows('layers', rows).name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
