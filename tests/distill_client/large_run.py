"""A run at 224x224 in a process of its own, and the memory it took: `python -m tests.distill_client.large_run`.

300 pictures and 1,500 blends of them, bought from a fake teacher in process, two contenders trained for some steps.
"""

import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distill_client.config import RunConfig
from distill_client.material import Material
from distill_client.pipeline import run
from distill_client.run_folder import open_run
from tests.distill_client.fakes import FakeTeacher, SilentReporter, begin

POOL, MIXED, SIDE = 300, 1_500, 224


def tiny_network(height: int, width: int, channels: int, classes: int) -> nn.Module:
    """Hardly any weights and activations, so that the images are what takes the memory."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 7, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


def peak_mb() -> float:
    """The most that was ever resident, in MB: own pages and those mapped from files."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux counts what the process was before exec into ru_maxrss
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> dict[str, Any]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        images = np.random.default_rng(0).integers(0, 256, (POOL, SIDE, SIDE, 3), np.uint8)
        np.savez(Path(work) / "pool.npz", images=images)
        del images
        config = RunConfig.model_validate(
            {
                "name": "large",
                "seed": 1,
                "budget_images": POOL + MIXED,
                "teacher": {"name": "fake", "images_per_request": 64},
                "pool": {"file": str(Path(work) / "pool.npz"), "images": POOL},
                "synthesis": {"images": MIXED, "mixup": {"lambda_decimals": 6, "original_within": 0}},
                "student": {"network": "tests.distill_client.large_run:tiny_network", "augmentation": "none"},
                "training": {"steps": 30, "batch_size": 32},
            }
        )
        teacher = FakeTeacher(image_hwc=(SIDE, SIDE, 3), resize="crop")
        before = peak_mb()
        material = Material(config, teacher.card())
        begin(Path(work) / "run", config, teacher, keep=material.keep)
        with open_run(Path(work) / "run") as folder:
            summary = run(folder, material, teacher, SilentReporter(), torch.device("cpu"))
    images_bought = summary["images"]["bought"]
    return {
        "images": images_bought,
        "by_phase": summary["images"]["by_phase"],
        "before_mb": round(before),
        "peak_mb": round(peak_mb()),
        "as_uint8_mb": round(images_bought * SIDE * SIDE * 3 / 1e6),
        "as_float_mb": round(images_bought * SIDE * SIDE * 3 * 4 / 1e6),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()) + "\n")
