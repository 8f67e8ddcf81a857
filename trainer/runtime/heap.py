"""The C library's heap, told to keep what is freed.

A training step allocates and frees the same few hundred kilobytes, or megabytes with images, again and again. By
default glibc gives memory at the end of its heap back to the system as soon as 128 kB or so are free there, and the
kernel then clears every page anew at the next step. Whether anything lies at the end of the heap is chance, so two
processes that do the same differ in speed.
"""

from __future__ import annotations

import ctypes
import os

KEPT = 256 * 2**20
"""Free memory at the end of a heap that is kept [bytes]."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_NAMES = ("trim_threshold", "mmap_threshold")
_LARGEST = 32 * 2**20  # what glibc accepts: larger allocations are mappings of their own, unmapped when they are freed


def keep_freed_memory() -> bool:
    """Keep up to KEPT bytes that are freed, from now on; return whether this C library does.

    What the environment says of it (mallopt(3), GLIBC_TUNABLES) takes precedence.
    """
    variables = {f"MALLOC_{name.upper()}_" for name in _NAMES}
    if variables & os.environ.keys() or any(name in os.environ.get("GLIBC_TUNABLES", "") for name in _NAMES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # either one alone would fix the other at its small initial value
    return mallopt is not None and all((mallopt(_MMAP_THRESHOLD, _LARGEST), mallopt(_TRIM_THRESHOLD, KEPT)))
