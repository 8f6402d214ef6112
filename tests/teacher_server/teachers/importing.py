"""What the tests of importing share: the orders an owner may give, and what a made bundle answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from teacher_server.teachers.bundle import BundleError
from teacher_server.teachers.classifier import load_classifier
from teacher_server.teachers.importing import Imported, ImportOrder, import_bundle
from tests.teacher_server.teachers.models import order_for, small_network

OWN = "tests.teacher_server.teachers.models:small"
IMAGES_NHWC = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)


def order(file: Path, **changes: object) -> ImportOrder:
    return order_for(file, **({"network": OWN} if file.suffix == ".safetensors" else {}) | changes)


def reference() -> NDArray[np.float32]:
    spec = order_for(Path())
    scaled = (IMAGES_NHWC / 255 - np.array(spec.mean)) / np.array(spec.std)
    with torch.no_grad():
        images_nchw = torch.tensor(scaled.transpose(0, 3, 1, 2).copy(), dtype=torch.float32)
        result: NDArray[np.float32] = small_network()(images_nchw).softmax(1).numpy()
    return result


def answers(made: Imported) -> NDArray[np.float32]:
    return load_classifier(made.bundle, trusted_networks=(OWN,)).probabilities(IMAGES_NHWC)


def refusal(file: Path, tmp_path: Path, **changes: object) -> str:
    """What the owner is told; nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((BundleError, ValueError)) as caught:
        import_bundle(order(file, **changes), tmp_path / "bundle")
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)
