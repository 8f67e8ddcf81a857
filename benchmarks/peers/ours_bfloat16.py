"""Lockstep with its products in bfloat16, answering the benchmarks' requests as its peers do."""

from __future__ import annotations

from ours import Training, main


class HalfTraining(Training):
    """The same run, its convolutions and hidden layers in half the bits."""

    dtype = "bfloat16"


if __name__ == "__main__":
    main(HalfTraining)
