"""What a run keeps of its pool, so that its pictures may go: resumed, damaged, mapped."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_client import pool as pool_package
from distill_client.errors import RunStoreError
from distill_client.material import Material
from distill_client.pipeline import run
from distill_client.run_folder import open_run
from tests.distill_client.fakes import SilentReporter, begin
from tests.distill_client.pool.support import config_of, teacher
from tests.shared.odd_pictures import (
    write_good_pictures,
)

CPU = torch.device("cpu")


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
