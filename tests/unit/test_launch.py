"""The command line that `lockstep launch local` makes, and how it answers mistakes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launch import local
from launch.__main__ import main
from launch.local import count_gpus, render

DEADLINE = 60  # s
SIGNALS = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"


def test_the_rendered_command() -> None:
    made = render(["cartpole", "--seed", "3"], ranks=4, max_restarts=2, python="/opt/python")
    assert made.command == [
        "/opt/python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "--max-restarts", "2",
        SIGNALS, "-m", "trainer", "train", "cartpole", "--seed", "3",
    ]  # fmt: skip
    assert made.environment == {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}


def test_an_old_torchrun_is_not_given_what_it_does_not_know() -> None:
    assert SIGNALS in render(["debug"], ranks=1).command
    assert SIGNALS not in render(["debug"], ranks=1, signals=False).command


@pytest.mark.parametrize("word", ["train", "evaluate"])
def test_a_command_is_passed_on(word: str) -> None:
    assert render([word, "x"], ranks=1).command[-3:] == ["trainer", word, "x"]


def test_the_text_survives_a_shell() -> None:
    made = render(["debug", "--env.kwargs", '{"a": "b c"}'], ranks=2)
    words = shlex.split(made.text())
    assert words[: len(made.environment)] == [f"{k}={v}" for k, v in made.environment.items()]
    assert words[len(made.environment) :] == made.command


def test_dry_run_prints_and_does_not_start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.os, "execve", lambda *_: pytest.fail("started"))
    assert main(["local", "--ranks", "3", "--dry-run", "--", "debug", "--dry-run"]) == 0
    expected = render(["debug", "--dry-run"], ranks=3, python=sys.executable, signals=local._handles_signals())
    assert capsys.readouterr().out == expected.text() + "\n"


def test_it_becomes_torchrun_and_what_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(local.os, "execve", lambda *call: seen.append(call))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    main(["local", "--", "debug"])
    ((program, command, environment),) = seen
    assert program == sys.executable == command[0]
    assert command[command.index("--nproc-per-node") + 1] == "2"  # no GPU
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert "PATH" in environment


def test_this_torchrun_takes_the_options() -> None:
    run = pytest.importorskip("torch.distributed.run")
    options = run.parse_args(render(["debug"], ranks=2, signals=local._handles_signals()).command[3:])
    assert (options.nproc_per_node, options.max_restarts, options.module) == ("2", 0, True)
    assert options.training_script_args == ["train", "debug"]


@pytest.mark.parametrize(
    ("visible", "count"), [("0,1,2", 3), ("", 0), ("-1", 0), ("3", 1), ("0,-1,2", 1), ("MIG-a,MIG-b", 2)]
)
def test_visible_devices_are_counted(visible: str, count: int) -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": visible}) == count


def test_the_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU 0: H (UUID: a)'\necho '  MIG 1g (UUID: b)'\necho 'GPU 1: H (UUID: c)'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert count_gpus({}) == 2
    fake.write_text("#!/bin/sh\nexit 9\n")
    gpus = tmp_path / "gpus"
    monkeypatch.setattr(local, "_PROC_GPUS", gpus)
    assert count_gpus({}) == 0
    (gpus / "0000:01:00.0").mkdir(parents=True)
    assert count_gpus({}) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["locla"], "launch locla: unknown; did you mean local?"),
        (["local"], "nothing to run; put it after `--`"),
        (["local", "--"], "nothing to run"),
        (["local", "cartpole"], "launch local cartpole: no such option; the command to run goes after `--`"),
        (["local", "--rnks", "2", "--", "debug"], "--rnks: no such option; did you mean --ranks?"),
        (["local", "--ranks", "0", "--", "debug"], "--ranks 0: not a number of at least 1"),
        (["local", "--ranks", "two", "--", "debug"], "--ranks two: not a number"),
        (["local", "--max-restarts", "-1", "--", "debug"], "--max-restarts -1: not a number of at least 0"),
        (["local", "--ranks", "--", "debug"], "--ranks"),
        (["local", "--ranks", "2", "--", "debug", "--env.num_envs", "7"], "--env.num_envs 7: does not divide over 2"),
        (["local", "--ranks", "2", "--", "train", "debug", "--env.num_env", "8"], "--env.num_env"),
        (["local", "--", "--resume", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.os, "execve", lambda *_: pytest.fail("started"))
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lockstep: ")
    assert err.count("\n") == 1
    assert said in err


def test_launch_needs_the_standard_library_only() -> None:
    program = (
        "import sys; from launch.__main__ import main; main(['local', '--dry-run', '--', 'debug']);"
        "print({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    foreign = done.stdout.splitlines()[-1]
    assert eval(foreign) <= {"launch", "__main__"}, foreign
