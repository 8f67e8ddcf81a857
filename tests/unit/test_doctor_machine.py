"""What `lockstep doctor` says of the machine, line by line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainer.commands import machine as parts
from trainer.commands.doctor import show
from trainer.commands.machine import Check
from trainer.runtime import machine


def test_a_machine_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    good, warned = Check("a", "ok", "fine"), Check("b", "warning", "odd", "mend [it]")
    assert show([good, warned]) == 0
    said = capsys.readouterr().out
    assert "training can work here: 2 checks, 1 with a warning" in said
    assert "-> mend [it]" in said
    assert show([good, Check("c", "bad", "broken")]) == 1
    assert "cannot work here: 1 of 2" in capsys.readouterr().out


def test_a_check_that_breaks_hides_no_other() -> None:
    def breaks() -> list[Check]:
        raise ImportError("libx.so")

    (line,) = parts._guarded("ale", breaks)
    assert (line.state, line.told) == ("bad", "could not be checked: ImportError: libx.so")
    assert parts._guarded("ale", breaks, optional=True)[0].state == "warning"


def test_quick_checks_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_FILE", 2 << 20)
    for check in (parts._packages, parts._cores, parts._memory, parts._shm, parts._open_files, parts._compiler):
        assert all(line.state != "bad" and line.told for line in check())
    (disk,) = parts._disk(tmp_path / "not" / "yet")
    assert disk.state != "bad"
    assert str(tmp_path) in disk.told
    assert not list(tmp_path.iterdir()), "nothing is left"
    (tmp_path / "file").write_text("")
    assert parts._disk(tmp_path / "file")[0].state == "bad"


def test_two_ranks_meet_by_each_way() -> None:
    for line in parts._ranks():
        assert line.state == "ok", line.told
        assert "us for a small all-reduce" in line.told or line.name == "nccl"


def test_ranks_that_cannot_meet_are_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_MEETING", 0.1)
    assert {(line.state, line.told) for line in parts._ranks()} >= {("bad", "no answer within 0 s")}


def test_environments_are_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_STEPPING", 0.05)
    for env_id, backend, count, needs in parts.ENVS:
        if needs != "ale_py":  # that one takes seconds to start
            (line,) = parts._env(env_id, backend, count)
            assert (line.state, " env steps/s" in line.told) == ("ok", True)


def test_what_is_missing_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = parts.find_spec
    monkeypatch.setattr(parts, "find_spec", lambda name: None if name in ("ale_py", "wandb") else find(name))
    (line,) = parts._extras()
    assert "pip install 'lockstep[atari,wandb" in line.remedy
    monkeypatch.setattr(machine, "cpp_compiler", lambda: None)
    assert parts._compiler()[0].state == "warning"


def test_without_torch_the_rest_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        if name == "torch":
            raise parts.PackageNotFoundError(name)
        return "1.0"

    find = parts.find_spec
    monkeypatch.setattr(parts, "version", missing)
    monkeypatch.setattr(parts, "find_spec", lambda name: None if name == "torch" else find(name))
    monkeypatch.setattr(parts, "_FILE", 2 << 20)
    lines = list(parts.checks(tmp_path))
    assert (lines[0].state, lines[0].remedy) == ("bad", "pip install torch")
    assert [line.name for line in lines[-3:]] == ["disk", "compiler", "extras"]


def test_memory_is_that_of_the_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "job" / "step"
    inner.mkdir(parents=True)
    (tmp_path / "job" / "memory.max").write_text("4000000\n")
    (tmp_path / "job" / "memory.current").write_text("3500000\n")
    (tmp_path / "job" / "memory.stat").write_text("anon 3\ninactive_file 200000\n")
    (tmp_path / "job" / "memory.events").write_text("low 0\noom_kill 3\n")
    (inner / "memory.events").write_text("oom_kill 1\n")
    (inner / "memory.max").write_text("max\n")
    (inner / "cpu.max").write_text("150000 100000\n")
    text = machine._text
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    monkeypatch.setattr(machine, "_text", lambda p: "0::/job/step\n" if str(p) == "/proc/self/cgroup" else text(p))
    assert machine.memory() == (700_000, 4_000_000, True)
    assert machine.usable_cores() == min(1.5, len(os.sched_getaffinity(0)))
    assert machine.oom_kills() == 3, "the outer group counts those of the inner one as well"
