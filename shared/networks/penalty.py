"""Keras' L2 penalty on convolutions, as the FS-BBT code's ResNets train with it, for torch's Adam."""

from torch import nn


def parameter_groups(network: nn.Module, l2: float) -> list[dict[str, object]]:
    """The network's parameters for an optimiser, so that ``l2`` times a convolution's squared weights is in the loss.

    The gradient of that penalty is a weight decay of 2 * l2 inside Adam (not the decoupled one of AdamW). Biases,
    normalisation and dense layers go without.
    """
    decayed = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)] if l2 else []
    among = {id(parameter) for parameter in decayed}
    others = [parameter for parameter in network.parameters() if id(parameter) not in among]
    return [{"params": others}, *([{"params": decayed, "weight_decay": 2 * l2}] if decayed else [])]
