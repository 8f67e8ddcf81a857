"""Made-up demonstrations: episodes of unique frames, some of which are stacks."""

from __future__ import annotations

import torch

from trainer.replay import Demonstrations

LENGTHS = (1, 7, 2, 4, 12)


def demonstrations(stack: int = 1, pad: str = "repeat", lengths: tuple[int, ...] = LENGTHS) -> Demonstrations:
    """Episodes of unique frames; every other one is truncated."""
    g = torch.Generator().manual_seed(0)
    steps, obs, finals, ended = sum(lengths), [], [], []
    for episode, length in enumerate(lengths):
        frames = [torch.tensor([episode + 1.0, i + 1.0]) for i in range(length + 1)]
        for i in range(length + 1):
            window = [frames[j] if j >= 0 else frames[0] if pad == "repeat" else torch.zeros(2)
                      for j in range(i - stack + 1, i + 1)]  # fmt: skip
            seen = torch.stack(window) if stack > 1 else window[0]
            (finals if i == length else obs).append(seen)
        ended += [0] * (length - 1) + [1 + episode % 2]
    end = torch.tensor(ended)
    sizes = torch.tensor(lengths)
    return Demonstrations(
        obs=torch.stack(obs),
        action=torch.randint(0, 3, (steps,), generator=g),
        reward=torch.randint(-8, 9, (steps,), generator=g) / 4,
        terminated=end == 1,
        truncated=end == 2,
        starts=sizes.cumsum(0) - sizes,
        final_obs=torch.stack(finals),
    )
