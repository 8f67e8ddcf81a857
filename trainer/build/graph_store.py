"""Compiled graphs of earlier starts, called without the compiler: its import takes 3 seconds and 120 MB.

Inductor keeps what it compiled too, but finds it by a traced graph, and the tracer alone imports most of the
compiler. Here a graph is found by its fingerprint.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from trainer.build.fingerprint import Fingerprint, fingerprint, value_of
from trainer.runtime.compiled_code import cache_folder, processor, settings, tell_library
from trainer.types import Function

_ENTRY = "inductor_entry_cpp"
_GIVE, _TAKE = "unsafe_alloc_void_ptrs_from_tensors", "alloc_tensors_by_stealing_from_void_ptrs"
_HANDING = {
    *("torch", "Tensor", "tensor", "_C", "_aoti", _GIVE, _TAKE),
    *("append", "clear", "enumerate", "isinstance", "len", "set", "zip"),
}
"""Names in a function of Inductor's that hands tensors to a library and takes tensors from it, and nothing else."""


class GraphStore:
    """The place of one function's graph, for tensors like those of `example`, with these options of the compiler."""

    def __init__(self, function: Function, example: Sequence[Tensor], options: dict[str, Any]) -> None:
        self.found: Fingerprint | None = None
        if any(tensor.device.type != "cpu" for tensor in example):
            return
        try:
            self.found = fingerprint(function, example)
            key = repr((self.found.digest, sorted(options.items()), _surroundings()))
            self.path = cache_folder() / hashlib.sha256(key.encode()).hexdigest()
        except Exception:  # whatever it raises on zeros: then it is compiled at every start
            self.found = None

    def load(self) -> Function | None:
        """Return the graph that an earlier start kept, None if there is none that can be loaded."""
        if self.found is None:
            return None
        try:
            told = json.loads(self.path.with_suffix(".json").read_text())
            library = self.path.with_suffix(".so")
            if library.stat().st_size != told["bytes"]:
                return None
            constants = [self.found.constants[number] for number in told["constants"]]
            return caller(_entry(library), constants)
        except (OSError, ValueError, TypeError, KeyError, IndexError, ImportError, AttributeError):
            return None

    def keep(self, entry: Any, constants: Sequence[Tensor]) -> None:
        """Keep a graph for later starts; entry: what `entry_of` found; constants: the tensors after the arguments."""
        if self.found is None:
            return
        numbers = {value_of(tensor): number for number, tensor in enumerate(self.found.constants)}
        needed = [numbers.get(value_of(tensor)) for tensor in constants]
        if None in needed:
            return
        library = Path(entry.__self__.__file__)
        try:
            told = json.dumps({"bytes": library.stat().st_size, "constants": needed})
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
                shutil.copyfile(library, Path(folder, "library"))
                Path(folder, "told").write_text(told)
                Path(folder, "library").replace(self.path.with_suffix(".so"))
                Path(folder, "told").replace(self.path.with_suffix(".json"))
        except OSError:  # a full disk, a folder of somebody else: the next start compiles again
            return


def entry_of(call: Any) -> Any:
    """Return the library's function to which `call`, which Inductor made, hands a list; None if it does more."""
    if not inspect.isfunction(call) or call.__code__.co_freevars != ("f",):
        return None
    around = inspect.getclosurevars(call)
    return around.nonlocals["f"] if around.globals == {"torch": torch} and _only_hands(call.__code__) else None


def caller(entry: Any, constants: Sequence[Tensor]) -> Function:
    """Return the function that calls a graph's library with its arguments and then these, without further checks."""
    give, take = getattr(torch._C._aoti, _GIVE), getattr(torch._C._aoti, _TAKE)
    if not constants:
        return lambda *given: take(entry(give(given)))
    return lambda *given: take(entry(give((*given, *constants))))


def _only_hands(code: CodeType) -> bool:
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    rest = [const for const in code.co_consts if not isinstance(const, CodeType | str)]
    plain = all(const in (None, "cpu", ("device",)) for const in rest)
    return plain and _HANDING.issuperset(code.co_names) and all(map(_only_hands, inner))


def _entry(library: Path) -> Any:
    """Return the function in a library of Inductor's."""
    tell_library(torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr)  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(f"{library.stem}.{_ENTRY}", library)
    if spec is None or spec.loader is None:
        raise ImportError(f"{library} is no library")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, _ENTRY)


def _surroundings() -> list[object]:
    """Return what else the code depends on: versions, the processor, settings that the compiler looks at."""
    return [
        torch.__version__,
        torch.version.git_version,
        sys.version,
        processor(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        settings(),
        _own_code(),
    ]


@cache
def _own_code() -> str:
    """Return a digest of the code that turns a function into what Inductor is given."""
    files = [Path(__file__).with_name(name) for name in ("inductor.py", "narrow.py", "search.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
