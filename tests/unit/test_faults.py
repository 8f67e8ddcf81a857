"""Faults on purpose: refused outside tests, at the requested place, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer.runtime.faults import FaultInjected, Faults, PointedSpans, flip_bit
from trainer.runtime.spans import Spans


def asked(monkeypatch: pytest.MonkeyPatch, text: str, rank: int = 0, testing: str = "1") -> Faults:
    monkeypatch.setenv("LOCKSTEP_FAULT", text)
    monkeypatch.setenv("LOCKSTEP_TESTING", testing)
    return Faults.read(rank)


def test_refused_outside_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="LOCKSTEP_TESTING=1"):
        asked(monkeypatch, "act:0:0:kill", testing="")


@pytest.mark.parametrize(
    "text", ["act", "act:0:1", "act:x:1:kill", "act:0:1:kill:x", "walk:0:1:kill", "act:0:1:hug", "act:0:1:nan"]
)
def test_what_is_no_fault_is_told_in_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="LOCKSTEP_FAULT") as error:
        asked(monkeypatch, text)
    assert "\n" not in str(error.value)


def test_none_are_false(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCKSTEP_FAULT", raising=False)
    assert not Faults.read(0)
    assert not asked(monkeypatch, "act:1:0:kill", rank=0), "another rank's"


def test_a_span_is_a_point_behind_so_many_steps_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = asked(monkeypatch, "env:0:3:raise")
    steps: list[int] = []
    faults.position = lambda: len(steps)
    spans: Spans = PointedSpans(faults)
    for step in range(3):
        with spans("env"):
            pass
        steps.append(step)
    with spans("act"):
        pass
    with pytest.raises(FaultInjected), spans("env"):
        pass
    with spans("env"):
        pass


def test_a_later_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = asked(monkeypatch, "write:0:2:raise:3")
    step = 0
    faults.position = lambda: step
    faults.passes("write")  # too early, so it does not count
    step = 2
    faults.passes("write")
    faults.passes("write")
    with pytest.raises(FaultInjected, match="write:0:2:raise:3"):
        faults.passes("write")
    faults.passes("write")


def test_what_has_happened_does_not_happen_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCKSTEP_FAULT_LOG", str(tmp_path / "log"))
    faults = asked(monkeypatch, "env:0:0:mark,act:0:0:mark")
    faults.passes("env")
    assert [json.loads(line)["fault"] for line in (tmp_path / "log").read_text().splitlines()] == ["env:0:0:mark"]
    assert [fault.name for fault in asked(monkeypatch, "env:0:0:mark,act:0:0:mark").waiting] == ["act"]


def test_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = asked(monkeypatch, "loss:0:0:nan")
    values = torch.ones(3)
    assert faults.poison("loss", values).isnan().tolist() == [True, False, False]
    assert faults.poison("loss", values) is values, "once"
    faults = asked(monkeypatch, "loss:0:0:nan+")
    assert faults.poison("loss", values).isnan().any()
    assert faults.poison("loss", values).isnan().any()


@pytest.mark.parametrize("number", [0, 3, 31, 100])
def test_flip_changes_one_bit(number: int) -> None:
    weights = torch.randn(50)
    before = weights.view(torch.int32).clone()
    place, bit = flip_bit(weights, number)
    changed = before ^ weights.view(torch.int32)
    assert changed.nonzero().flatten().tolist() == [place]
    assert (int(changed[place]) & 0xFFFFFFFF) == 1 << bit
