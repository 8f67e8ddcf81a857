"""The toys as images: the same boards, with an empty border."""

from __future__ import annotations

import pytest
import torch

from trainer.envs import make_backend


@pytest.mark.parametrize(("env_id", "shape"), [("toy/Catch", (10, 5)), ("toy/Chain", (1, 8)), ("toy/Memory", (1, 4))])
@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_pictures_show_what_the_vectors_say(env_id: str, shape: tuple[int, int], autoreset: str) -> None:
    plain, image = (
        make_backend("auto", env_id, 5, list(range(5)), autoreset=autoreset, kwargs={"image": image})
        for image in (False, True)
    )
    assert (image.obs_shape, image.obs_dtype) == ((1, shape[0] + 2, shape[1] + 2), torch.uint8)
    g = torch.Generator().manual_seed(0)
    pairs = [(plain.reset(), image.reset())]
    for _ in range(40):
        action = torch.randint(0, plain.num_actions, (5,), generator=g)
        plain.send(action)
        image.send(action)
        pairs.append((plain.recv(), image.recv()))
    for vectors, pictures in pairs:
        for name in ("obs", "final_obs"):
            told, shown = getattr(vectors, name), getattr(pictures, name)
            assert torch.equal(shown[:, 0, 1:-1, 1:-1], 255 * told.view(5, *shape).to(torch.uint8))
            assert shown.sum(dtype=torch.int64) == 255 * told.sum(), "nothing in the border"
        assert torch.equal(vectors.reward, pictures.reward)


def test_image_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="image 1: must be true or false"):
        make_backend("auto", "toy/Catch", 1, [0], kwargs={"image": 1})
