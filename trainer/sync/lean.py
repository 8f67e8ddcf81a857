"""torch's optimizers without torch's compiler: their wrappers import Dynamo, which takes as long as torch itself.

Every start of a rank would pay for it, though nothing here is compiled by Dynamo (`build/inductor.py` traces by
torch.fx). The wrappers only tell it to leave these methods alone, which is not needed here.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, cast

import torch

_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
_O = TypeVar("_O", bound=torch.optim.Optimizer)


def lean(kind: type[_O]) -> type[_O]:
    """Return an optimizer class with its methods unwrapped; a step is made without gradients."""
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _METHODS}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("type[_O]", type(kind.__name__, (kind,), methods))
