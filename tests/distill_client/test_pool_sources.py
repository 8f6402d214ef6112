"""Pools of the user's own pictures: what is used, what is passed over, and what a resumption works with."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill_client import pool as pool_package
from distill_client.config import RunConfig, load_config
from distill_client.errors import ConfigError, RunStoreError
from distill_client.material import Material, check_card
from distill_client.pipeline import run
from distill_client.pool import candidates
from distill_client.report.reading import describe_reading
from distill_client.run_folder import open_run
from shared.wire.contracts import InputSpec
from shared.wire.image_files import decode_image_file
from shared.wire.images import image_digests
from tests.distill_client.fakes import FakeTeacher, SilentReporter, begin, tiny_config
from tests.shared.odd_pictures import (
    encode,
    ignored_files,
    paint,
    unusable_files,
    usable_files,
    write_all,
    write_good_pictures,
)

SPEC = InputSpec(height=28, width=28, channels=1, resize="crop")
CPU = torch.device("cpu")


def teacher(**changes: Any) -> FakeTeacher:
    return FakeTeacher(resize="crop", **changes)


def config_of(pool: dict[str, Any], **changes: Any) -> RunConfig:
    """Like tiny_config, of a pool without labels."""
    content = tiny_config(**changes).model_dump(mode="json", exclude_none=True)
    content["pool"] = {"images": 20, **pool}
    content["evaluation"] = {"held_out_fraction": 0.1, **changes.get("evaluation", {})}
    content["baselines"] = changes.get("baselines", {})
    content["synthesis"]["images"] = 30
    return RunConfig.model_validate(content)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Good ones, odd ones, bad ones, in nested folders."""
    folder = tmp_path / "my pictures"
    write_good_pictures(folder / "holiday" / "2024", 15)
    write_all(folder, {**usable_files(), **unusable_files(), **ignored_files()})
    same = paint(200)
    write_all(folder, {"one.png": encode(same, "PNG"), "the same again.webp": encode(same, "WEBP", lossless=True)})
    write_all(folder, {"1x1.png": encode(paint(201, height=1, width=1), "PNG")})
    return folder


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


