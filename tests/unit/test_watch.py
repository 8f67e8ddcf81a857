"""A rank that hangs is named and ended; one that waits, was suspended, or has finished is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from trainer.runtime import roll_call, watch
from trainer.runtime.failure import FailureWatch
from trainer.runtime.spans import Spans
from trainer.runtime.watch import Place, Progress, Watch, whereabouts


class Store:
    """A launcher's store, within this process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def wait(self, *_: Any) -> None:
        pass

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        return self.values.setdefault(key, value.encode())


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Causes for which this process would have been ended."""
    causes: list[str] = []
    monkeypatch.setattr(Watch, "_end", lambda self, cause, culprit=None: causes.append(cause))
    monkeypatch.setattr(watch, "_LOOK", 0.01)
    return causes


def make(spans: Spans, others: Sequence[Place] = (), longer: Any = None, store: Any = None) -> Watch:
    failure = FailureWatch(store or Store(), 0, bool(others))
    return Watch(failure, spans, lambda: 7, [whereabouts(), *others], 0.2, longer or {})


def test_a_rank_that_stands_still_is_named(ended: list[str]) -> None:
    spans = Spans()
    with make(spans), spans("env"):
        time.sleep(0.6)
    assert "rank 0 hangs: nothing happened for 0 s in env at step 7" in ended


def test_one_that_gets_on_is_not(ended: list[str]) -> None:
    spans = Spans()
    with make(spans):
        for _ in range(12):
            with spans("env"):
                time.sleep(0.05)
    assert not ended


def test_one_that_waits_for_others_is_not(ended: list[str]) -> None:
    spans = Spans()
    watching = make(spans)
    with watching:
        with spans("sync"):
            time.sleep(0.5)
        watching.failure.waiting = 1
        time.sleep(0.5)
    assert not ended


def test_a_save_may_take_longer(ended: list[str]) -> None:
    spans = Spans()
    with make(spans, longer={"save": 60.0}), spans("save"), spans("copy"):
        time.sleep(0.5)
    assert not ended


def test_a_process_that_was_suspended_has_not_hung() -> None:
    progress = Progress()
    progress.look("a", 0.5)
    assert progress.look("a", 3600.0) <= 1.0, "one long look is not many"
    assert progress.look("b", 0.5) == 0.0


@pytest.mark.parametrize(("last", "named"), [(3, True), ("done", False)])
def test_a_silent_neighbour_is_named_unless_it_has_finished(last: Any, named: bool, ended: list[str]) -> None:
    store = Store()
    store.set("beat/1", json.dumps([last, "env", 41]))
    spans = Spans()
    with make(spans, [Place("elsewhere", 1, 1)], store=store):
        for _ in range(20):
            with spans("act"):
                time.sleep(0.03)
    assert ("rank 1 hangs: silent for 0 s, last seen in env at step 41" in ended) == named
    assert len(set(ended)) == named
    assert json.loads(store.get("beat/0"))[0] == "done", "so that nobody waits for this one"


def test_a_stopped_sibling_is_named(ended: list[str]) -> None:
    """Whatever the store says: it may be the sibling's."""
    sibling = subprocess.Popen(["sleep", "60"])
    try:
        spans, here = Spans(), whereabouts()
        with make(spans, [here._replace(pid=sibling.pid)]):
            for passage in range(40):
                with spans("act"):
                    time.sleep(0.02)
                if passage == 15:
                    assert not ended
                    os.kill(sibling.pid, signal.SIGSTOP)
        assert set(ended) == {"rank 1 hangs: stopped for 0 s"}
    finally:
        sibling.kill()
        sibling.wait()


def test_who_looks_at_whom() -> None:
    """On two machines of two ranks each: the next of all, and the next on one's own."""
    places = [Place("a", 1, 10), Place("a", 1, 11), Place("b", 1, 12), Place("b", 1, 13)]
    watches = [Watch(FailureWatch(Store(), r, True), Spans(), lambda: 0, places, 1.0, {}) for r in range(4)]
    assert [w._sibling for w in watches] == [1, 0, 3, 2]
    assert [w._next for w in watches] == [1, 2, 3, 0]


def test_a_rank_that_hangs_is_ended_with_its_stack() -> None:
    script = """
        import time
        from trainer.runtime.failure import FailureWatch
        from trainer.runtime.spans import Spans
        from trainer.runtime.watch import Watch, whereabouts
        from torch.distributed import HashStore
        spans = Spans()
        def fall_asleep():
            time.sleep(60)
        with Watch(FailureWatch(HashStore(), 0, False), spans, lambda: 3, [whereabouts()], 1.0, {}), spans("env"):
            fall_asleep()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "in fall_asleep" in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("lockstep: ")]
    assert said == ["lockstep: rank 0 hangs: nothing happened for 1 s in env at step 3"]


def meet(*facts: dict[str, Any], sizes: tuple[int, ...] = ()) -> list[str]:
    """What each rank is told."""
    store, told = Store(), ["fine"] * len(facts)

    def rank(number: int) -> None:
        size = sizes[number] if sizes else len(facts)
        try:
            roll_call.roll_call(store, number, size, facts[number], 5.0)
        except (ValueError, TimeoutError) as error:
            told[number] = str(error)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(facts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_ranks_that_agree() -> None:
    assert meet(*[{"--optim.lr": 0.1, "levels": ("a",)}] * 3) == ["fine"] * 3


def test_ranks_that_differ_are_named_with_what_differs() -> None:
    told = meet({"--optim.lr": 0.1}, {"--optim.lr": 0.1}, {"--optim.lr": 0.2})
    assert len(set(told)) == 1
    assert told[0].startswith("rank 2 has --optim.lr 0.2, rank 0 has 0.1; ")
    assert "rank 1 has WORLD_SIZE 3, rank 0 has 2" in meet({}, {}, sizes=(2, 3))[1]
    assert "rank 1 has code b, rank 0 has a" in meet({"code": "a"}, {"code": "b"})[0]
    assert "rank 1 has --new.field 1, rank 0 has nothing" in meet({}, {"--new.field": 1})[0]


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    with pytest.raises(TimeoutError, match="rank 1 did not arrive"):
        roll_call.roll_call(store, 0, 2, {}, 0.2)


def test_the_code_has_a_version() -> None:
    assert roll_call.code_version() == roll_call.code_version()
    assert len(roll_call.code_version()["code"]) == 12
