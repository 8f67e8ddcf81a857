"""The recurrent network, how it acts and the loss of R2D2 against twins in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import recurrent_twin as twin
import torch
from host_reads import NoHostReads
from recurrent_twin import OBS, A, H, network
from torch import Tensor, nn

from trainer.learner import Learner
from trainer.losses import sequence
from trainer.policy import RecurrentGreedy
from trainer.types import Given, QOut, Rates, Sequences, Timestep

B, BURN, LENGTH, N = 14, 3, 4, 2
L = BURN + LENGTH + N
CPU = torch.device("cpu")


def problem(seed: int, burn_in: int = BURN) -> Sequences:
    """Random sequences of every kind: warm and cold, whole, cut short, and some in which nothing learns."""
    g = torch.Generator().manual_seed(seed)
    columns = burn_in + LENGTH + N
    upto = torch.randint(0, LENGTH + 1, (B, 1), generator=g)
    upto[:3] = torch.tensor([[0], [1], [LENGTH]])
    column = torch.arange(columns) - burn_in
    learns = (column >= 0) & (column < upto)
    ahead = torch.randint(1, N + 1, (B, columns), generator=g) * learns
    discount = 0.99 ** ahead.double() * learns
    discount[torch.rand(B, columns, generator=g) < 0.3] = 0.0  # terminated
    return Sequences(
        obs=torch.randn(B, columns, OBS, generator=g),
        last_action=torch.randint(0, A, (B, columns), generator=g),
        last_reward=3 * torch.randn(B, columns, generator=g, dtype=torch.float64),
        action=torch.randint(0, A, (B, columns), generator=g),
        ret=4 * torch.randn(B, columns, generator=g, dtype=torch.float64) * learns,
        discount=discount,
        ahead=ahead,
        learns=learns,
        state=torch.randn(B, 2, H, generator=g, dtype=torch.float64),
        warm=torch.rand(B, generator=g) < 0.5,
        index=torch.arange(B),
    )


OPTIONS = [
    {"burn_in": burn_in, "double": double, "kind": kind, "rescaled": rescaled, "eta": eta}
    for burn_in, double, kind, rescaled, eta in (
        (BURN, True, "mse", True, 0.9),
        (BURN, False, "huber", True, 0.0),
        (BURN, True, "huber", False, 1.0),
        (0, True, "mse", True, 0.9),
        (0, False, "mse", False, 0.3),
    )
]


# --- the network ------------------------------------------------------------------------------------------------------


def test_sequence_and_single_steps_equal_the_twin() -> None:
    net, batch = network(0), problem(0)
    out: QOut = net(batch.obs, Given(None, 0, None, batch.state, batch.last_action, batch.last_reward))
    assert out.q.shape == (B, L, A)
    state = batch.state
    for t in range(L):
        one = net(batch.obs[:, t], Given(None, 0, None, state, batch.last_action[:, t], batch.last_reward[:, t]))
        assert one.q.shape == (B, A)
        assert one.state.shape == (B, 2, H)
        torch.testing.assert_close(one.q, out.q[:, t], rtol=0, atol=1e-13)
        for b in range(B):
            obs, action = batch.obs[b, t].double().numpy(), int(batch.last_action[b, t])
            q, after = twin.step(net, obs, action, float(batch.last_reward[b, t]), state[b].numpy(force=True))
            np.testing.assert_allclose(one.q[b].numpy(force=True), q, atol=1e-12)
            np.testing.assert_allclose(one.state[b].numpy(force=True), after, atol=1e-12)
        state = one.state
    torch.testing.assert_close(out.state, state, rtol=0, atol=1e-13)


def test_without_history_an_observation_opens_an_episode() -> None:
    net, obs = network(1), torch.randn(5, OBS)
    zeros = Given(None, 0, None, torch.zeros(5, 2, H), torch.zeros(5, dtype=torch.int64), torch.zeros(5))
    torch.testing.assert_close(net(obs).q, net(obs, zeros).q)


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_the_paper(options: dict[str, Any], seed: int) -> None:
    net, target_net, batch = network(seed), network(seed + 50), problem(seed, options["burn_in"])
    out = sequence(net, target_net, batch, Rates(), **options)
    expected = twin.loss(net, target_net, batch, **options)
    assert out.terms is not None
    assert 0 in expected["terms"]
    assert out.terms.tolist() == expected["terms"]
    for name, got in (("loss", out.loss), ("priority", out.priority), ("q_values", out.metrics["q_values"])):
        assert got.shape == (B,)
        np.testing.assert_allclose(got.numpy(force=True), expected[name], rtol=0, atol=1e-10, err_msg=name)
    assert not out.priority.requires_grad


def test_gradient_stays_behind_the_burn_in_and_in_front_of_the_last_step_that_learns() -> None:
    """Burn-in and bootstraps are unrolled, but not learned through."""
    net, target_net, batch = network(2), network(3), problem(2)
    obs = batch.obs.clone().requires_grad_()
    out = sequence(net, target_net, batch._replace(obs=obs), Rates(), **OPTIONS[0])
    out.loss.sum().backward()
    assert obs.grad is not None
    felt = obs.grad.abs().sum(2) > 0
    last = batch.learns.sum(1)
    assert torch.equal(felt, (torch.arange(L) >= BURN) & (torch.arange(L) < BURN + last[:, None]))
    assert all(parameter.grad is None for parameter in target_net.parameters())


@pytest.mark.parametrize("field", ["obs", "last_action", "last_reward"])
def test_the_burn_in_counts_where_there_is_one(field: str) -> None:
    net, target_net, batch = network(4), network(5), problem(4)
    changed = getattr(batch, field).clone()
    changed[:, :BURN] = (changed[:, :BURN] + 1) % A
    a, b = (sequence(net, target_net, x, Rates(), **OPTIONS[0]) for x in (batch, batch._replace(**{field: changed})))
    learns = batch.learns.any(1)
    assert torch.equal((a.loss != b.loss) | ~learns, batch.warm | ~learns)


def test_sequences_without_a_step_that_learns_do_nothing() -> None:
    net, batch = network(6), problem(6)
    out = sequence(net, network(7), batch._replace(learns=torch.zeros_like(batch.learns)), Rates(), **OPTIONS[0])
    out.loss.sum().backward()
    assert out.loss.abs().sum() == out.priority.abs().sum() == 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in net.parameters())


def test_loss_and_acting_wait_for_nothing() -> None:
    net, target_net, batch = network(6), network(7), problem(6)
    policy = RecurrentGreedy(net, 4, H, [0], CPU, torch.float64, clip_reward=True)
    now = timestep(4)
    with NoHostReads():
        sequence(net, target_net, batch, Rates(), **OPTIONS[0]).loss.sum().backward()
        policy.took(policy.choose(now).action)


class Ranks:
    """A `Sync` of one rank that is given what the others gathered, and keeps nothing but the gradient."""

    def __init__(self, net: nn.Module, others: list[Tensor]) -> None:
        self.net, self.others = net, others

    def zero_grad(self) -> None:
        self.net.zero_grad()

    def set_lr(self, lr: float) -> None:
        pass

    def gather(self, values: Tensor) -> Tensor:
        self.told = values
        return torch.stack([values, *self.others])

    def step(self, max_norm: float) -> Tensor:
        return torch.zeros(())


def test_denominator_counts_the_steps_that_learn_on_all_ranks() -> None:
    """The mean of two ranks' gradients is that of one rank with both batches, though one has few steps that learn."""
    batch = problem(8)._replace(probability=torch.rand(B, dtype=torch.float64) + 0.1)
    few = (torch.arange(B) < 7)[:, None] | (torch.arange(L) == BURN)  # of the second half, one step per sequence
    batch = batch._replace(learns=batch.learns & few)

    def gradient(part: Sequences, others: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        net = network(8)

        def loss(*arguments: Any) -> Any:
            return sequence(*arguments, **OPTIONS[0])

        sync = Ranks(net, others)
        learner = Learner(net, network(9), loss, sync, max_grad_norm=1.0)  # type: ignore[arg-type]
        learner.update(part, Rates(beta=0.6))
        return [p.grad.clone() for p in net.parameters() if p.grad is not None], sync.told

    whole, _ = gradient(batch, [])
    halves = [batch.map(lambda field, at=at: field[at]) for at in (slice(0, 7), slice(7, B))]  # type: ignore[misc]
    told = [gradient(half, [])[1] for half in halves]
    assert told[0][2] != told[1][2], "as many steps on both would prove nothing"
    parts = [gradient(half, [told[1 - i]])[0] for i, half in enumerate(halves)]
    for one, a, b in zip(whole, *parts, strict=True):
        torch.testing.assert_close((a + b) / 2, one, rtol=1e-12, atol=1e-14)


# --- acting -----------------------------------------------------------------------------------------------------------


def timestep(n: int, *, ended: Tensor | None = None, reset: Tensor | None = None, lives: bool = False) -> Timestep:
    no = torch.zeros(n, dtype=torch.bool)
    ended, obs = no if ended is None else ended, torch.randn(n, OBS)
    return Timestep(obs, 2 * torch.randn(n), ended, no, ~no if lives else no, no if reset is None else reset, obs)


def test_memory_travels_with_its_environment_and_ends_with_the_episode() -> None:
    torch.manual_seed(0)
    net, n = network(1), 4
    policy = RecurrentGreedy(net, n, H, [0], CPU, torch.float64, clip_reward=True)
    state, action = [np.zeros((2, H)) for _ in range(n)], [0] * n
    opens = [torch.tensor(rows) for rows in ([True] * 4, [False] * 4, [False, True, False, False], [False] * 4)]
    for i, open_now in enumerate([*opens, opens[2], opens[3]]):
        now = timestep(n, reset=open_now) if i % 2 == 0 else timestep(n, ended=open_now, lives=True)
        choice = policy.choose(now)
        for lane in range(n):
            if open_now[lane]:
                state[lane], action[lane] = np.zeros((2, H)), 0
            assert choice.state is not None
            np.testing.assert_allclose(choice.state[lane].numpy(force=True), state[lane], atol=1e-12)
            reward = 0.0 if open_now[lane] else float(now.reward[lane].clamp(-1, 1))
            q, state[lane] = twin.step(net, now.obs[lane].double().numpy(), action[lane], reward, state[lane])
            assert int(choice.action[lane]) == int(np.argmax(q))
        taken = (choice.action + i) % A
        policy.took(taken)
        action = taken.tolist()


def test_state_of_shards_moves_to_other_ranks() -> None:
    torch.manual_seed(0)
    steps = [timestep(6, reset=torch.ones(6, dtype=torch.bool)), *(timestep(6) for _ in range(4))]

    def make(shards: list[int]) -> RecurrentGreedy:
        return RecurrentGreedy(network(1), 2 * len(shards), H, shards, CPU, torch.float64, clip_reward=False)

    def play(policy: RecurrentGreedy, at: slice, part: list[Timestep]) -> Tensor:
        for now in part:
            choice = policy.choose(Timestep(*(field[at] for field in now)))
            policy.took(choice.action)
        return policy.state

    whole, first = make([0, 1, 2]), make([0, 1, 2])
    expected = play(whole, slice(0, 6), steps)
    play(first, slice(0, 6), steps[:3])
    second = make([1, 2])
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(play(second, slice(2, 6), steps[3:]), expected[2:], rtol=0, atol=1e-13)
