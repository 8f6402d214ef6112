"""Published data sets by name, from the first place that has them.

Looked for in ``$DISTILL_DATA``, then ``../shared/data`` beside the project, then ``./data``, where torchvision's
download puts them. The layout under each is torchvision's own; CIFAR may also be a zip of lossless WebP sheets, and
the ten classes of Tiny-ImageNet are a zip of JPEG files.
"""

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.datasets.dataset import Dataset, DatasetUnavailable, Split

PROJECT = Path(__file__).resolve().parents[2]
DOWNLOAD_ROOT = PROJECT / "data"


# fmt: off
_FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer",
                    "dog", "frog", "horse", "ship", "truck")
_CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)
_TINY_CLASSES = ("goldfish", "king penguin", "golden retriever", "monarch butterfly", "beacon (lighthouse)",
                 "school bus", "sports car", "teapot", "orange", "seashore")
# fmt: on
_DIGIT_CLASSES = tuple(str(digit) for digit in range(10))


def load_published(name: str, split: Split) -> Dataset:
    """Load one split at its own size.

    Raises ValueError for an unknown name, DatasetUnavailable when its files are nowhere to be had.
    """
    if name not in _READERS:
        raise ValueError(f"data set is {name!r}; allowed are {', '.join(DATASET_NAMES)} and folder:PATH")
    return _READERS[name](split)


def _roots() -> list[Path]:
    configured = os.environ.get("DISTILL_DATA")
    return [*([Path(configured)] if configured else []), PROJECT.parent / "shared" / "data", DOWNLOAD_ROOT]


def _load_idx(split: Split, *, name: str, folder: str, class_names: tuple[str, ...]) -> Dataset:
    stem = "train" if split == "train" else "t10k"
    files = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    for root in _roots():
        raw = root / folder / "raw"
        if all((raw / file).is_file() or (raw / f"{file}.gz").is_file() for file in files):
            images, truth = (_read_idx(raw / file) for file in files)
            _require_matching(raw, images, truth, class_names)
            return Dataset(name, split, images[..., None], truth.astype(np.int64), class_names)
    return _download(name, split, class_names)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes (Y. LeCun's format), gzipped or not."""
    try:
        zipped = path.with_name(path.name + ".gz")
        content = gzip.decompress(zipped.read_bytes()) if zipped.is_file() else path.read_bytes()
        if content[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of unsigned bytes")
        shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
        return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error, IndexError) as error:
        raise DatasetUnavailable(f"{path} is damaged: {error}") from error


def _require_matching(
    place: Path, images: NDArray[np.uint8], truth: NDArray[np.integer], class_names: tuple[str, ...]
) -> None:
    """images N x H x W of one channel and truth N; raises DatasetUnavailable unless each image has a known label."""
    if images.ndim != 3 or truth.shape != images.shape[:1] or not len(truth):
        raise DatasetUnavailable(f"{place} is damaged: {images.shape} images do not match {truth.shape} labels")
    if truth.min() < 0 or truth.max() >= len(class_names):
        raise DatasetUnavailable(f"{place} is damaged: a label is outside 0 to {len(class_names) - 1}")


def _load_zip(split: Split, *, name: str, side: int, class_names: tuple[str, ...]) -> Dataset:
    for root in _roots():
        archive = root / f"{name}-{split}.zip"
        if archive.is_file():
            images, truth = _read_sheets(archive, height=side, width=side)
            _require_matching(archive, images[..., 0], truth, class_names)
            return Dataset(name, split, images, truth, class_names)
    return _download(name, split, class_names)


def _read_sheets(path: Path, *, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Cut each sheet in ``images/``, in name order, into tiles row by row; the last may end in empty tiles.

    A picture of one tile is a sheet of one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            truth = np.load(io.BytesIO(archive.read("labels.npy")), allow_pickle=False).astype(np.int64)
            tiles = []
            for member in sorted(name for name in archive.namelist() if name.startswith("images/")):
                with Image.open(io.BytesIO(archive.read(member))) as image:
                    sheet = np.asarray(image.convert("RGB"))
                rows, columns = sheet.shape[0] // height, sheet.shape[1] // width
                grid = sheet.reshape(rows, height, columns, width, 3)
                tiles.append(grid.swapaxes(1, 2).reshape(-1, height, width, 3))
        return np.concatenate(tiles)[: len(truth)], truth
    except (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise DatasetUnavailable(f"{path} is damaged: {error}") from error


def _download(name: str, split: Split, class_names: tuple[str, ...]) -> Dataset:
    from torchvision import datasets as published

    constructors = {
        "fashion-mnist": published.FashionMNIST,
        "mnist": published.MNIST,
        "cifar10": published.CIFAR10,
        "cifar100": published.CIFAR100,
    }
    places = ", ".join(str(root) for root in _roots())
    if name not in constructors:
        raise DatasetUnavailable(
            f"data set {name} is in none of {places} and nowhere to be downloaded from; "
            f"set DISTILL_DATA to a folder that holds {name}-{split}.zip"
        )
    try:
        data = constructors[name](root=DOWNLOAD_ROOT, train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]  # torchvision lists every mirror on a line of its own
        raise DatasetUnavailable(
            f"data set {name} is in none of {places} and cannot be downloaded ({reason}); "
            "set DISTILL_DATA to a folder that holds it"
        ) from error
    images = np.asarray(data.data, dtype=np.uint8)
    images = images if images.ndim == 4 else images[..., None]
    return Dataset(name, split, images, np.asarray(data.targets, dtype=np.int64), class_names)


def _load_digits(split: Split) -> Dataset:
    """scikit-learn's bundled digits (UCI optical recognition test set), enlarged from 8x8 to 28x28.

    It has no published split: every fourth image, in the file's order, is test (450 of 1,797).
    """
    images_nhw, truth_n = _enlarged_digits()
    chosen = (np.arange(len(truth_n)) % 4 == 0) == (split == "test")
    return Dataset("digits", split, images_nhw[chosen][..., None], truth_n[chosen], _DIGIT_CLASSES)


@cache  # a run reads both splits, and what is small and enlarged one by one takes longer than many a training on it
def _enlarged_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 1,797 x 28 x 28 and int64 1,797, not to be changed. Raises DatasetUnavailable without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DatasetUnavailable(
            "data set digits needs scikit-learn: pip install 'blackbox-distillation[digits]'"
        ) from error

    bunch = load_digits()
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    large = np.stack(
        [np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BILINEAR)) for image in small]
    )
    return large, bunch.target.astype(np.int64)


_READERS: dict[str, Callable[[Split], Dataset]] = {
    "fashion-mnist": partial(_load_idx, name="fashion-mnist", folder="FashionMNIST", class_names=_FASHION_CLASSES),
    "mnist": partial(_load_idx, name="mnist", folder="MNIST", class_names=_DIGIT_CLASSES),
    "cifar10": partial(_load_zip, name="cifar10", side=32, class_names=_CIFAR10_CLASSES),
    "cifar100": partial(_load_zip, name="cifar100", side=32, class_names=_CIFAR100_CLASSES),
    "tinyimagenet10": partial(_load_zip, name="tinyimagenet10", side=64, class_names=_TINY_CLASSES),
    "digits": _load_digits,
}
DATASET_NAMES = tuple(_READERS)
