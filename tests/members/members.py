"""Every member of the family, as its changes to the preset `debug`; whatever holds for one is tested for all.

A member listed here has to solve the toys, resume bit for bit and not depend on the number of ranks.
{run} and {demos} stand for a trained run of the toy that is played, and for demonstrations of it (teachers.py).
"""

from __future__ import annotations

C51 = ("--net.head", "c51", "--net.v_min", "-1.1", "--net.v_max", "1.1")
IQN = (
    *("--net.head", "iqn", "--net.cosines", "16", "--net.acting_fractions", "8"),
    *("--loss.fractions", "8", "--loss.target_fractions", "8"),
)
HALF = ("--replay.update_every", "16")  # half of the updates that `debug` makes, where they take long

IMAGES = ("--env.kwargs", '{"image": true}', "--net.torso", "minatar", "--net.hidden", "64")
NO_EPSILON = ("--policy.epsilon_start", "0", "--policy.epsilon_end", "0")

MEMBERS: dict[str, tuple[str, ...]] = {
    "dqn": (),
    "double, dueling, 3 steps": ("--loss.double", "True", "--net.dueling", "True", "--replay.n_step", "3"),
    "prioritized": ("--replay.kind", "prioritized"),
    "prioritized, 3 steps, double, dueling": (
        "--replay.kind",
        "prioritized",
        "--replay.n_step",
        "3",
        "--loss.double",
        "True",
        "--net.dueling",
        "True",
    ),
    "noisy": ("--net.noisy", "True", "--policy.epsilon_start", "0", "--policy.epsilon_end", "0"),
    "noisy, dueling, layers of the streams' own": (
        *("--net.noisy", "True", "--net.dueling", "True", "--net.hidden", "64", "--net.head_hidden", "64", *NO_EPSILON),
        *("--total_env_steps", "6000"),
    ),
    "layer normalisation": ("--net.norm", "layer", "--total_env_steps", "10000"),
    "ladder": ("--policy.exploration", "ladder", "--total_env_steps", "10000"),
    "ez-greedy": ("--policy.repeat", "zeta", "--total_env_steps", "10000"),
    "ensemble, double": ("--net.ensemble", "5", "--loss.double", "True", *NO_EPSILON, "--total_env_steps", "6000"),
    "ensemble, masked, dueling, layers of the heads' own": (
        *("--net.ensemble", "4", "--loss.bootstrap_mask", "0.5", "--net.hidden", "64", "--net.head_hidden", "32"),
        *("--net.dueling", "True", "--total_env_steps", "10000"),
    ),
    "c51, double": (*C51, "--loss.double", "True"),
    "qr-dqn, dueling": ("--net.head", "qr", "--net.quantiles", "20", "--net.dueling", "True"),
    "iqn, double, dueling": (*IQN, *HALF, "--loss.double", "True", "--net.dueling", "True"),
    "iqn, averse to risk": (*IQN, "--policy.risk", "0.75", "--replay.n_step", "3"),
    "munchausen dqn": ("--loss.munchausen", "True"),
    "munchausen iqn, noisy": (*IQN, *HALF, "--loss.munchausen", "True", "--net.noisy", "True"),
    "sarsa": ("--loss.target", "sarsa"),
    "expected sarsa, c51": (*C51, "--loss.target", "expected"),
    "rainbow": (
        *(*C51, "--replay.kind", "prioritized", "--replay.n_step", "3", "--replay.alpha", "0.5"),
        *HALF,
        *("--loss.double", "True", "--net.dueling", "True", "--net.hidden", "64", "--net.head_hidden", "64"),
        *("--net.noisy", "True", "--net.noisy_shared", "True", *NO_EPSILON),
    ),
    "compiled: prioritized, noisy, double, dueling, 3 steps": (
        *("--runtime.compile", "True", "--replay.kind", "prioritized", "--replay.n_step", "3", *HALF),
        *("--loss.double", "True", "--net.dueling", "True", "--net.noisy", "True", *NO_EPSILON),
        *("--total_env_steps", "10000"),
    ),
    "distilled": (
        *("--teacher.runs", "{run}", "--teacher.act", "0.3", "--teacher.decay", "10000"),
        *("--total_env_steps", "4000"),
    ),
    "demonstrations": (
        *("--demos.path", "{demos}", "--demos.pretrain", "200"),
        *("--replay.kind", "prioritized", "--replay.n_step", "3", "--total_env_steps", "4000"),
    ),
    "multi-task": (
        *("--env.tasks", "toy/Catch", "toy/Chain", "--shards", "2"),
        *("--replay.gamma", "0.95", "--replay.n_step", "3", "--optim.lr", "2e-3", "--optim.lr_end", "0"),
        *("--policy.epsilon_decay", "6000", "--total_env_steps", "12000"),
    ),
    "drq": (*IMAGES, "--pixels.shift", "1", "--optim.lr", "2e-3", "--total_env_steps", "16000"),
    "spr, shifted": (
        *(*IMAGES, "--pixels.shift", "1", "--pixels.spr", "2", "--pixels.spr_steps", "2", "--replay.batch_size", "32"),
        *("--optim.lr", "2e-3", "--total_env_steps", "11000"),
    ),
    "bfloat16, double, dueling, layers of the streams' own": (
        *(*IMAGES, "--runtime.dtype", "bfloat16", "--net.dueling", "True", "--net.head_hidden", "32"),
        *("--loss.double", "True", "--optim.lr", "2e-3", "--total_env_steps", "12000"),
    ),
    "pqn": (
        *("--replay.kind", "rollout", "--replay.rollout", "16", "--replay.batch_size", "32", "--replay.epochs", "4"),
        *("--net.norm", "layer", "--optim.kind", "radam", "--optim.lr_end", "0", "--optim.max_grad_norm", "20"),
    ),
    "r2d2": (
        *("--env.num_envs", "16", "--replay.kind", "sequence", "--replay.length", "8", "--replay.burn_in", "2"),
        *("--replay.stride", "4", "--replay.batch_size", "16", "--replay.update_every", "16", "--replay.n_step", "2"),
        *("--replay.alpha", "0.9", "--replay.beta", "0.6", "--replay.beta_end", "0.6", "--net.lstm", "32"),
        *("--net.hidden", "32", "--net.dueling", "True", "--loss.rescale", "True", "--loss.double", "True"),
        *("--optim.lr", "3e-3"),
    ),
}

SLOW: dict[str, tuple[str, ...]] = {
    "impala, spectral norm": (
        *("--net.torso", "impala", "--net.spectral_norm", "True", "--net.pool", "1", "--net.hidden", "64"),
        *("--env.kwargs", '{"image": true}', "--replay.batch_size", "16", "--replay.update_every", "16"),
        *("--runtime.threads", "1"),
    ),
}
"""Those that need more than a few seconds to solve a toy; all else is tested for them too."""
