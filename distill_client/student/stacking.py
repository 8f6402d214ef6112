"""Several networks of one architecture trained as one: side by side, as groups of the channels of a wider network.

A convolution of m networks is one convolution in m groups, each of which sees its own network's channels alone; dense
layers are a batch of m matrix products; and what works channel by channel or value by value (activations, pooling,
batch normalisation with its running statistics, dropout) needs no change at all. So the wider network computes with
the architecture's own ``forward``, and it is a network like any other to optimiser, checkpoint, compiler and DDP.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.networks import network_source

# Steps of three students as one, relative to one after the other, on one core (`benchmarks/steps.py`), in batches
# of 64 and of 256: lenet5 1.35 and 1.16, lenet5-half 1.72 and 1.56, alexnet 0.90 and 0.85, alexnet-half 0.98 and
# 0.95, resnet20 0.93 and 0.68. Small networks gain by fewer, larger calls; where the convolutions alone take the
# time, a CPU pays more for groups of them. A GPU has not been measured: there each call costs its launch, and of
# three students as one there are a third as many.
_FASTER_ON_CPU = ("lenet5", "lenet5-half")


def gains_by_stacking(network: str, device: torch.device) -> bool:
    """Whether several students of this architecture, by name, are trained as one on such a device.

    Only published ones: what a foreign ``forward`` does across channels nobody here knows.
    """
    if network_source(network) != "published":
        return False
    return device.type != "cpu" or network in _FASTER_ON_CPU


class Stack(nn.Module):
    """Copies of ``members`` networks, in one.

    Raises ValueError for a layer with weights that it cannot group.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = len(networks)
        self.grouped = copy.deepcopy(networks[0])
        for path, layer in list(self.grouped.named_modules()):
            _join(layer, [network.get_submodule(path) for network in networks])
            if isinstance(layer, nn.Conv2d):
                layer.groups *= self.members
            elif isinstance(layer, nn.Linear) and layer.bias is not None:
                self.grouped.set_submodule(path, GroupedLinear(layer, self.members))
            elif not isinstance(layer, _BatchNorm) and list(layer.parameters(recurse=False)):
                raise ValueError(f"layer {path} is a {type(layer).__name__}, which has no grouped form")

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        """Images and logits_nk of all members' batches, interlaced: of m members row i m + j is member j's row i."""
        rows, (channels, height, width) = len(images_nchw), images_nchw.shape[1:]
        stacked = images_nchw.reshape(rows // self.members, self.members * channels, height, width)
        logits: torch.Tensor = self.grouped(stacked.contiguous(memory_format=torch.channels_last))
        return logits.reshape(rows, -1)


class GroupedLinear(nn.Module):
    """A dense layer in groups: of rows of m x inputs rows of m x outputs, each group by its own weights."""

    def __init__(self, joined: nn.Linear, members: int) -> None:
        super().__init__()
        self.members = members
        self.weight, self.bias = joined.weight, joined.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of all members' inputs, of each one after the other; the outputs likewise."""
        rows_mni = rows.view(len(rows), self.members, -1).transpose(0, 1)
        weight_mio = self.weight.view(self.members, -1, rows_mni.shape[2]).transpose(1, 2)
        bias_m1o = self.bias.view(self.members, 1, -1)
        return torch.baddbmm(bias_m1o, rows_mni, weight_mio).transpose(0, 1).flatten(1)


def _join(layer: nn.Module, same: Sequence[nn.Module]) -> None:
    """Give ``layer`` the tensors of ``same`` end to end; a scalar, a count of batches, is equal in all of them."""
    with torch.no_grad():
        for name, _ in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, nn.Parameter(torch.cat([getattr(each, name) for each in same])))
        for name, buffer in list(layer.named_buffers(recurse=False)):
            if buffer.ndim:
                setattr(layer, name, torch.cat([getattr(each, name) for each in same]))


def side_by_side(networks: Sequence[nn.Module]) -> nn.Module:
    """One network that stands for all of ``networks``: the only one itself, or a ``Stack`` of them."""
    return networks[0] if len(networks) == 1 else Stack(networks)


def networks_in(network: nn.Module) -> int:
    """How many networks it stands for."""
    return network.members if isinstance(network, Stack) else 1
