"""Network architectures by name: the paper's, torchvision's, timm's, or the user's own function."""

from torch import nn

from shared.networks.foreign import create_foreign, require_fitting
from shared.networks.naming import network_source
from shared.networks.published import NETWORKS

__all__ = ["NETWORKS", "create_network", "network_source"]


def create_network(name: str, *, height: int, width: int, channels: int, classes: int) -> nn.Module:
    """Build a network with fresh weights that maps float32 images_nchw to logits_nk.

    ``name`` is a key of NETWORKS, ``torchvision:NAME``, ``timm:NAME`` or ``module:function``; the last runs the
    user's own code, so whoever passes on a name that came from somewhere else asks ``network_source`` first.
    Raises ValueError when the name is unknown or the architecture does not take such images or give such logits.
    """
    if network_source(name) != "published":
        network = create_foreign(name, height=height, width=width, channels=channels, classes=classes)
        require_fitting(network, name, image_chw=(channels, height, width), classes=classes)
        return network
    if name not in NETWORKS:
        raise ValueError(
            f"network is {name!r}; allowed are {', '.join(NETWORKS)}, torchvision:NAME, timm:NAME and module:function"
        )
    size, constructor = NETWORKS[name]
    if (height, width) != size:
        raise ValueError(f"network {name} is defined for {size[0]}x{size[1]} images, not {height}x{width}")
    return constructor(channels, classes)
