"""A private network for the ranks of a run: a namespace each, one switch between them, every link at a limited rate.

It is real: packets queue in the kernel's token buckets (tc tbf), so that all of torch's traffic is slowed, overlapped
or not. It needs Linux, root (CAP_NET_ADMIN), `ip` and `tc`; `why_not` says what is missing. Nothing outside its
namespaces is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from benchmarks.scaling_runs import Place

SUBNET = "10.213.7"
LINK = "link0"
_BURST, _QUEUE = "32kb", "8mb"  # more than a packet of 64 KB would never pass; less queue would drop, and stall TCP


class Network:
    """Namespaces for `ranks` ranks, each behind a link of `megabits` per second in each direction (None: no limit)."""

    def __init__(self, ranks: int, megabits: float | None) -> None:
        self.ranks, self.megabits = ranks, megabits
        self.names = [f"lockstep-{os.getpid()}-{rank}" for rank in range(ranks)]
        self.hub = f"lockstep-{os.getpid()}-hub"

    def __enter__(self) -> Network:
        sweep()
        try:
            _ip("netns", "add", self.hub)
            _ip("-n", self.hub, "link", "add", "switch", "type", "bridge")
            _ip("-n", self.hub, "link", "set", "switch", "up")
            for rank, name in enumerate(self.names):
                self._join(rank, name)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    @property
    def place(self) -> Place:
        """Where `scaling_runs.started` puts the ranks: each is a node."""
        return Place(
            address=f"{SUBNET}.1",
            prefix=lambda rank: ("ip", "netns", "exec", self.names[rank]),
            variables={"GLOO_SOCKET_IFNAME": LINK},
            nodes=True,
        )

    def _join(self, rank: int, name: str) -> None:
        port = f"port{rank}"
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "add", LINK, "type", "veth", "peer", "name", port, "netns", self.hub)
        _ip("-n", name, "addr", "add", f"{SUBNET}.{rank + 1}/24", "dev", LINK)
        _ip("-n", name, "link", "set", LINK, "up")
        _ip("-n", self.hub, "link", "set", port, "master", "switch", "up")
        if self.megabits is not None:
            limit = ("root", "tbf", "rate", f"{self.megabits}mbit", "burst", _BURST, "limit", _QUEUE)
            call("tc", "-n", name, "qdisc", "add", "dev", LINK, *limit)
            call("tc", "-n", self.hub, "qdisc", "add", "dev", port, *limit)

    def _remove(self) -> None:
        for name in (*self.names, self.hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def why_not() -> str | None:
    """Return what keeps namespaces from working here; None: they work."""
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} is not installed (iproute2)"
    try:
        with Network(1, 100.0):
            return None
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"


def sweep() -> None:
    """Remove the namespaces of processes that were killed before they could."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for name in (line.split()[0] for line in listed.splitlines() if line.startswith("lockstep-")):
        if not Path("/proc", name.split("-")[1]).exists():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    call("ip", *arguments)


def call(*command: str) -> None:
    """Run a program; CalledProcessError carries its output."""
    subprocess.run(command, capture_output=True, text=True, check=True)
