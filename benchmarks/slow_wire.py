"""The trainer on a wire of a given rate and latency, where a real one (slow_net.py) is not permitted or lacks latency.

    python -m benchmarks.slow_wire --megabits 20 --latency 0.001 -- train PRESET ...

Every exchange that `Wire` counts sleeps as long as its bytes, by the formula, take: latency + bytes / rate. The sleep
comes before the exchange, so one that would overlap with other work (ddp, overlap) is not hidden here.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from trainer.sync.wire import Wire


def slow_down(megabits: float, latency: float) -> None:
    """Make every `Wire` of this process sleep for what it sends."""
    counted: dict[int, float] = {}  # by wire; they live as long as the process

    def get(wire: Wire) -> float:
        return counted[id(wire)]

    def set_(wire: Wire, total: float) -> None:
        more = total - counted.get(id(wire), 0.0)
        counted[id(wire)] = total
        if more > 0:
            time.sleep(latency + 8e-6 * more / megabits)

    Wire.sent = property(get, set_)  # type: ignore[assignment]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabits", type=float, required=True, help="per second")
    parser.add_argument("--latency", type=float, default=0.0, help="of an exchange [s]")
    options = parser.parse_args(arguments[:own])
    slow_down(options.megabits, options.latency)
    from trainer.__main__ import main as trainer

    return trainer(arguments[own + 1 :])


if __name__ == "__main__":
    sys.exit(main())
