"""Optimizers without torch's compiler: the same bits, and the compiler stays away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.build.sync import make_optimizer
from trainer.config import OptimConfig

KINDS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-5, fused=True),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01, eps=1e-5),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, eps=1e-5),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.01, eps=1e-5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_steps_and_states(kind: str) -> None:
    torch.manual_seed(1)
    one = nn.Parameter(torch.randn(50))
    other = nn.Parameter(one.detach().clone())
    mine, theirs = make_optimizer(OptimConfig(kind=kind, lr=0.01, eps=1e-5), one), KINDS[kind]([other])  # type: ignore[arg-type]
    for number in range(7):
        one.grad = torch.randn(50)
        other.grad = one.grad.clone()
        mine.step()
        theirs.step()
        assert torch.equal(one, other), number
    mine.load_state_dict(mine.state_dict())
    saved, expected = mine.state_dict()["state"].get(0, {}), theirs.state_dict()["state"].get(0, {})
    for name, value in expected.items():
        assert value is saved[name] or torch.equal(torch.as_tensor(value), torch.as_tensor(saved[name])), name


def test_a_run_never_imports_the_compiler(tmp_path: Path) -> None:
    script = """
import sys
from trainer.__main__ import main
assert main(sys.argv[1:]) == 0
assert "torch" in sys.modules
print("dynamo" if "torch._dynamo" in sys.modules else "lean")
"""
    more = ["--total_env_steps", "900", "--eval.episodes", "0", "--log.plot", "False", "--log.dir", str(tmp_path)]
    arguments = ["train", "debug", *more, "--ranks", "1"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "lean"
