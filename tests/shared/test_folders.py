"""Folders of pictures: labelled trees, and everything that lies about in them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.datasets import Dataset, DatasetUnavailable, allocation, load_dataset, pictures
from shared.datasets.allocation import allocate_images
from shared.datasets.pictures import find_pictures, read_pictures
from shared.wire.contracts import InputSpec
from shared.wire.image_files import decode_image_file
from tests.shared.odd_pictures import (
    encode,
    ignored_files,
    paint,
    unusable_files,
    usable_files,
    write_all,
    write_good_pictures,
)

SPEC = InputSpec(height=48, width=64, channels=3, resize="crop")
SIZE = (48, 64, 3)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes of four training and two validation pictures each."""
    for label, name in enumerate(("cat", "Dog", "übrige")):
        write_good_pictures(tmp_path / "tree" / "train" / name, 4, seed=10 * label)
        write_good_pictures(tmp_path / "tree" / "val" / name, 2, seed=10 * label + 5)
    return tmp_path / "tree"


def load(root: Path, split: str = "train") -> Dataset:
    return load_dataset(f"folder:{root}", split, size=SIZE)  # type: ignore[arg-type]


def test_a_tree_gives_its_pictures_by_sorted_class_and_name(tree: Path) -> None:
    train, test = load(tree), load(tree, "test")

    assert train.class_names == test.class_names == ("Dog", "cat", "übrige")
    assert train.truth_n.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (train.name, train.split, train.skipped) == ("folder:tree", "train", ())
    assert test.truth_n.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.images_nhwc.dtype == np.uint8
    assert train.images_nhwc.shape == (12, *SIZE)
    third = decode_image_file((tree / "train" / "cat" / "00002.jpg").read_bytes(), SPEC, pixels_max=10**6)
    np.testing.assert_array_equal(train.images_nhwc[6], third)


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_the_test_split_goes_by_three_names(tree: Path, name: str) -> None:
    (tree / "val").rename(tree / name)
    assert len(load(tree, "test").images_nhwc) == 6


def test_odd_pictures_are_read_and_bad_files_named(tree: Path) -> None:
    write_all(tree / "train" / "cat", {**usable_files(), **unusable_files(), **ignored_files()})
    train = load(tree)

    assert np.bincount(train.truth_n).tolist() == [4, 4 + len(usable_files()), 4]
    assert {skipped.file for skipped in train.skipped} == {f"cat/{name}" for name in unusable_files()}
    reasons = {skipped.file.removeprefix("cat/"): skipped.reason for skipped in train.skipped}
    assert reasons["empty.png"] == "the image file is empty"
    assert "more than the 100000000 pixels allowed" in reasons["bomb.png"]
    assert "cannot be decoded as one of PNG, JPEG, WEBP" in reasons["a text.jpg"]
    assert reasons["animated.gif"] == "a GIF file; PNG, JPEG and WebP are read"


def test_without_a_size_one_size_is_inferred(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            write_all(tmp_path / split / name, {"1.png": encode(paint(1, height=20, width=30, channels=1), "PNG")})
    assert load_dataset(f"folder:{tmp_path}", "train").images_nhwc.shape == (2, 20, 30, 1)

    write_all(tmp_path / "train" / "b", {"2.png": encode(paint(2, height=20, width=30), "PNG")})
    assert load_dataset(f"folder:{tmp_path}", "train").images_nhwc.shape == (3, 20, 30, 3)


def test_an_inferred_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    write_all(tmp_path / "train" / "a", {"turned.jpg": usable_files()["rotated by EXIF.jpg"]})
    assert load_dataset(f"folder:{tmp_path}", "train").images_nhwc.shape == (1, 120, 90, 3)


def test_without_a_size_several_sizes_are_refused_with_an_example(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"have 4 sizes, from 40x50 to 61x83; say which .* such as 64x64x3"):
        load_dataset(f"folder:{tree}", "train")


def test_an_empty_class_is_an_error_that_names_it(tree: Path) -> None:
    (tree / "train" / "empty").mkdir()
    (tree / "val" / "empty").mkdir()
    write_all(tree / "train" / "empty", {"a text.jpg": b"no"})
    with pytest.raises(ValueError, match=r"no readable picture in class 'empty' \(1 files skipped"):
        load(tree)


def test_classes_have_to_be_the_same_in_both_splits(tree: Path) -> None:
    (tree / "val" / "cat").rename(tree / "val" / "cats")
    with pytest.raises(ValueError, match="different classes: 'cat', 'cats' are in one of them only"):
        load(tree, "test")


def test_what_is_not_a_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DatasetUnavailable, match=r"has no train split: looked for .*train"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="has no folders; one per class is wanted"):
        load(tmp_path)


def test_exact_skips_the_pictures_of_other_sizes(tree: Path) -> None:
    write_all(tree / "train" / "cat", {"fits.png": encode(paint(9, height=48, width=64), "PNG")})
    with pytest.raises(ValueError, match=r"picture in class 'Dog', 'übrige' \(.*the first: .* pixels; .* exactly"):
        load_dataset(f"folder:{tree}", "train", size=SIZE, resize="exact")


