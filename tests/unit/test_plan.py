"""`lockstep plan`: what it prints, what it refuses, and that it needs no torch for an unchanged preset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch.model.advice import Report, amount, duration, report
from launch.model.cluster import H100_IB, WORKSTATION
from launch.model.strategies import Strategy
from launch.model.work import Counts, Load
from launch.plan import COUNTED, counted, find_cluster
from trainer.__main__ import main
from trainer.build import build_net, inspect_env
from trainer.commands.plan import ask, count, key
from trainer.presets import PRESETS

ROOT = Path(__file__).parents[2]
STORED = ("debug", "cartpole", "minatar", "atari", "rainbow", "iqn", "pqn-minatar")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `lockstep plan ARGUMENTS` prints, on one line."""
    assert main(["plan", *arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def stored(preset: str) -> tuple[Load, Counts]:
    facts = ask([preset])
    return Load(**facts["load"]), Counts.read(counted()[facts["key"]])


def test_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--gpus", "64", "--profile", "h100-ib", "atari")
    assert text.startswith("atari (ALE/Breakout-v5) on 64 GPUs, h100-ib, weak scaling")
    assert "cannot be divided among 64 ranks, so this is --scale.world weak: 512 environments" in text
    assert "Choose --sync.kind" in text
    assert "50M env steps" in text
    assert "nothing was measured on this cluster" in text
    assert "Price: 3 USD per GPU hour" in text


def test_the_price_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Price: 12.5 USD" in said(capsys, "atari", "--price", "12.5", "--gpus", "2")


def test_own_options_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "cartpole", "--env.num_envs", "16", "--gpus", "4", "--sync.kind", "ddp")
    assert "on 4 GPUs, h100-ib, strong scaling" in text
    assert "> flat" in text
    assert "times as fast as ddp, as stated" in text


def test_what_needs_several_ranks_is_planned_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    stated = ("cartpole", "--sync.kind", "server", "--sync.servers", "2")
    assert "> flat" in said(capsys, *stated, "--gpus", "4")
    assert main(["plan", *stated, "--gpus", "1"]) == 2
    assert "--sync.servers 2: each is one of the 1 rank(s)" in capsys.readouterr().err


def test_sources_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nccl-tests#212" in said(capsys, "atari", "--gpus", "1", "--sources")


def test_this_machine_has_cores(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "cartpole", "--profile", "this-machine", "--gpus", "4")
    assert "Take fewer ranks" in text  # four ranks on few cores gain little


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--gpus", "0", "atari"], "--gpus 0: not a number of at least 1"),
        (["--gpus", "many", "atari"], "--gpus many"),
        (["--gpus", "5000", "atari"], "--gpus 5000: the model is made for up to 4096"),
        (["--profile", "h100", "atari"], "--profile h100: unknown; did you mean h100-ib?"),
        (["--price", "free", "atari"], "--price free: not a price"),
        (["--price", "-1", "atari"], "--price -1: not a price"),
        (["--price", "nan", "atari"], "--price nan: not a price"),
        (["atarri"], "preset atarri: unknown; did you mean atari"),
        (["atari", "--sync.knd", "ddp"], "--sync.knd: no such field"),
        (["--gpus", "4"], "no preset given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str) -> None:
    assert main(["plan", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lockstep: {complaint}")


@pytest.mark.parametrize("arguments", [["--gpus", "64", "atari"], ["atarri"], ["--gpus", "x", "atari"]], ids=" ".join)
def test_torch_is_not_imported(arguments: list[str]) -> None:
    asked = ["plan", *arguments]
    code = f"import sys; from trainer.__main__ import main; main({asked}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=True)


@pytest.mark.parametrize("preset", STORED)
def test_stored_counts_are_of_the_network_that_is_built(preset: str) -> None:
    import torch

    config = PRESETS[preset]()
    shapes = tuple(tuple(p.shape) for p in build_net(config, inspect_env(config), torch.device("cpu")).parameters())
    assert Counts.read(counted()[key(config)]).shapes == shapes


def test_a_network_that_is_not_stored_is_counted() -> None:
    """Catch with a network of one layer of 7 units: 50 inputs, 3 actions."""
    arguments = ["debug", "--net.hidden", "7", "--seed", "3"]
    assert ask(arguments)["key"] not in counted()
    found = Counts.read(count(arguments))
    assert found.parameters == 50 * 7 + 7 + 7 * 3 + 3
    forward = 2 * (50 * 7 + 7 * 3)
    assert found.step_flops == forward
    assert 3 * forward <= found.update_flops <= 4 * forward  # target and online forward, backward without the input's
    assert 20 < found.update_operations < 200
    assert found.env > 0
    assert found.gathers == 0
    assert Counts.read(count([*arguments, "--replay.kind", "prioritized"])).gathers == 1


def test_the_key_is_of_what_makes_the_network() -> None:
    plain = ask(["atari"])["key"]
    assert ask(["atari", "--optim.lr", "1", "--env.num_envs", "64", "--seed", "5"])["key"] == plain
    assert ask(["atari", "--net.dueling", "True"])["key"] != plain
    assert ask(["atari", "--env.id", "ALE/Pong-v5"])["key"] != plain


def test_the_pace_of_updates() -> None:
    assert ask(["atari"])["load"]["updates_per_env_step"] == 1 / 4
    pqn = PRESETS["pqn-minatar"]().replay
    assert ask(["pqn-minatar"])["load"]["updates_per_env_step"] == pqn.epochs / pqn.batch_size


def test_strong_scaling_that_does_not_pay_is_said() -> None:
    load, counts = stored("cartpole")
    found = report("cartpole", load, counts, WORKSTATION, 4, Strategy())
    assert "That does not pay" in found.text
    assert "strong scaling" in found.title


def test_a_slow_link_changes_the_advice() -> None:
    """64 workstations on Ethernet: exchanging 6.7 MB at every update is most of the time."""
    from dataclasses import replace

    load, counts = stored("atari")
    fast = report("atari", load, counts, replace(H100_IB, call=0.0, spread=0.0), 64, Strategy())
    slow = report("atari", load, counts, replace(WORKSTATION, per_node=1), 64, Strategy())
    assert "--sync.kind local_sgd" not in fast.text
    assert chosen(slow).startswith("local_sgd")
    assert chosen(fast) in ("flat", "overlap")


def chosen(found: Report) -> str:
    (row,) = [row for row in found.tables[1].rows if row[0].startswith("> ")]
    return row[0].removeprefix("> ")


def test_one_gpu_has_nothing_to_exchange() -> None:
    load, counts = stored("atari")
    found = report("atari", load, counts, H100_IB, 1, Strategy("gossip"))
    assert "On one rank, every strategy is the plain optimizer." in found.text
    assert [row[0] for row in found.tables[0].rows] == ["1"]


def test_prices_and_profiles() -> None:
    assert find_cluster("h100-ib", "2").price == 2.0
    assert COUNTED.is_file()


def test_numbers_in_words() -> None:
    assert [amount(v) for v in (0.01234, 12.34, 1234.0, 12345.0, 1.5e6, 2e9)] == [
        "0.0123",
        "12.3",
        "1,234",
        "12.3k",
        "1.5M",
        "2B",
    ]
    assert [duration(h) for h in (0.05, 1.5, 72.0)] == ["3 min", "1.5 h", "3 days"]