def npz(path: Path, **arrays: NDArray[Any]) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 1), (40, 30, 3)])
def test_an_npz_is_brought_to_the_input_by_the_same_rule(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images = np.stack([np.asarray(paint(seed, height=40, width=30)) for seed in range(22)])
    images = images if shape[2:] == (3,) else images[..., :1].reshape(22, *shape)
    path = npz(tmp_path / "images.npz", images=images, other=rng.random(3))
    material = Material(config_of({"file": str(path)}), teacher().card())

    assert material.pool.usable == 22
    row = int(material.pool.files[4].removeprefix("images[").removesuffix("]"))
    as_file = encode(paint(row, height=40, width=30), "PNG")
    if shape[2:] == (3,):
        np.testing.assert_array_equal(
            material.pool.images_nhwc[4], decode_image_file(as_file, SPEC, pixels_max=10**6)
        )


def objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def header_only(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def saved(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "no zip": (b"not a zip", "not an .npz file, or a damaged one"),
    "nothing": (b"", "not an .npz file, or a damaged one"),
    "truncated": (zipped(images=saved(np.zeros((5, 8, 8), np.uint8)))[:-60], "not an .npz file, or a damaged one"),
    "another name": (zipped(x=saved(np.zeros((5, 8, 8), np.uint8))), "holds no array named 'images', but x"),
    "objects": (zipped(images=objects()), "pickled arrays are never read"),
    "floats": (zipped(images=saved(np.zeros((5, 8, 8, 3), np.float32))), "its images are float32; allowed is uint8"),
    "two dimensions": (zipped(images=saved(np.zeros((5, 8), np.uint8))), r"shape \(5, 8\); allowed are"),
    "four channels": (zipped(images=saved(np.zeros((5, 8, 8, 4), np.uint8))), r"shape \(5, 8, 8, 4\); allowed are"),
    "no images": (zipped(images=saved(np.zeros((0, 8, 8, 3), np.uint8))), r"shape \(0, 8, 8, 3\); allowed are"),
    "a header that lies": (zipped(images=header_only("(99999999, 999, 999, 3)")), "the body holds 0"),
    "Fortran order": (zipped(images=saved(np.asfortranarray(np.ones((5, 8, 8), np.uint8)))), "Fortran order"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_npz_files_are_refused_with_what_is_wrong(tmp_path: Path, kind: str) -> None:
    content, message = BAD_FILES[kind]
    path = tmp_path / "images.npz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"pool\.file is .*images\.npz: .*{message}"):
        Material(config_of({"file": str(path)}), teacher().card())


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_npz_is_refused_however_it_is_compressed(tmp_path: Path, compression: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)
    buffer, path = io.BytesIO(), tmp_path / "images.npz"
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("images.npy", saved(images))
    content = bytearray(buffer.getvalue())
    content[50:300] = b"\xaa" * 250
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"pool\.file is .*images\.npz: it (is not an .npz file, or a|cannot be r)"):
        Material(config_of({"file": str(path)}), teacher().card())


def test_an_npz_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_UNPACKED_BYTES_MAX", 100_000)
    path = npz(tmp_path / "images.npz", images=np.zeros((200, 28, 28, 1), np.uint8))
    assert path.stat().st_size < 2_000
    with pytest.raises(ConfigError, match="unpack to 156928 bytes; allowed are 100000"):
        Material(config_of({"file": str(path)}), teacher().card())
    with pytest.raises(ConfigError, match="it cannot be read: No such file"):
        Material(config_of({"file": str(tmp_path / "none.npz")}), teacher().card())


def test_without_a_teacher_the_size_has_to_be_said(pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"pool\.size is not given and pool\.folder is .*, such as pool\.size = "):
        Material(config_of({"folder": str(pictures)}))
    material = Material(config_of({"folder": str(pictures), "size": "28x28x1"}))
    with_teacher = Material(config_of({"folder": str(pictures), "size": "28x28x1"}), teacher().card())
    assert material.cost == with_teacher.cost
    assert np.array_equal(material.pool.images_nhwc, with_teacher.pool.images_nhwc)


def test_size_and_rule_are_checked_against_the_teachers(pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"pool\.size is 64x64x3; teacher fake takes 28x28x1"):
        Material(config_of({"folder": str(pictures), "size": "64x64x3"}), teacher().card())
    with pytest.raises(ConfigError, match=r"pool\.resize is 'stretch'; teacher fake .* by 'crop'"):
        Material(config_of({"folder": str(pictures), "resize": "stretch"}), teacher().card())


def test_a_published_set_comes_at_another_size_only_when_that_is_said() -> None:
    network = {"network": "alexnet-half"}
    with pytest.raises(ConfigError, match="alexnet-half is defined for 32x32 images, not 28x28"):
        Material(tiny_config(student=network), teacher(image_hwc=(32, 32, 3)).card())
    material = Material(tiny_config(student=network, pool={"size": "32x32x3"}), teacher(image_hwc=(32, 32, 3)).card())
    assert material.pool.images_nhwc.shape == (40, 32, 32, 3)
    assert material.test is not None
    assert material.test.images_nhwc.shape == (450, 32, 32, 3)


def test_a_teacher_that_resizes_nothing_leaves_the_rule_to_the_client(pictures: Path) -> None:
    exact = FakeTeacher(resize="exact")
    with pytest.raises(ConfigError, match="this teacher takes 28 x 28 exactly"):
        Material(config_of({"folder": str(pictures)}), exact.card())
    chosen = Material(config_of({"folder": str(pictures), "resize": "crop"}), exact.card())
    by_teacher = Material(config_of({"folder": str(pictures)}), teacher().card())
    assert np.array_equal(chosen.pool.images_nhwc, by_teacher.pool.images_nhwc)


def test_a_run_without_labels_or_test_set_ends_with_agreement_alone(pictures: Path, tmp_path: Path) -> None:
    config, seller, path = config_of({"folder": str(pictures)}), teacher(), tmp_path / "run"
    material = Material(config, seller.card())
    begin(path, config, seller, keep=material.keep)
    with open_run(path) as folder:
        summary = run(folder, material, seller, SilentReporter(), CPU)
    assert summary["images"]["planned"] == summary["images"]["charged_by_server"] == 50
    assert summary["student_accuracy"] is None
    assert summary["test_dataset"] is None
    assert summary["baselines"] == {"student_alone": None, "standard_kd": None}
    assert summary["agreement_images"] == 5
    assert 0 <= summary["agreement"] <= 1
    assert 0 <= summary["standard_kd_agreement"] <= 1
    card = json.loads((path / "student" / "card.json").read_text())
    assert card["input"]["resize"] == "crop"
    assert "aspect ratio kept" in card["preprocessing"]
    json.dumps(summary, allow_nan=False)


def test_a_resumption_needs_neither_the_pictures_nor_that_they_are_unchanged(pictures: Path, tmp_path: Path) -> None:
    config, seller, path = config_of({"folder": str(pictures)}), teacher(fails_before={3}), tmp_path / "run"
    material = Material(config, seller.card())
    begin(path, config, seller, keep=material.keep)
    with open_run(path) as folder, pytest.raises(Exception, match="call 3 is lost"):
        run(folder, material, seller, SilentReporter(), CPU)
    shutil.rmtree(pictures)
    with open_run(path) as folder:
        again = Material.of_run(folder)
        assert np.array_equal(again.pool.images_nhwc, material.pool.images_nhwc)
        assert (again.pool.files, again.pool.skipped) == (material.pool.files, material.pool.skipped)
        summary = run(folder, again, seller, SilentReporter(), CPU)
    assert summary["audit"]["equal"]
    assert seller.spent == 50


@pytest.mark.parametrize(
    ("file", "content"), [("pool.npy", b"x"), ("pool.npy", None), ("pool.json", b"{}"), ("pool.npy", "another")]
)
def test_a_kept_pool_that_is_damaged_is_refused(
    pictures: Path, tmp_path: Path, file: str, content: bytes | str | None
) -> None:
    config, seller, path = config_of({"folder": str(pictures)}), teacher(), tmp_path / "run"
    material = Material(config, seller.card())
    begin(path, config, seller, keep=material.keep)
    if content is None:
        (path / file).unlink()
    elif content == "another":
        np.save(path / file, material.pool.images_nhwc[::-1])
    else:
        assert isinstance(content, bytes)
        (path / file).write_bytes(content)
    with pytest.raises(RunStoreError, match="the kept pool cannot be read"):
        Material.of_run(open_run(path))


def test_a_test_set_that_changed_is_noticed_before_anything_is_bought(pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("0", "1"):
        write_good_pictures(tree / "test" / name, 3, seed=1000 + int(name))
    config = config_of({"folder": str(pictures)}, evaluation={"dataset": f"folder:{tree}"})
    seller, path = teacher(class_names=("0", "1")), tmp_path / "run"
    begin(path, config, seller, keep=Material(config, seller.card()).keep)
    Material.of_run(open_run(path))
    (tree / "test" / "1" / "00002.jpg").unlink()
    with pytest.raises(RunStoreError, match=r"evaluation\.dataset folder:.* has changed since the run began"):
        Material.of_run(open_run(path))


def test_large_pools_are_mapped_from_the_run_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = Material(config_of({"folder": str(pictures)}), teacher().card())
    (tmp_path / "run").mkdir()
    material.keep(tmp_path / "run")
    monkeypatch.setattr("distill_client.pool.keeping.MEMORY_BYTES_MAX", 1000)
    kept = pool_package.read_kept_pool(tmp_path / "run")
    assert kept is not None
    assert isinstance(kept[0].images_nhwc, np.memmap)
    assert np.array_equal(kept[0].images_nhwc, material.pool.images_nhwc)


TOML = """
name = "own"
seed = 1
budget_images = 50
teacher.name = "fake"
synthesis.images = 30
student.network = "lenet5-half"
training.steps = 20
[pool]
images = 20
{pool}
"""


def load(tmp_path: Path, pool: str, *, more: str = "") -> RunConfig:
    (tmp_path / "experiments").mkdir(exist_ok=True)
    path = tmp_path / "experiments" / "own.toml"
    path.write_text(TOML.format(pool=pool) + more)
    return load_config(path)


def test_paths_are_below_the_experiments_own_folder(tmp_path: Path) -> None:
    below = tmp_path / "experiments"
    assert load(tmp_path, 'folder = "pictures"').pool.folder == below / "pictures"
    assert load(tmp_path, 'file = "../x.npz"').pool.file == below / ".." / "x.npz"
    assert load(tmp_path, 'folder = "/pictures"').pool.folder == Path("/pictures")
    assert load(tmp_path, 'folder = "~/pictures"').pool.folder == Path.home() / "pictures"
    config = load(tmp_path, 'dataset = "folder:tree"', more='[evaluation]\ndataset = "folder:tree"')
    assert config.pool.dataset == config.evaluation.dataset == f"folder:{below / 'tree'}"
    assert load(tmp_path, 'dataset = "digits"').pool.dataset == "digits"


def test_a_pool_without_labels_has_no_balance_and_no_student_alone(tmp_path: Path) -> None:
    config = load(tmp_path, 'folder = "pictures"')
    assert not config.pool.balanced
    assert not config.baselines.student_alone
    assert config.baselines.standard_kd
    assert config.evaluation.dataset is None
    with pytest.raises(ConfigError, match=r"baselines\.student_alone is true .* has no labels to learn from"):
        load(tmp_path, 'folder = "pictures"', more="[baselines]\nstudent_alone = true")
    with pytest.raises(ConfigError, match=r"pool: .*balanced is true, and a folder or file has no labels"):
        load(tmp_path, 'folder = "pictures"\nbalanced = true')
    with pytest.raises(ConfigError, match=r"evaluation: .*nothing could be measured"):
        load(tmp_path, 'folder = "pictures"', more="[evaluation]\nheld_out_fraction = 0.0")


@pytest.mark.parametrize("pool", ["", 'folder = "a"\nfile = "b.npz"', 'dataset = "digits"\nfolder = "a"'])
def test_a_pool_has_exactly_one_source(tmp_path: Path, pool: str) -> None:
    with pytest.raises(ConfigError, match="give exactly one of dataset, folder and file"):
        load(tmp_path, pool)


@pytest.mark.parametrize("size", ["64", "64x64", "64x64x4", "0x64x3", "64 x 64 x 3", "99999x1x1", "-1x1x1"])
def test_a_size_is_height_width_and_channels(tmp_path: Path, size: str) -> None:
    with pytest.raises(ConfigError, match=r"pool\.size: .*given"):
        load(tmp_path, f'folder = "a"\nsize = "{size}"')
