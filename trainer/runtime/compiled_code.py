"""What compiled code depends on besides itself: the processor and settings; and where it is kept."""

from __future__ import annotations

import getpass
import os
import platform
import re
import tempfile
from functools import cache
from pathlib import Path

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def cache_folder() -> Path:
    """Return the folder of kept graphs, in that of torch's compiler.

    Raises OSError or KeyError on a system that has no name for this user.
    """
    user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    default = Path(tempfile.gettempdir(), f"torchinductor_{user}")
    return Path(os.environ.get(_CACHE) or default) / "lockstep"


def settings() -> list[tuple[str, str]]:
    """Return the variables of the environment that torch's compiler looks at, except for where its cache is."""
    names = [name for name in os.environ if name == "CXX" or name.startswith("TORCHINDUCTOR_")]
    return sorted((name, os.environ[name]) for name in names if name != _CACHE)


@cache
def processor() -> str:
    """Return what tells processors with other instructions apart: code is compiled for the one that it was made on."""
    try:
        about = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return platform.processor()
    return "".join(line for line in about.splitlines() if line.startswith(("model name", "flags", "Features")))


def tell_library(pointer: int) -> None:
    """Tell a library of torch's compiler, which is about to be loaded, the address of a function in torch."""
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(pointer)
