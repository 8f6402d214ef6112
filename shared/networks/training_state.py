"""What the next step of a training depends on, as named tensors for a checkpoint, and back."""

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

import torch
from torch import nn


class Optimiser(Protocol):
    """Of torch's, or like it: ``state`` has tensors by name for each parameter, like it in shape or of none."""

    @property
    def state(self) -> MutableMapping[Any, Any]:
        """By parameter; of one without an entry, an empty one."""


def training_tensors(network: nn.Module, optimiser: Optimiser, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The weights, the optimiser's moments, and the states of the training's generator and of torch's own.

    Dropout draws from torch's global generator and from no other, so a training is not whole without it.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, parameter in enumerate(network.parameters()):
        for name, tensor in optimiser.state[parameter].items():
            tensors[f"optimiser.{index}.{name}"] = tensor
    tensors |= {"generator": generator.get_state(), "torch": torch.get_rng_state()}
    device = next(network.parameters()).device
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def restore_training(
    network: nn.Module,
    optimiser: Optimiser,
    generator: torch.Generator,
    saved: Mapping[str, torch.Tensor],
) -> None:
    """Bring all of that to what ``training_tensors`` gave; other names in ``saved`` are ignored.

    It copies into tensors that have the live ones' device and memory layout: the fused optimiser relies on both.
    Raises KeyError or RuntimeError when ``saved`` is another network's or incomplete; then nothing may be trained on.
    """
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.copy_(saved[f"network.{name}"])
        for index, parameter in enumerate(network.parameters()):
            _restore_state(optimiser.state[parameter], f"optimiser.{index}.", parameter, saved)
    generator.set_state(saved["generator"])
    torch.set_rng_state(saved["torch"])
    device = next(network.parameters()).device
    if device.type == "cuda" and "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], device)


def _restore_state(
    state: MutableMapping[str, torch.Tensor], prefix: str, parameter: nn.Parameter, saved: Mapping[str, torch.Tensor]
) -> None:
    """Of one parameter. What is there already is copied into, as it may be a part of something else."""
    names = [name.removeprefix(prefix) for name in saved if name.startswith(prefix)]
    if not names:
        raise KeyError(prefix)
    for name in names:
        tensor = saved[prefix + name]
        if name not in state:
            like = parameter if tensor.ndim else tensor
            state[name] = torch.empty_like(like, device=parameter.device)
        state[name].copy_(tensor)
