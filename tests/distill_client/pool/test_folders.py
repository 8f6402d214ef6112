"""Pools from folders of pictures: every usable one once, the others named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from distill_client import pool as pool_package
from distill_client.errors import ConfigError
from distill_client.material import Material, check_card
from distill_client.report.reading import describe_reading
from shared.wire.image_files import decode_image_file
from shared.wire.images import image_digests
from tests.distill_client.pool.support import SPEC, config_of, teacher
from tests.shared.odd_pictures import (
    encode,
    paint,
    unusable_files,
    usable_files,
    write_all,
    write_good_pictures,
)


def test_a_folder_gives_every_usable_picture_once_and_names_the_rest(pictures: Path) -> None:
    material = Material(config_of({"folder": str(pictures)}), teacher().card())
    pool = material.pool

    assert pool.images_nhwc.shape == (20, 28, 28, 1)
    assert pool.usable == 15 + len(usable_files())  # with one of the two that are the same, without the single row
    assert pool.truth_n is None
    assert pool.class_names == tuple("0123456789")
    reasons = {skipped.file: skipped.reason for skipped in pool.skipped}
    assert set(reasons) == {*unusable_files(), "the same again.webp", "1x1.png", "one row.png"}
    assert reasons["the same again.webp"] == "at the teacher's input the same as one.png"
    assert "a single colour" in reasons["1x1.png"]
    for file, image in zip(pool.files, pool.images_nhwc, strict=True):
        decoded = decode_image_file((pictures / file).read_bytes(), SPEC, pixels_max=10**8)
        np.testing.assert_array_equal(image, decoded, err_msg=file)
    assert len(set(image_digests(pool.images_nhwc))) == 20


def test_what_was_read_is_told(pictures: Path) -> None:
    material = Material(config_of({"folder": str(pictures)}), teacher().card())
    lines = describe_reading(material.pool, material.test)
    assert lines[0] == f"pool: 20 of 29 usable pictures in {pictures}"
    assert "  skipped empty.png: the image file is empty" in lines
    assert len(lines) == 1 + len(material.pool.skipped)


def test_names_that_no_text_can_hold_are_kept_as_far_as_they_go(tmp_path: Path) -> None:
    """A name in Latin-1, and one that would colour the terminal red."""
    folder = tmp_path / "pictures"
    write_good_pictures(folder, 18)
    for name, seed in ((b"\xe4pfel.png", 300), (b"\x1b[31mred.png", 301)):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(encode(paint(seed), "PNG"))
    material = Material(config_of({"folder": str(folder)}), teacher().card())
    (tmp_path / "run").mkdir()
    material.keep(tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "pool.json").read_text(encoding="utf-8"))
    assert {"\ufffdpfel.png", "\ufffd[31mred.png"} <= set(kept["files"])
    found = pool_package.read_kept_pool(tmp_path / "run")
    assert found is not None
    assert found[0].files == material.pool.files


def test_long_lists_of_bad_files_are_cut_on_the_terminal_only(tmp_path: Path) -> None:
    write_good_pictures(tmp_path, 25)
    write_all(tmp_path, {f"bad-{number:03}.jpg": b"no" for number in range(100)})
    material = Material(config_of({"folder": str(tmp_path)}), teacher().card())
    lines = describe_reading(material.pool, None)
    assert len(lines) == 22
    assert lines[-1] == "  ... and 80 more; a run keeps the whole list in its pool.json"
    (tmp_path / "run").mkdir()
    material.keep(tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / "pool.json").read_text())["skipped"]) == 100


def test_too_few_usable_pictures_is_an_error_with_both_numbers(pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"pool\.images is 31; at most 29 are to be had: .*; 11 skipped: .* more"):
        Material(config_of({"folder": str(pictures), "images": 31}), teacher().card())


@pytest.mark.parametrize("what", ["missing", "empty", "a file"])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    elif what == "a file":
        folder.write_text("no folder")
    with pytest.raises(
        ConfigError, match=r"at most 0 are to be had" if what == "empty" else "there is no such folder"
    ):
        Material(config_of({"folder": str(folder)}), teacher().card())


def test_pictures_of_the_test_set_are_kept_out_of_the_pool(tmp_path: Path) -> None:
    """Also when a tree is given as an unlabelled folder, training and test split and all."""
    for label in "01":
        write_good_pictures(tmp_path / "train" / label, 11, seed=100 * int(label))
        write_good_pictures(tmp_path / "test" / label, 4, seed=100 * int(label) + 50)
    config = config_of({"folder": str(tmp_path)}, evaluation={"dataset": f"folder:{tmp_path}"})
    material = Material(config, teacher(class_names=("0", "1")).card())

    assert material.pool.usable == 22
    assert all(file.startswith("train/") for file in material.pool.files)
    assert {skipped.reason for skipped in material.pool.skipped} == {"it is in the test set, which is never sent"}
    assert material.test is not None
    assert len(material.test.images_nhwc) == 8


def test_a_tree_as_a_labelled_pool_takes_truth_by_name_from_the_teachers_classes(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        write_good_pictures(tmp_path / "train" / name, 12, seed=ord(name[0]))
        write_good_pictures(tmp_path / "test" / name, 3, seed=1000 + ord(name[0]))
    source = f"folder:{tmp_path}"
    config = config_of({"dataset": source}, evaluation={"dataset": source})
    material = Material(config, teacher(class_names=("bee", "ant")).card())  # another order than the sorted one

    assert config.baselines.student_alone
    assert config.pool.balanced
    assert material.pool.class_names == ("bee", "ant")
    assert material.pool.truth_n is not None
    assert np.bincount(material.pool.truth_n).tolist() == [10, 10]
    ants = [tmp_path / "train" / "ant" / f"{number:05}.jpg" for number in range(12)]
    of_ants = set(
        image_digests(np.stack([decode_image_file(path.read_bytes(), SPEC, pixels_max=10**6) for path in ants]))
    )
    for digest, label in zip(image_digests(material.pool.images_nhwc), material.pool.truth_n, strict=True):
        assert (digest in of_ants) == (label == 1)
    assert material.test is not None
    assert material.test.truth_n.tolist() == [1] * 3 + [0] * 3

    other = teacher(class_names=("bee", "wasp"))
    with pytest.raises(ConfigError, match="answers in"):
        check_card(config, other.card(), Material(config).pool if config.pool.size else material.pool)
    with pytest.raises(ConfigError, match="'ant' is not one of theirs"):
        Material(config_of({"folder": str(tmp_path)}, evaluation={"dataset": source}), other.card())
