"""Ports for processes that are told beforehand where to meet."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

LOWEST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Return different ports that nothing of this machine uses, and that nothing is likely to take meanwhile.

    Seconds pass until rank 0 has loaded torch and listens there. From its own range the kernel gives a port to every
    connection that is made and to every server that leaves the choice to it, so these lie below that range.
    """
    below = int(RANGE.read_text().split()[0]) if RANGE.exists() else 32_768
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = random.SystemRandom().randrange(LOWEST, max(below, LOWEST + 1_000))
            with suppress(OSError):
                held.enter_context(socket.socket()).bind(("", port))
                found.append(port)
    return found


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]
