"""Starting the ranks of this machine ourselves, through torchrun's own API, so that one command is enough."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trainer.runtime.failure import condense
from trainer.runtime.stop import SIGNALS


def spawn(ranks: int, module: str, arguments: Sequence[str]) -> int:
    """Run `python -m module arguments` as `ranks` processes; return 0, or the exit status of the first that failed.

    Signals that ask a run to stop are handed to the ranks, which save and exit by themselves.
    """
    # without it restarted workers meet stale keys in the agent's store (pytorch issues 135712 and 167288)
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id="lockstep",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)  # reported below
    for sig in SIGNALS:
        signal.signal(sig, _forward)
    try:
        # on the main thread the agent would handle signals itself: end the ranks, and exit with status 1
        with ThreadPoolExecutor(1) as thread:
            thread.submit(elastic_launch(config, sys.executable), "-m", module, *arguments).result()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == 2:  # bad input, which rank 0 has reported
            return 2
        print(f"lockstep: {_first_cause(rank, failure.message)}", file=sys.stderr, flush=True)
        return abs(failure.exitcode) or 1
    return 0


def _first_cause(rank: int, message: str | dict[str, Any]) -> str:
    """Return what ended the run, in one line.

    message: a dict is what the rank itself recorded, a string what its end looked like from outside. What all ranks
    agreed on (`AgreedError`), or one saw of another (`HungError`), names the culprit itself.
    """
    text = condense(message["message"] if isinstance(message, dict) else message)
    kind, _, words = text.partition(": ")
    return words if kind in ("AgreedError", "HungError") else f"rank {rank} failed first: {text}"


def _forward(number: int, _: FrameType | None) -> None:
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            os.kill(int(child), number)
