"""A start finds what a process that was killed while linking has left in the compiler's cache, and repairs it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._inductor.cpp_builder import CppBuilder

from trainer.build.compiler_cache import ATTEMPTS, with_rebuilt_libraries
from trainer.build.inductor import compile_function


def test_a_library_that_was_not_linked_to_its_end_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    unique = time.time()  # in no cache yet
    build, killed = CppBuilder.build, []

    def build_or_be_killed(self: CppBuilder) -> None:
        library = Path(self.get_target_file_path())
        if library.name.endswith(".main.so") and not killed:
            killed.append(library)
            library.touch()
        else:
            build(self)

    def function(x: Tensor) -> list[Tensor]:
        return [x * unique]

    monkeypatch.setattr(CppBuilder, "build", build_or_be_killed)
    (out,) = compile_function(function, [torch.zeros(3)])(torch.ones(3))
    assert len(killed) == 1
    assert killed[0].stat().st_size > 0
    torch.testing.assert_close(out, torch.full((3,), unique))


def failing(error: Exception, calls: list[int]) -> None:
    calls.append(len(calls))
    raise error


@pytest.mark.parametrize("name", ["elsewhere.so", "cache/code.py"])
def test_nothing_else_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(os.environ, "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    path, calls = tmp_path / name, []
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(ImportError, match="no"):
        with_rebuilt_libraries(lambda: failing(ImportError("no", path=str(path)), calls))
    assert path.exists()
    assert len(calls) == 1


def test_a_library_that_never_loads_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    calls: list[int] = []
    wrapped = RuntimeError("compiler")
    wrapped.__cause__ = ImportError("undefined symbol", path=str(tmp_path / "a" / "x.main.so"))
    with pytest.raises(RuntimeError, match="compiler"):
        with_rebuilt_libraries(lambda: failing(wrapped, calls))
    assert len(calls) == ATTEMPTS