def test_link_loops_and_links_out_of_the_folder_end(tmp_path: Path) -> None:
    root = tmp_path / "outer" / "pool"
    write_good_pictures(root / "nested", 3)
    write_good_pictures(tmp_path / "elsewhere", 2, seed=50)
    (root / "nested" / "loop").symlink_to(root)
    (root / "above").symlink_to(tmp_path)
    (root / "more").symlink_to(tmp_path / "elsewhere")
    (root / "more again").symlink_to(tmp_path / "elsewhere")
    (root / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")

    found, _ = find_pictures(root)
    read = read_pictures(found, root, SPEC)

    names = [path.relative_to(root).as_posix() for path in found]
    assert names == [
        "dangling.jpg",
        *(f"more/{number:05}.jpg" for number in range(2)),
        *(f"nested/{number:05}.jpg" for number in range(3)),
    ]
    assert [(skipped.file, skipped.reason) for skipped in read.skipped] == [
        ("dangling.jpg", "a link to nothing, or removed meanwhile")
    ]
    assert read.files.tolist() == [1, 2, 3, 4, 5]


def test_pipes_and_unprintable_names_are_survived(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "bell\a and \x1b[31mred.jpg").write_bytes(b"no")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin-\xe4.jpg"))).write_bytes(b"no")

    found, _ = find_pictures(tmp_path)
    skipped = {skipped.file: skipped.reason for skipped in read_pictures(found, tmp_path, SPEC).skipped}

    assert skipped["pipe.jpg"] == "it is not a regular file"
    assert set(skipped) == {"pipe.jpg", "bell\ufffd and \ufffd[31mred.jpg", "latin-\ufffd.jpg"}


@pytest.fixture
def forbidden_folder() -> Iterator[Path]:
    """A folder that everybody may enter, read as somebody who is not root, whom the system would refuse nothing."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    write_good_pictures(folder, 3)
    write_good_pictures(folder / "locked", 2, seed=9)
    (folder / "00000.jpg").chmod(0)
    (folder / "locked").chmod(0)
    if is_root:
        os.seteuid(65_534)
    yield folder
    if is_root:
        os.seteuid(0)
    (folder / "locked").chmod(0o755)
    shutil.rmtree(folder)


def test_files_and_folders_without_permission_are_named(forbidden_folder: Path) -> None:
    found, of_other_kinds = find_pictures(forbidden_folder)
    read = read_pictures(found, forbidden_folder, SPEC)
    assert [(skipped.file, skipped.reason) for skipped in (*of_other_kinds, *read.skipped)] == [
        ("locked", "cannot be read: Permission denied"),
        ("00000.jpg", "cannot be read: Permission denied"),
    ]
    assert read.files.tolist() == [1, 2]


def test_files_that_are_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_good_pictures(tmp_path, 1)
    monkeypatch.setattr(pictures, "FILE_BYTES_MAX", 100)
    found, _ = find_pictures(tmp_path)
    (skipped,) = read_pictures(found, tmp_path, SPEC).skipped
    assert "bytes, more than the 100 allowed" in skipped.reason


def test_order_does_not_depend_on_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_good_pictures(tmp_path, 30)
    found, _ = find_pictures(tmp_path)
    monkeypatch.setattr(pictures, "_FILES_PER_BLOCK", 7)
    read = read_pictures(found, tmp_path, SPEC).images_nhwc
    for path, image in zip(found, read, strict=True):
        np.testing.assert_array_equal(image, decode_image_file(path.read_bytes(), SPEC, pixels_max=10**6))


def test_many_images_are_mapped_from_an_unnamed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = allocate_images((10, 4, 4, 3), memory_bytes_max=100, folder=tmp_path)
    mapped[:] = np.arange(480, dtype=np.uint8).reshape(10, 4, 4, 3)
    assert isinstance(mapped, np.memmap)
    assert list(tmp_path.iterdir()) == []
    assert mapped[9, 3, 3, 2] == 479 - 256
    assert type(allocate_images((10, 4, 4, 3), memory_bytes_max=480)) is np.ndarray
    assert allocation.MEMORY_BYTES_MAX == 2**30


def test_published_sets_come_at_another_size_by_the_same_rule() -> None:
    own, larger = load_dataset("digits", "test"), load_dataset("digits", "test", size=(32, 40, 3), resize="stretch")

    assert larger.images_nhwc.shape == (450, 32, 40, 3)
    expected = Image.fromarray(own.images_nhwc[7, ..., 0]).convert("RGB").resize((40, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(larger.images_nhwc[7], np.asarray(expected))
    with pytest.raises(ValueError, match="28 x 28 pixels"):
        load_dataset("digits", "test", size=(32, 40, 3), resize="exact")


def test_tiny_imagenet_is_nowhere_to_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.datasets import published

    monkeypatch.setattr(published, "PROJECT", tmp_path / "project")
    monkeypatch.setattr(published, "DOWNLOAD_ROOT", tmp_path / "data")
    monkeypatch.delenv("DISTILL_DATA", raising=False)
    with pytest.raises(DatasetUnavailable, match=r"tinyimagenet10-test\.zip"):
        load_dataset("tinyimagenet10", "test")
