"""What takes a training's steps: Adam; or Muon for all weights that are matrices, and Adam for the rest.

Muon (Jordan and others 2024, https://kellerjordan.github.io/posts/muon) takes the gradient's momentum of a matrix,
brings all its singular values near to one, and subtracts that. torch has it for tensors of two dimensions; here it is
given views of the weights: a convolution's outputs x (inputs, height and width), of a ``Stack`` each network's own.
torch's casts to bfloat16, which few processors multiply; on the others it is kept from that.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distill_client.config import TrainingConfig
from distill_client.student.stacking import GroupedLinear, networks_in
from shared.networks.penalty import parameter_groups
from shared.networks.precision import multiplies_bfloat16


def optimiser_for(network: nn.Module, config: TrainingConfig) -> "torch.optim.Adam | MuonAndAdam":
    """The one that the schedule names, for a network on the device and in the memory layout that it is trained in."""
    if config.optimiser == "muon":
        return MuonAndAdam(network, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.Adam(parameter_groups(network, config.l2), lr=config.learning_rate, fused=True)


class MuonAndAdam:
    """Both, as one; ``weight_decay`` times the learning rate is what a matrix loses of itself in each step.

    Muon's steps are as large as Adam's (0.2 sqrt(longer side) times the learning rate: Liu and others 2025, section
    2.2), so one learning rate is for both. ``state`` has momenta and moments by parameter, as torch's optimisers do.
    """

    def __init__(self, network: nn.Module, *, learning_rate: float, weight_decay: float) -> None:
        self._members = networks_in(network)
        weights = list(dict.fromkeys(_matrices(network, self._members)))
        among = {id(weight) for weight in weights}
        others = [parameter for parameter in network.parameters() if id(parameter) not in among]
        self._adam = torch.optim.Adam([{"params": others}], lr=learning_rate, fused=True)
        self._views = {weight: self._views_of(weight.detach(), weight) for weight in weights}
        self._muon = torch.optim.Muon(
            [{"params": [view for views in self._views.values() for view in views]}],
            lr=learning_rate,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        in_bfloat16 = multiplies_bfloat16(next(network.parameters()).device)
        self._computing: AbstractContextManager[object] = nullcontext() if in_bfloat16 else _NoBfloat16()
        # Adam's own mapping has room for what is not Adam's: it asks it for its own parameters alone.
        self.state = self._adam.state
        for weight, views in self._views.items():
            momentum = torch.zeros_like(weight)
            self.state[weight] = {"momentum_buffer": momentum}
            for view, of_view in zip(views, self._views_of(momentum, weight), strict=True):
                self._muon.state[view]["momentum_buffer"] = of_view

    @property
    def param_groups(self) -> list[dict[str, object]]:
        """Of both; a group's "lr" is its learning rate."""
        return [*self._adam.param_groups, *self._muon.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad()
        for weight in self._views:
            weight.grad = None

    def step(self) -> None:
        """One step of both, by the parameters' gradients; a parameter without one stays as it is."""
        for weight, views in self._views.items():
            gradients = [None] * len(views) if weight.grad is None else self._views_of(weight.grad, weight)
            for view, gradient in zip(views, gradients, strict=True):
                view.grad = gradient
        with self._computing:
            self._muon.step()  # type: ignore[no-untyped-call]
        self._adam.step()

    def _views_of(self, tensor: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        """Each network's matrix in a tensor of ``weight``'s shape: outputs x inputs, in the order of its memory.

        Raises RuntimeError where they would be no views; of a gradient, which is only read, a copy will do.
        """
        in_order = tensor if weight.is_contiguous() else tensor.permute(0, 2, 3, 1)
        shape = (self._members, len(weight) // self._members, -1)
        return list((in_order.reshape(shape) if tensor is weight.grad else in_order.view(shape)).unbind())


class _NoBfloat16(TorchFunctionMode):
    """Within it, what torch would cast to bfloat16 is a copy that stays as exact as it is."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        is_cast = isinstance(made, torch.Tensor) and made.dtype == torch.bfloat16
        return args[0].clone() if is_cast else made


def _matrices(network: nn.Module, members: int) -> Iterator[nn.Parameter]:
    """The weights of dense layers and of convolutions that see all channels."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | GroupedLinear) or (isinstance(layer, nn.Conv2d) and layer.groups == members):
            yield layer.get_parameter("weight")
