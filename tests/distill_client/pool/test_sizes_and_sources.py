"""The size that pictures are brought to, and what an experiment says of its pool."""

from pathlib import Path

import numpy as np
import pytest

from distill_client.config import RunConfig, load_config
from distill_client.errors import ConfigError
from distill_client.material import Material, check_card
from tests.distill_client.fakes import FakeTeacher, tiny_config
from tests.distill_client.pool.support import config_of, teacher


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


def test_a_data_set_of_other_classes_is_a_pool_without_its_labels() -> None:
    pool: dict[str, object] = {"dataset": "digits", "labels": "ignore"}
    config = config_of(pool, student={"network": "alexnet-half"})
    assert not config.pool.balanced
    assert not config.baselines.student_alone
    card = teacher(image_hwc=(32, 32, 3), class_names=tuple("abcdefghij")).card()
    material = Material(config, card)
    assert material.pool.truth_n is None
    assert material.pool.class_names == tuple("abcdefghij")
    assert material.pool.images_nhwc.shape == (20, 32, 32, 3)
    assert material.pool.place == "digits (train)"
    assert np.array_equal(material.pool.images_nhwc[..., 0], material.pool.images_nhwc[..., 2])
    check_card(config, card, material.pool)
    with pytest.raises(ConfigError, match=r"pool\.size is not given and pool\.dataset is digits"):
        Material(config)
    with pytest.raises(ValueError, match="balanced is true, and its labels are not read; leave it out"):
        config_of({**pool, "balanced": True})
    with pytest.raises(ValueError, match=r"is used without its labels; leave it out, or leave out pool\.labels"):
        config_of(pool, baselines={"student_alone": True})


def test_labels_that_are_used_must_be_the_teachers() -> None:
    card = teacher(class_names=tuple("abcdefghij")).card()
    config = config_of({"dataset": "digits"})
    with pytest.raises(ConfigError, match=r"with classes .*; teacher fake answers in .*; pool\.labels = 'ignore'"):
        check_card(config, card, Material(config, card).pool)


@pytest.mark.parametrize("pool", ["", 'folder = "a"\nfile = "b.npz"', 'dataset = "digits"\nfolder = "a"'])
def test_a_pool_has_exactly_one_source(tmp_path: Path, pool: str) -> None:
    with pytest.raises(ConfigError, match="give exactly one of dataset, folder and file"):
        load(tmp_path, pool)


@pytest.mark.parametrize("size", ["64", "64x64", "64x64x4", "0x64x3", "64 x 64 x 3", "99999x1x1", "-1x1x1"])
def test_a_size_is_height_width_and_channels(tmp_path: Path, size: str) -> None:
    with pytest.raises(ConfigError, match=r"pool\.size: .*given"):
        load(tmp_path, f'folder = "a"\nsize = "{size}"')
