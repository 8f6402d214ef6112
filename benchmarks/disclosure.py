"""What each disclosure policy gives away, on a real teacher: `benchmarks/disclosure.py`.

For the images of the data set's test split, beside what the teacher itself says: labels that are other ones, classes
per row that are seen with more than nothing, entropy, total variation. Then what averaging takes off the noise, over
copies of an image that differ in one pixel by one grey level each: the root mean square error of the
log-probabilities (of classes above 1e-3, less the mean of each row), and first what such copies differ by anyway.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.datasets import load_dataset
from shared.wire.disclosure import Disclosure
from shared.wire.images import Images, image_digests
from teacher_server.disclosure import Disclosed, disclose, draw_noise
from teacher_server.teachers.teacher import Teacher, load_teacher

POLICIES = (
    "probabilities",
    "probabilities;decimals=2",
    "probabilities;decimals=1",
    "probabilities;temperature=4;decimals=6",
    "probabilities;temperature=4;decimals=2",
    "probabilities;noise=0.1;decimals=6",
    "probabilities;noise=0.5;decimals=6",
    "probabilities;noise=2;decimals=6",
    "top-k:3",
    "top-k:3;temperature=4;noise=0.5;decimals=2",
    "top-k:1;decimals=2",
    "label",
    "label;noise=0.5",
    "label;noise=2",
)
SECRET = bytes(range(32))
COPIES = (1, 4, 16, 64)


def answer(images_nhwc: Images, probabilities_nk: NDArray[np.float32], policy: Disclosure) -> Disclosed:
    """What a key of this policy sees."""
    noise_nk = None
    if policy.noise:
        digests = image_digests(images_nhwc)
        noise_nk = draw_noise(SECRET, digests, noise=policy.noise, classes=probabilities_nk.shape[1])
    return disclose(probabilities_nk, policy, noise_nk)


def measure(images_nhwc: Images, probabilities_nk: NDArray[np.float32], policy: Disclosure) -> str:
    """One line of the first table."""
    began = time.perf_counter()
    disclosed = answer(images_nhwc, probabilities_nk, policy)
    microseconds = (time.perf_counter() - began) / len(images_nhwc) * 1e6
    labels_n = probabilities_nk.argmax(axis=1)
    if disclosed.ndim == 1:
        return f"{(disclosed != labels_n).mean():8.2%} {1:7.2f} {'':>8} {'':>8} {microseconds:8.1f}"
    shown_nk = np.nan_to_num(disclosed.astype(np.float64))
    changed = (shown_nk.argmax(axis=1) != labels_n).mean()
    seen = (shown_nk > 0).sum(axis=1).mean()
    entropy = -(shown_nk * np.log(np.where(shown_nk > 0, shown_nk, 1))).sum(axis=1).mean() / np.log(2)
    distance = np.abs(shown_nk - probabilities_nk).sum(axis=1).mean() / 2
    return f"{changed:8.2%} {seen:7.2f} {entropy:8.3f} {distance:8.4f} {microseconds:8.1f}"


def near_copies(images_nhwc: Images, copies: int) -> Images:
    """N * copies images: in each, another pixel is one level lighter, or darker where it is white."""
    repeated = np.repeat(images_nhwc, copies, axis=0)
    pixels = repeated.reshape(len(repeated), -1)
    rows, places = np.arange(len(pixels)), np.tile(np.arange(copies), len(images_nhwc))
    pixels[rows, places] = np.where(pixels[rows, places] == 255, 254, pixels[rows, places] + 1)
    return repeated


def error_after_averaging(teacher: Teacher, images_nhwc: Images, copies: int, noise: float) -> float:
    """Root mean square error of log-probabilities, averaged over near copies."""
    policy = Disclosure("probabilities", noise=noise, decimals=6)
    exact_nk = teacher.classifier.probabilities(images_nhwc).astype(np.float64)
    asked = near_copies(images_nhwc, copies)
    seen = answer(asked, teacher.classifier.probabilities(asked), policy).astype(np.float64)
    logs_nk = np.log(np.maximum(seen, 5e-7)).reshape(len(images_nhwc), copies, -1).mean(axis=1)
    errors_nk = np.ma.masked_where(exact_nk < 1e-3, logs_nk - np.log(np.maximum(exact_nk, 1e-12)))
    errors_nk = errors_nk[(~errors_nk.mask).sum(axis=1) > 1]
    centred_nk = errors_nk - errors_nk.mean(axis=1)[:, None]
    return float(np.sqrt((centred_nk**2).mean()))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/fashion-mnist-lenet5"))
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--images", type=int, default=5000)
    arguments = parser.parse_args()
    teacher = load_teacher(arguments.bundle, device="cpu")
    images_nhwc = load_dataset(arguments.dataset, "test").images_nhwc[: arguments.images]
    probabilities_nk = teacher.classifier.probabilities(images_nhwc)
    print(f"{len(images_nhwc)} images of {arguments.dataset}, teacher {teacher.name}")
    print(f"{'policy':<45} {'labels':>8} {'seen':>7} {'bits':>8} {'distance':>8} {'us/image':>8}")
    for text in POLICIES:
        print(f"{text:<45} {measure(images_nhwc, probabilities_nk, Disclosure.parse(text))}")
    print("\nerror of log-probabilities after averaging near copies")
    print(f"{'noise':>8} " + " ".join(f"{copies:>8}" for copies in COPIES))
    for noise in (0.0, 0.1, 0.5, 2.0):
        errors = (error_after_averaging(teacher, images_nhwc[:300], copies, noise) for copies in COPIES)
        print(f"{noise:>8g} " + " ".join(f"{error:8.3f}" for error in errors))


if __name__ == "__main__":
    main()
