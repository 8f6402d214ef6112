"""Import one torchvision ResNet-18 three ways and print how far apart the answers are: `benchmarks/imports.py`.

The same random weights go through a safetensors state dict, a torch.export program and an ONNX model; each bundle
answers the same images. 1e-5 is what the server promises between batches; it ends with 1 when two formats differ
by more.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torchvision
from numpy.typing import NDArray

from shared.wire.contracts import InputSpec
from teacher_server.teachers.classifier import load_classifier
from teacher_server.teachers.importing import ImportOrder, import_bundle
from teacher_server.teachers.sample_images import generated_sample_images

NETWORK = "resnet18"
CLASSES = tuple(f"class {index}" for index in range(10))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIFFERENCE_MAX = 1e-5


def write_model_files(folder: Path, side: int) -> dict[str, Path]:
    """The network of seed 0 as a state dict, a program and an ONNX model."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(NETWORK, weights=None, num_classes=len(CLASSES)).eval()
    files = {name: folder / f"{NETWORK}.{name}" for name in ("safetensors", "pt2", "onnx")}
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, files["safetensors"])
    images_nchw = torch.zeros(2, 3, side, side)
    batch = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network, (images_nchw,), dynamic_shapes=batch), files["pt2"])
        torch.onnx.export(network, (images_nchw,), files["onnx"], dynamic_shapes=batch, dynamo=True, verbose=False)
    return files


def import_and_answer(file: Path, folder: Path, side: int) -> tuple[NDArray[np.float32], float]:
    """probabilities_nk of the imported bundle on the generated images, and the milliseconds that one image takes."""
    order = ImportOrder(
        file=file,
        classes=CLASSES,
        input=(side, side, 3),
        mean=MEAN,
        std=STD,
        name=NETWORK,
        network=f"torchvision:{NETWORK}" if file.suffix == ".safetensors" else None,
    )
    classifier = load_classifier(import_bundle(order, folder).bundle)
    images_nhwc = generated_sample_images(InputSpec(height=side, width=side, channels=3))
    classifier.warm()
    began = time.perf_counter()
    probabilities_nk = classifier.probabilities(images_nhwc)
    return probabilities_nk, (time.perf_counter() - began) / len(images_nhwc) * 1000


def largest_differences(side: int) -> dict[str, tuple[float, float]]:
    """For each format, the largest difference to the state dict's probabilities, and milliseconds per image."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        answers = {
            name: import_and_answer(file, folder / f"bundle-{name}", side)
            for name, file in write_model_files(folder, side).items()
        }
    reference_nk = answers["safetensors"][0]
    return {
        name: (float(np.abs(probabilities_nk - reference_nk).max()), milliseconds)
        for name, (probabilities_nk, milliseconds) in answers.items()
    }


def main() -> int:
    """Print the differences; 1 when one is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=64, help="height and width of the images")
    side = parser.parse_args().side
    differences = largest_differences(side)
    print(
        f"torchvision:{NETWORK}, seed 0, {side}x{side}x3, 12 images, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, (difference, milliseconds) in differences.items():
        print(f"{name:12} largest difference to the state dict {difference:.1e}   {milliseconds:6.1f} ms/image")
    return int(max(difference for difference, _ in differences.values()) > DIFFERENCE_MAX)


if __name__ == "__main__":
    sys.exit(main())
