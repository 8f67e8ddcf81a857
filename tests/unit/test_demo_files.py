"""Files of demonstrations: written and read back, refused where they are flawed, recorded from whole episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from demo_twin import demonstrations
from safetensors.torch import save_file
from torch import Tensor

from trainer.build.demos import read_demos, write_demos
from trainer.commands.demos import record_episodes
from trainer.config import ConfigError
from trainer.envs import EnvSpec, ShardedEnvs, make_backend
from trainer.types import Choice, Rates, State, Timestep

CPU = torch.device("cpu")
SPEC = EnvSpec("toy", (2,), torch.float32, 3, 1, "repeat", True)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    demos, path = demonstrations(), tmp_path / "x.safetensors"
    write_demos(path, demos, {"num_actions": "3"})
    found = read_demos(str(path), SPEC, "Env")
    assert all(torch.equal(a, b) for a, b in zip(found, demos, strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_demos(path, demonstrations(), {"num_actions": "3"})
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def changed(**fields: Any) -> dict[str, Tensor]:
    return {name: value for name, value in (demonstrations()._asdict() | fields).items() if value is not None}


def over(name: str, at: int, value: Any) -> dict[str, Tensor]:
    field = getattr(demonstrations(), name).clone()
    field[at] = value
    return changed(**{name: field})


D = demonstrations()
FLAWS: dict[str, tuple[dict[str, Tensor], str]] = {
    "no reward": (changed(reward=None), "it holds no 'reward'"),
    "other shape": (changed(obs=torch.zeros(26, 3)), "its observations are float32 (3,), those of Env float32 (2,)"),
    "other type": (changed(obs=D.obs.to(torch.uint8)), "its observations are uint8 (2,), those of Env float32 (2,)"),
    "actions as floats": (changed(action=D.action.float()), "'action' is torch.float32"),
    "an action too many": (over("action", 3, 3), "actions outside 0 to 2"),
    "a negative action": (over("action", 3, -1), "actions outside 0 to 2"),
    "lengths differ": (changed(reward=D.reward[:-1]), "differ in length"),
    "NaN": (over("reward", 2, float("nan")), "'reward' holds numbers that are not finite"),
    "infinite": (over("obs", 2, float("inf")), "'obs' holds numbers that are not finite"),
    "starts late": (over("starts", 0, 1), "'starts' is not a growing list"),
    "starts twice": (over("starts", 2, 1), "'starts' is not a growing list"),
    "starts behind the end": (over("starts", 4, 26), "'starts' is not a growing list"),
    "a final observation too few": (changed(final_obs=D.final_obs[1:]), "'final_obs' is not one observation for each"),
    "an end in the middle": (over("truncated", 3, True), "at their last step, and nowhere else"),
    "no end": (over("truncated", 7, False), "at their last step, and nowhere else"),
    "nothing": ({name: value[:0] for name, value in D._asdict().items()}, "it is empty"),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flawed_file_is_refused_in_one_line(flaw: str, tmp_path: Path) -> None:
    fields, words = FLAWS[flaw]
    path = tmp_path / "x.safetensors"
    save_file({name: value.contiguous() for name, value in fields.items()}, path, {"num_actions": "3"})
    with pytest.raises(ConfigError) as caught:
        read_demos(str(path), SPEC, "Env")
    said = str(caught.value)
    assert said.startswith(f"--demos.path {path}: ")
    assert words in said
    assert "\n" not in said


def test_other_actions_no_file_and_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_demos(path, demonstrations(), {"num_actions": "4"})
    with pytest.raises(ConfigError, match="made with 4 actions, Env has 3"):
        read_demos(str(path), SPEC, "Env")
    with pytest.raises(ConfigError, match="no such file; make it with lockstep demos"):
        read_demos(str(tmp_path / "nowhere"), SPEC, "Env")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="it cannot be read"):
        read_demos(str(path), SPEC, "Env")


@pytest.mark.parametrize(("recorded", "wanted"), [("repeat", "repeat"), ("zero", "zero"), ("zero", "repeat")])
def test_stacks_have_to_be_successive_frames(recorded: str, wanted: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_demos(path, demonstrations(3, recorded), {"num_actions": "3"})
    spec = EnvSpec("sync", (3, 2), torch.float32, 3, 3, wanted, True)
    if recorded == wanted:
        read_demos(str(path), spec, "Env")
    else:
        with pytest.raises(ConfigError, match="not stacks of 3 successive frames"):
            read_demos(str(path), spec, "Env")


# --- recording --------------------------------------------------------------------------------------------------------


class Right:
    """Always the last action."""

    def __init__(self, actions: int) -> None:
        self.actions = actions

    def act(self, timestep: Timestep, rates: Rates) -> Choice:
        return Choice(torch.full((len(timestep.reward),), self.actions - 1))

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_recorded_episodes_are_whole(autoreset: str) -> None:
    envs = ShardedEnvs({0: make_backend("toy", "toy/Chain", 3, [1, 2, 3], autoreset=autoreset)}, CPU, {0: 0})
    demos = record_episodes(envs, Right(2), [2, 2, 1], 0.0, 1000)
    assert demos.lengths.tolist() == [7] * 5
    assert demos.returns.tolist() == [1.0] * 5
    assert torch.equal(demos.obs, torch.eye(8)[:7].repeat(5, 1))
    assert torch.equal(demos.final_obs, torch.eye(8)[7:].repeat(5, 1))
    assert demos.terminated.view(5, 7).sum(1).tolist() == [1] * 5
    assert demos.terminated.view(5, 7)[:, -1].all()
    assert not demos.truncated.any()
    assert (demos.action == 1).all()


def test_an_endless_episode_is_cut() -> None:
    envs = ShardedEnvs({0: make_backend("toy", "toy/Chain", 2, [1, 2])}, CPU, {0: 0})
    demos = record_episodes(envs, Right(1), [3, 1], 0.0, 10)  # to the left forever
    assert demos.lengths.tolist() == [10, 10]
    assert demos.truncated.nonzero().flatten().tolist() == [9, 19]
    assert not demos.terminated.any()
    assert torch.equal(demos.final_obs, torch.eye(8)[[0, 0]])
