"""Generative trainings that are killed and go on: they end with the very weights of one that was not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from distill_client.config import CvaeConfig, GanConfig
from distill_client.errors import OtherDevice, RunStoreError
from distill_client.randomness import torch_generator
from distill_client.synthesis.cvae import train_cvae
from distill_client.synthesis.cvae_networks import create_cvae
from distill_client.synthesis.epochs import UNSAVED, Epochs
from distill_client.synthesis.gan import train_gan
from distill_client.synthesis.gan_networks import create_gan

POOL_NHWC = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)
Trained = Callable[[Epochs], nn.Module]


def gan_after(epochs: Epochs) -> nn.Module:
    config = GanConfig(latent=4, width=8, epochs=5, batch_size=16, critic_steps=3)
    gan = create_gan(config, image_hwc=(28, 28, 1), rng=torch_generator(1, "weights"))
    train_gan(gan, config, POOL_NHWC, torch_generator(1, "training"), epochs)
    return gan


def cvae_after(epochs: Epochs) -> nn.Module:
    config = CvaeConfig(epochs=5, batch_size=16)
    cvae = create_cvae(config, image_hwc=(28, 28, 1), classes=10, generator=torch_generator(1, "weights"))
    train_cvae(cvae, config, POOL_NHWC, np.arange(40) % 10, torch_generator(1, "training"), epochs)
    return cvae


class Killed(BaseException):
    """Nothing may catch it."""


def kill_after(epoch: int) -> Callable[[int], None]:
    def heard(done: int) -> None:
        if done == epoch:
            raise Killed

    return heard


@pytest.mark.parametrize("trained", [gan_after, cvae_after])
@pytest.mark.parametrize("epoch", [1, 4])
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(
    trained: Trained, epoch: int, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoints" / "it.safetensors"
    heard: list[int] = []
    with pytest.raises(Killed):
        trained(Epochs(kill_after(epoch), path, every_s=0))
    resumed = trained(Epochs(heard.append, path, every_s=0)).state_dict()
    assert heard == list(range(epoch + 1, 6))
    for name, weights in trained(UNSAVED).state_dict().items():
        assert torch.equal(resumed[name], weights), name


def test_within_so_many_seconds_nothing_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    heard: list[int] = []
    gan_after(Epochs(heard.append, path, every_s=3600))
    assert heard == [1, 2, 3, 4, 5]
    assert not path.exists()


@pytest.mark.parametrize("damage", [lambda content: b"?", lambda content: content[:-100]], ids=["garbage", "cut off"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "it.safetensors"
    gan_after(Epochs(None, path, every_s=0))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        RunStoreError, match=r"it\.safetensors: the checkpoint is damaged .*remove it to train afresh"
    ):
        gan_after(Epochs(None, path))


def test_a_training_does_not_go_on_on_another_kind_of_device_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    gan_after(Epochs(None, path, every_s=0))
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata["device"] == "cpu"
    tensors["rng"] = torch.zeros(16, dtype=torch.uint8)  # a GPU's generator has so short a state
    save_file(tensors, path, metadata | {"device": "cuda"})
    with pytest.raises(OtherDevice, match=r"it\.safetensors: .* on cuda, .* now cpu; .*--device cuda, or remove"):
        gan_after(Epochs(None, path))


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    gan_after(Epochs(None, path, every_s=0))
    with pytest.raises(RunStoreError, match="the checkpoint is damaged"):
        cvae_after(Epochs(None, path))
