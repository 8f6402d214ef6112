"""Bundles changed by hand, and how they are refused."""

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch

from teacher_server.teachers.bundle import (
    Bundle,
    BundleError,
    load_bundle,
    load_network,
)

ABSENT = object()


def edit(bundle: Bundle, field: str, value: Any) -> None:
    """Set (or, with ABSENT, remove) a dotted field of the bundle's teacher.toml."""
    path = bundle.folder / "teacher.toml"
    content = tomllib.loads(path.read_text())
    *tables, last = field.split(".")
    table = content
    for name in tables:
        table = table[name]
    if value is ABSENT:
        del table[last]
    else:
        table[last] = value
    path.write_text(tomli_w.dumps(content))


def replace_weights(bundle: Bundle, content: bytes) -> None:
    """Exchange the weights file and announce the new one's SHA-256, as a careless owner might."""
    bundle.weights_path.write_bytes(content)
    edit(bundle, "weights.sha256", hashlib.sha256(content).hexdigest())


def tensors(bundle: Bundle) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(bundle.weights_path.read_bytes())


def refusal(folder: Path) -> str:
    """The text a server prints that is started with this bundle."""
    with pytest.raises(BundleError) as caught:
        load_network(load_bundle(folder))
    return str(caught.value)
