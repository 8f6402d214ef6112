"""Architectures that are not the paper's: torchvision's classifiers, timm's, and a function of the user's own."""

import difflib
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from shared.networks.naming import network_source

# GoogLeNet and Inception have side outputs while training unless told otherwise.
_TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def create_foreign(name: str, *, height: int, width: int, channels: int, classes: int) -> nn.Module:
    """Build ``torchvision:NAME``, ``timm:NAME`` or ``module:function`` with fresh weights; nothing is downloaded.

    A torchvision network for grey images gets a first convolution of one channel. The user's own function is called
    with the keywords height, width, channels and classes. Raises ValueError when the name leads nowhere.
    """
    source, _, rest = network_source(name), *name.partition(":")[1:]
    if source == "torchvision":
        return _from_torchvision(rest, height=height, width=width, channels=channels, classes=classes)
    if source == "timm":
        return _from_timm(rest, height=height, width=width, channels=channels, classes=classes)
    return _from_own_function(name, height=height, width=width, channels=channels, classes=classes)


def require_fitting(network: nn.Module, name: str, *, image_chw: tuple[int, int, int], classes: int) -> None:
    """Run one black image through; raises ValueError unless the answer is 1 x classes of a float type."""
    was_training = network.training
    channels, height, width = image_chw
    try:
        with torch.inference_mode():
            logits_nk = network.eval()(torch.zeros(1, channels, height, width))
    except Exception as error:  # anything can come out of a network that is not made for this image
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"network {name} does not take {height}x{width}x{channels} images: {reason}") from error
    finally:
        network.train(was_training)
    if (
        not isinstance(logits_nk, torch.Tensor)
        or logits_nk.shape != (1, classes)
        or not logits_nk.is_floating_point()
    ):
        found = (
            f"{logits_nk.dtype} {tuple(logits_nk.shape)}" if isinstance(logits_nk, torch.Tensor) else type(logits_nk)
        )
        raise ValueError(f"network {name} answers one image with {found}; allowed are float logits (1, {classes})")


def _from_torchvision(name: str, *, height: int, width: int, channels: int, classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"network is 'torchvision:{name}'; {_nearest(name, known)}")
    options: dict[str, Any] = {**_TORCHVISION_OPTIONS.get(name, {})}
    if name.startswith("vit_"):
        if height != width:
            raise ValueError(f"network torchvision:{name} takes square images, not {height}x{width}")
        options["image_size"] = height
    try:
        network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    except (ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"network torchvision:{name} does not take {height}x{width} images: {error}") from error
    return network if channels == 3 else _with_channels(network, channels)


def _from_timm(name: str, *, height: int, width: int, channels: int, classes: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"network timm:{name} needs timm, which is not installed: pip install 'blackbox-distillation[timm]'"
        ) from error
    if not timm.is_model(name):
        raise ValueError(f"network is 'timm:{name}'; {_nearest(name, timm.list_models())}")
    options: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": channels}
    if timm.models.get_pretrained_cfg(name) and timm.models.get_pretrained_cfg_value(name, "fixed_input_size"):
        options["img_size"] = (height, width)
    try:
        network: nn.Module = timm.create_model(name, **options)
    except (ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"network timm:{name} does not take {height}x{width}x{channels} images: {error}") from error
    return network


def _from_own_function(name: str, *, height: int, width: int, channels: int, classes: int) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    try:
        with _current_folder_importable():
            function = getattr(importlib.import_module(module_name), function_name)
            network = function(height=height, width=width, channels=channels, classes=classes)
    except Exception as error:  # the user's own code may raise anything, and its name is the best explanation
        raise ValueError(f"network {name} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network {name} returns {type(network).__name__}; allowed is a torch.nn.Module")
    return network


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """As with ``python -m``: a module beside the user is found, although an installed command does not look there."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _with_channels(network: nn.Module, channels: int) -> nn.Module:
    """Replace the first convolution by one of the same kind that takes ``channels``."""
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            parent, _, attribute = path.rpartition(".")
            setattr(network.get_submodule(parent), attribute, _same_convolution(layer, channels))
            break
    return network


def _same_convolution(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]  # torch's own attribute is typed wider than its parameter
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=5) or sorted(known)[:5]
    return f"there are {len(known)}, among them {', '.join(close)}"
