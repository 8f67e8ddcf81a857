"""Other trainers to compare with ours, each in its own virtual environment under benchmarks/.peers (not in git).

A peer is a script that reads one JSON request per line and answers each with one JSON line. It stays alive between
requests, idle, so that its measurements can be interleaved with ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
HOME = HERE.parent / ".peers"


@dataclass(frozen=True)
class Peer:
    """A peer: what pip installs for it, in this order, and the script that answers for it.

    torch: whether our torch comes first; builds: whether `script build` has to be run once; ours: runs here, not in its
    own environment.
    """

    name: str
    steps: tuple[tuple[str, ...], ...]
    script: str
    torch: bool = True
    builds: bool = False
    ours: bool = False

    @property
    def python(self) -> Path:
        return Path(sys.executable) if self.ours else HOME / self.name / "bin" / "python"

    def is_installed(self) -> bool:
        return self.ours or (HOME / self.name / "installed.json").exists()

    def install(self) -> None:
        """Create the environment unless it exists; torch comes first and alone, in the version that we use."""
        if self.is_installed():
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME / self.name], check=True)
        pip = [self.python, "-m", "pip", "install", "--quiet"]
        if self.torch:
            version = torch.__version__
            public, _, build = version.partition("+")
            index = ["--extra-index-url", f"https://download.pytorch.org/whl/{build}"] if build else []
            if subprocess.run([*pip, f"torch=={version}"], stderr=subprocess.DEVNULL).returncode:
                subprocess.run([*pip, *index, f"torch=={version if index else public}"], check=True)
        for step in self.steps:
            subprocess.run([*pip, *step], check=True)
        if self.builds:
            subprocess.run([self.python, HERE / self.script, "build"], check=True)
        (HOME / self.name / "installed.json").write_text(json.dumps({"steps": self.steps}) + "\n")


GYM = ("gymnasium==1.4.0", "numpy==2.4.6")
PEERS = {
    peer.name: peer
    for peer in (
        Peer("lockstep", (), "ours.py", ours=True),
        Peer("lockstep-tensors", (), "ours_tensors.py", ours=True),
        Peer("lockstep-bfloat16", (), "ours_bfloat16.py", ours=True),
        Peer("sb3", (("stable-baselines3==2.9.2", "ale-py==0.12.1", "opencv-python-headless"),), "peer_sb3.py"),
        # its wheel is from 2023, requires Python < 3.11, and lists far more than its dqn.py imports
        Peer(
            "cleanrl",
            (
                ("gymnasium==0.29.1", "stable-baselines3==2.3.2", "numpy==1.26.4", "tensorboard", "setuptools<81"),
                ("--no-deps", "--ignore-requires-python", "cleanrl==1.2.0"),
            ),
            "peer_cleanrl.py",
        ),
        Peer("tianshou", (("tianshou==2.0.1",),), "peer_tianshou.py"),
        Peer("torchrl", (("torchrl==0.14.1", *GYM),), "peer_torchrl.py"),
        Peer("rllib", (("ray[rllib]==2.60.0",),), "peer_rllib.py"),
        Peer(
            "jax", (("jax[cpu]==0.10.2", "gymnax==1.0.1", "optax==0.2.8", "six==1.17.0"),), "peer_jax.py", torch=False
        ),
        # the newest versions that still have what its script asks for: jax.tree_map, and gymnax's step of five values
        Peer(
            "purejaxql",
            (
                ("jax[cpu]==0.4.35", "flax==0.10.2", "gymnax==0.0.8", "optax==0.2.5", "six==1.17.0", "numpy==2.4.6"),
                ("hydra-core==1.3.2", "wandb==0.31.0", "setuptools<81"),
            ),
            "peer_purejaxql.py",
            torch=False,
        ),
        Peer(
            "replay",
            (("cpprb==11.0.0", "torchrl==0.14.1", "numpy==2.4.6", "ninja==1.13.2"),),
            "peer_replay.py",
            builds=True,
        ),
    )
}


class Worker:
    """A peer's script, running. A context manager: the process ends with it."""

    def __init__(self, peer: Peer) -> None:
        self._process = subprocess.Popen(
            [peer.python, HERE / peer.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1]) if peer.ours else ""},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to one request. Raises RuntimeError if the peer died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what} | arguments) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer died while handling {what}; its error is above")
        return dict(json.loads(line))
