"""A rank whose launcher was killed must not run on alone. Needs no torch: it runs before that is imported."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_parent = 0


def die_with_parent(sig: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel (Linux) to send `sig` to this process when its parent dies; remember who that is."""
    global _parent
    _parent = _parent or os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(sig))


def parent_is_gone() -> bool:
    """Whether the parent that was there at the first `die_with_parent` has died."""
    return _parent not in (0, os.getppid())
