"""How a failure is put into words, and that the thread which looks for one never outlives its run."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from trainer.runtime.failure import FailureWatch, condense, lost_peer, tell_launcher


class SlowStore:
    """A store whose launcher is busy; no key is ever set."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def check(self, _: list[str]) -> bool:
        self.asked.set()
        time.sleep(0.5)
        return False


def test_the_watch_ends_with_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon thread that returns from a store's C++ while the interpreter shuts down aborts the process."""
    monkeypatch.setattr("trainer.runtime.failure._POLL", 0.001)
    store = SlowStore()
    with FailureWatch(store, rank=0, has_peers=True):
        assert store.asked.wait(5)
    assert "failure-watch" not in [thread.name for thread in threading.enumerate()]


def test_alone_there_is_nothing_to_watch() -> None:
    with FailureWatch(SlowStore(), rank=0, has_peers=False):
        assert "failure-watch" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ValueError: no", "ValueError: no"),
        ("RuntimeError: a\nframe #1: b\nframe #2: c", "RuntimeError: a"),
        (
            "EnvError: in step\nTraceback (most recent call last):\n  File x\nKeyError: 3\n",
            "EnvError: in step: KeyError: 3",
        ),
        ("", ""),
    ],
)
def test_a_cause_is_one_line(text: str, line: str) -> None:
    assert condense(text) == line


def test_a_lost_peer_is_no_first_cause() -> None:
    assert lost_peer(RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"))
    assert lost_peer(dist.DistBackendError("NCCL error"))
    assert not lost_peer(RuntimeError("shapes do not match"))
    assert not lost_peer(ValueError("gloo"))


def test_the_launcher_never_reads_half_a_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun itself dies from an incomplete error file, and then nothing restarts the run."""
    path, seen = tmp_path / "error.json", []

    class Handler:
        def record_exception(self, error: BaseException) -> None:
            Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(str(error)))
            seen.append(path.exists())

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    monkeypatch.setattr("trainer.runtime.failure.get_error_handler", Handler)
    tell_launcher(ValueError("no"))
    assert seen == [False], "it appears when it is whole"
    assert json.loads(path.read_text()) == "no"
    assert [p.name for p in tmp_path.iterdir()] == ["error.json"]
    assert os.environ["TORCHELASTIC_ERROR_FILE"] == str(path)


def test_a_store_that_does_not_answer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process, which may be a rank's, has been stopped."""

    class Stopped:
        def compare_set(self, *_: str) -> bytes:
            time.sleep(30)
            return b""

    monkeypatch.setattr("trainer.runtime.failure._TELLING", 0.1)
    began = time.monotonic()
    assert FailureWatch(Stopped(), rank=3, has_peers=False).report("why") == "rank 3: why"
    assert time.monotonic() - began < 5
