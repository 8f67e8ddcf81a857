"""Every member of the family as what it changes in the preset `debug`; whatever holds for one is tested for all.

A member that stands here has to solve the toys, to resume bit for bit and not to depend on the number of ranks.
"""

from __future__ import annotations

MEMBERS: dict[str, tuple[str, ...]] = {
    "dqn": (),
    "double, dueling, 3 steps": ("--loss.double", "True", "--net.dueling", "True", "--replay.n_step", "3"),
    "noisy": ("--net.noisy", "True", "--policy.epsilon_start", "0", "--policy.epsilon_end", "0"),
}
