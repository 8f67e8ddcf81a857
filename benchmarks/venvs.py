"""Other trainers to measure beside ours, each in a virtual environment of its own under benchmarks/.peers (not in git).

A peer is a script that reads one JSON request a line and answers each with one JSON line. It stays alive between
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
HOME = HERE / ".peers"


@dataclass(frozen=True)
class Peer:
    """A peer: what pip installs for it besides our torch, and the script that answers for it.

    builds: whether `script build` has to be run once.
    """

    name: str
    requirements: tuple[str, ...]
    script: str
    builds: bool = False

    @property
    def python(self) -> Path:
        return HOME / self.name / "bin" / "python"

    def is_installed(self) -> bool:
        return (HOME / self.name / "installed.json").exists()

    def install(self) -> None:
        """Create the environment unless it is there; torch comes first and alone, in the version that we use."""
        if self.is_installed():
            return
        version = torch.__version__
        public, _, build = version.partition("+")
        index = ["--extra-index-url", f"https://download.pytorch.org/whl/{build}"] if build else []
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME / self.name], check=True)
        pip = [self.python, "-m", "pip", "install", "--quiet"]
        if subprocess.run([*pip, f"torch=={version}"], stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*pip, *index, f"torch=={version if index else public}"], check=True)
        subprocess.run([*pip, *self.requirements], check=True)
        if self.builds:
            subprocess.run([self.python, HERE / self.script, "build"], check=True)
        (HOME / self.name / "installed.json").write_text(json.dumps({"requirements": self.requirements}) + "\n")


PEERS = {
    peer.name: peer
    for peer in (
        Peer("sb3", ("stable-baselines3==2.9.2",), "peer_sb3.py"),
        Peer("replay", ("cpprb==11.0.0", "torchrl==0.14.1", "numpy==2.4.6", "ninja==1.13.2"), "peer_replay.py", True),
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
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to one request. Raises RuntimeError if the peer died of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what} | arguments) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended while asked for {what}; its error stands above")
        return dict(json.loads(line))
