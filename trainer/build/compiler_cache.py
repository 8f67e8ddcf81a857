"""Recovery from libraries that a killed process left half-written in Inductor's cache.

Inductor links in place and later trusts any file that exists, so one SIGKILL at the wrong moment would make every
later start fail, that of a requeued job included.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 3
"""Ranks that start together may find the same broken library, and remove each other's new one once."""


def with_rebuilt_libraries(compile: Callable[[], T]) -> T:
    """Return `compile()`; if a library in the cache cannot be loaded, remove it and compile again."""
    for _ in range(ATTEMPTS - 1):
        try:
            return compile()
        except Exception as error:
            if (library := _unloadable(error)) is None:
                raise
            library.unlink(missing_ok=True)
    return compile()


def _unloadable(error: BaseException | None) -> Path | None:
    """Return the library in the cache that could not be loaded, if that caused this error."""
    while error is not None and not isinstance(error, ImportError):
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    if error is None or not error.path:
        return None
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # there by now, or nothing was compiled

    library = Path(error.path)
    return library if library.suffix == ".so" and library.is_relative_to(cache_dir()) else None
