"""A later start gets its graphs from an earlier one, without the compiler, and only those that are its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.build import graph_store
from trainer.build.graph_store import GraphStore
from trainer.build.inductor import ON_A_CPU, compile_function
from trainer.types import Function

SCALE = torch.tensor([1.0, 2.0, 3.0])
SHIFT = torch.tensor([0.5, 0.0, 0.0])
OPTIONS = {**ON_A_CPU, "optimize_scatter_upon_const_tensor": False}
"""What `compile_function` asks of the compiler."""
GIVEN = torch.tensor([1.0, 1.0, 2.0])


def function(x: Tensor) -> list[Tensor]:
    return [x * SCALE + SHIFT, x.sum()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kept graphs with that of `function` in it; the compiler has its own cache, as ever."""
    monkeypatch.setattr(graph_store, "cache_folder", lambda: tmp_path / "kept")
    compile_function(function, [torch.zeros(3)])
    return tmp_path / "kept"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> Function:
        raise AssertionError("compiled")

    monkeypatch.setattr("trainer.build.inductor._compile", refuse)


def check(run: Function) -> None:
    first, total = run(GIVEN)
    torch.testing.assert_close(first, torch.tensor([1.5, 2.0, 6.0]))
    torch.testing.assert_close(total, torch.tensor(4.0))


def test_a_kept_graph_needs_no_compiler(folder: Path, no_compiler: None) -> None:
    check(compile_function(function, [torch.zeros(3)]))


@pytest.mark.parametrize(
    ("other", "example", "vectors"),
    [
        (lambda x: [x * SHIFT + SCALE, x.sum()], torch.zeros(3), True),
        (function, torch.zeros(6)[::2], True),
        (function, torch.zeros(3), False),
    ],
    ids=["another function", "another layout", "another option"],
)
def test_no_other_graph_is_taken_for_it(
    folder: Path, no_compiler: None, other: Function, example: Tensor, vectors: bool
) -> None:
    with pytest.raises(AssertionError, match="compiled"):
        compile_function(other, [example], vectors=vectors)


@pytest.mark.parametrize("what", ["threads", "torch", "processor", "setting", "code"])
def test_nor_one_made_elsewhere(folder: Path, no_compiler: None, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    threads = torch.get_num_threads()
    if what == "threads":
        torch.set_num_threads(threads + 1)
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "0")
    elif what == "setting":
        monkeypatch.setitem(os.environ, "TORCHINDUCTOR_FREEZING", "1")
    else:
        monkeypatch.setattr(graph_store, {"processor": "processor", "code": "_own_code"}[what], lambda: "other")
    try:
        with pytest.raises(AssertionError, match="compiled"):
            compile_function(function, [torch.zeros(3)])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("suffix", "length"), [(".so", 0), (".so", 1000), (".json", 0), (".json", 9), (".json", None)])
def test_a_damaged_one_is_compiled_and_kept_again(folder: Path, suffix: str, length: int | None) -> None:
    (kept,) = folder.glob(f"*{suffix}")
    whole = kept.read_bytes()
    kept.unlink() if length is None else kept.write_bytes(whole[:length])
    store = GraphStore(function, [torch.zeros(3)], OPTIONS)
    assert store.load() is None
    check(compile_function(function, [torch.zeros(3)]))
    assert len(list(folder.iterdir())) == 2
    again = store.load()
    assert again is not None
    check(again)


def test_without_a_place_to_keep_it_it_is_compiled(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()
    check(compile_function(function, [torch.zeros(3)]))


def test_what_cannot_be_told_apart_is_not_kept() -> None:
    store = GraphStore(lambda x: [x * x.sum().item()], [torch.zeros(3)], {})
    assert store.found is None
    assert store.load() is None


WRAPPER = """
def wrap(f):
    def call(args):
        handles = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([arg for arg in args])
        args.clear()
        found = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(f(handles))
        return {}
    return call
"""
"""What Inductor puts around a library."""


@pytest.mark.parametrize(
    ("result", "plain"),
    [("found", True), ("[found[0].item()]", False), ("found[1:]", False), ("[tensor * 2 for tensor in found]", False)],
)
def test_only_what_hands_tensors_over_and_does_no_more_is_left_out(result: str, plain: bool) -> None:
    defined: dict[str, Any] = {"torch": torch}
    exec(WRAPPER.format(result), defined)
    assert (graph_store.entry_of(defined["wrap"](len)) is len) == plain


START = """
import json, sys, tempfile
from pathlib import Path
from benchmarks.harness import of_preset, open_run, warm_up
from dataclasses import replace

config = of_preset("debug")
runtime = replace(config.runtime, device="cpu", threads=1, compile=True)
with tempfile.TemporaryDirectory() as folder, open_run(replace(config, runtime=runtime), Path(folder)) as run:
    warm_up(run, 100)
    weights = run.learner.sync.flat.data.double().sum().item()
    print(json.dumps([weights, "torch._inductor.compile_fx" in sys.modules]), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_start_of_a_run_does_without_the_compiler(tmp_path: Path) -> None:
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    starts = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, timeout=240, env=env)
        assert done.returncode == 0, done.stderr
        starts.append(json.loads(done.stderr.splitlines()[-1]))
    (first, compiled), (second, compiled_again) = starts
    assert (compiled, compiled_again) == (True, False)
    assert first == second
