"""Students of another architecture than any teacher's: a CIFAR ResNet, and one of torchvision's networks."""

from pathlib import Path

import pytest
import torch

from distill_client.material import Material
from distill_client.pipeline import run
from distill_client.results import load_contender
from distill_client.run_folder import open_run
from tests.distill_client.fakes import FakeTeacher, SilentReporter, begin, tiny_config


@pytest.mark.parametrize("network", ["resnet20", "torchvision:mobilenet_v3_small"])
def test_a_whole_run_at_32x32_in_colour(tmp_path: Path, network: str) -> None:
    """From a pool smaller than a batch, drawn at random, with averaged weights, statistics of batches among them."""
    config = tiny_config(
        budget_images=40,
        pool={"images": 10, "size": "32x32x3", "balanced": False},
        synthesis={"images": 30, "method": "mixed-views"},
        student={"network": network, "augmentation": "mixup"},
        training={"steps": 2, "batch_size": 16, "averaging_decay": 0.999},
        baselines={"student_alone": False, "standard_kd": False},
        evaluation={"dataset": None},
    )
    teacher, path = FakeTeacher(image_hwc=(32, 32, 3)), tmp_path / "run"
    begin(path, config, teacher)
    material = Material(config, teacher.card())
    with open_run(path) as folder:
        summary = run(folder, material, teacher, SilentReporter(), torch.device("cpu"))
        student = load_contender(folder, "student", torch.device("cpu"))
    assert summary["student_network"] == network
    assert summary["images"]["bought"] == summary["images"]["charged_by_server"] == 40
    assert summary["agreement_images"] == 4
    images_nchw = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert student(images_nchw).isfinite().all()
        assert torch.allclose(student(images_nchw)[:1], student(images_nchw[:1]), atol=1e-4), "as in training"
