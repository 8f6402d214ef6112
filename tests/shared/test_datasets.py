"""The data-set readers: the published bytes where they are present, and refusals where files are damaged."""

import gzip
import hashlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shared.datasets import DATASET_NAMES, DatasetUnavailable, Split, load_dataset
from tests.shared.published import load_or_skip

# SHA-256 of images_nhwc.tobytes(), of the official files
PUBLISHED: dict[tuple[str, Split], str] = {
    ("fashion-mnist", "train"): "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    ("fashion-mnist", "test"): "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    ("mnist", "train"): "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    ("mnist", "test"): "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    ("cifar10", "train"): "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    ("cifar10", "test"): "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    ("tinyimagenet10", "train"): "d204a01f2948ad9a22f02405f02e6ffe49184190feb14bed74b05d6bf213abf3",
    ("tinyimagenet10", "test"): "5aad7b0a3c335e7fabfdd6508ebf1dec3d6abe99c528ba0002043e40696d1469",
}


@pytest.mark.parametrize(("name", "split"), PUBLISHED)
def test_the_images_are_the_published_ones(name: str, split: Split) -> None:
    dataset = load_or_skip(name, split)

    assert hashlib.sha256(dataset.images_nhwc.tobytes()).hexdigest() == PUBLISHED[name, split]
    assert dataset.truth_n.dtype == np.int64
    assert set(np.unique(dataset.truth_n)) == set(range(len(dataset.class_names)))
    assert (dataset.name, dataset.split) == (name, split)


def test_digits_are_always_there() -> None:
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")

    assert (train.images_nhwc.shape, test.images_nhwc.shape) == ((1347, 28, 28, 1), (450, 28, 28, 1))
    assert train.images_nhwc.dtype == np.uint8
    assert train.images_nhwc.max() == 255
    assert np.bincount(test.truth_n).min() >= 30
    trained_on = {image.tobytes() for image in train.images_nhwc}
    assert not any(image.tobytes() in trained_on for image in test.images_nhwc)


def test_unknown_data_sets_are_refused_with_the_allowed_names() -> None:
    with pytest.raises(ValueError, match="'imagenet'; allowed are " + ", ".join(DATASET_NAMES)):
        load_dataset("imagenet", "test")


def test_unknown_splits_are_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="'validation'; allowed are train and test"):
        load_dataset("digits", "validation")  # type: ignore[arg-type]


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([2, 0, 9], np.uint8)


@pytest.fixture
def mnist_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DISTILL_DATA that holds a three-image MNIST test split; returns the folder of its two files."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS))
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    return raw


@pytest.mark.parametrize("zipped", [False, True])
def test_distill_data_comes_first_gzipped_or_not(mnist_folder: Path, zipped: bool) -> None:
    if zipped:
        for file in list(mnist_folder.iterdir()):
            file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()

    dataset = load_dataset("mnist", "test")

    np.testing.assert_array_equal(dataset.images_nhwc[..., 0], IMAGES)
    np.testing.assert_array_equal(dataset.truth_n, LABELS)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param("t10k-images-idx3-ubyte", b"", id="empty"),
        pytest.param("t10k-images-idx3-ubyte", idx(IMAGES)[:-1], id="truncated"),
        pytest.param("t10k-images-idx3-ubyte", idx(IMAGES) + b"\0", id="too long"),
        pytest.param("t10k-images-idx3-ubyte", b"\0\0\x0d" + idx(IMAGES)[3:], id="floats"),
        pytest.param("t10k-images-idx3-ubyte", b"\0\0\x08\xff", id="255 dimensions"),
        pytest.param("t10k-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, id="exabytes"),
        pytest.param("t10k-images-idx3-ubyte", idx(IMAGES[:2]), id="fewer images than labels"),
        pytest.param("t10k-images-idx3-ubyte", idx(IMAGES.reshape(3, -1)), id="images without rows"),
        pytest.param("t10k-labels-idx1-ubyte", idx(np.array([1, 2, 10], np.uint8)), id="an eleventh class"),
        pytest.param("t10k-images-idx3-ubyte.gz", b"not gzip", id="not gzip"),
        pytest.param("t10k-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES))[:-20], id="gzip truncated"),
        pytest.param(
            "t10k-images-idx3-ubyte.gz",
            gzip.compress(idx(IMAGES))[:12] + b"\xff" * 40,
            id="gzip damaged",
        ),
    ],
)
def test_damaged_idx_files_are_named(mnist_folder: Path, file: str, content: bytes) -> None:
    (mnist_folder / file).write_bytes(content)
    with pytest.raises(DatasetUnavailable, match="damaged") as caught:
        load_dataset("mnist", "test")
    assert str(mnist_folder) in str(caught.value)


def sheet(*, tiles: int = 160) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16 * 32, tiles // 16 * 32), (1, 2, 3)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def cifar_archive(folder: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "cifar10-test.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_the_last_sheets_empty_tiles_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_archive(
        tmp_path, {"labels.npy": npy(np.zeros(170, np.uint8)), "images/0": sheet(), "images/1": sheet(tiles=16)}
    )
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    assert load_dataset("cifar10", "test").images_nhwc.shape == (170, 32, 32, 3)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({}, id="empty"),
        pytest.param({"labels.npy": npy(np.zeros(1, np.uint8))}, id="no images"),
        pytest.param({"images/0": sheet()}, id="no labels"),
        pytest.param({"labels.npy": npy(np.zeros(200, np.uint8)), "images/0": sheet()}, id="too few images"),
        pytest.param({"labels.npy": npy(np.full(9, 10, np.uint8)), "images/0": sheet()}, id="an eleventh class"),
        pytest.param({"labels.npy": b"\x93NUMPY", "images/0": sheet()}, id="labels truncated"),
        pytest.param({"labels.npy": b"", "images/0": sheet()}, id="labels empty"),
        pytest.param({"labels.npy": npy(np.zeros(1, np.uint8)), "images/0": sheet()[:50]}, id="sheet truncated"),
    ],
)
def test_damaged_sheets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes]) -> None:
    cifar_archive(tmp_path, members)
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    with pytest.raises(DatasetUnavailable, match=r"cifar10-test\.zip is damaged"):
        load_dataset("cifar10", "test")


def test_an_archive_that_is_not_a_zip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10-test.zip").write_bytes(b"PK\x03\x04 and no more")
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))
    with pytest.raises(DatasetUnavailable, match=r"cifar10-test\.zip is damaged"):
        load_dataset("cifar10", "test")
