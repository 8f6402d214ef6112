import numpy as np
import pytest
import torch

from distill_client.config import CvaeConfig
from distill_client.errors import ConfigError
from distill_client.randomness import torch_generator
from distill_client.synthesis.cvae import Cvae, create_cvae, generate, train_cvae

MLP = CvaeConfig(network="mlp", latent=2, epochs=40, batch_size=32, learning_rate=3e-3)


def two_kinds_of_images(images: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Class 0 is bright on the left, class 1 on the right, with some noise."""
    rng = np.random.default_rng(0)
    classes_n = np.arange(images) % 2
    pool_nhwc = rng.integers(0, 40, size=(images, 28, 28, 1), dtype=np.uint8)
    pool_nhwc[classes_n == 0, :, :14] += 200
    pool_nhwc[classes_n == 1, :, 14:] += 200
    return pool_nhwc, classes_n


def trained(seed: int) -> Cvae:
    pool_nhwc, classes_n = two_kinds_of_images()
    generator = torch_generator(seed, "cvae")
    cvae = create_cvae(MLP, image_hwc=(28, 28, 1), classes=2, generator=generator)
    train_cvae(cvae, MLP, pool_nhwc, classes_n, generator)
    return cvae


def test_mlp_learns_to_draw_the_class_it_is_asked_for() -> None:
    epochs: list[int] = []
    pool_nhwc, classes_n = two_kinds_of_images()
    generator = torch_generator(1, "cvae")
    cvae = create_cvae(MLP, image_hwc=(28, 28, 1), classes=2, generator=generator)
    train_cvae(cvae, MLP, pool_nhwc, classes_n, generator, epochs.append)
    assert epochs == list(range(1, 41))

    wanted = np.arange(60) % 2
    z = np.random.default_rng(1).standard_normal((60, 2)).astype(np.float32)
    images = generate(cvae, z, wanted)
    assert images.shape == (60, 28, 28, 1)
    assert images.dtype == np.uint8
    left, right = images[:, :, :14].mean(axis=(1, 2, 3)), images[:, :, 14:].mean(axis=(1, 2, 3))
    assert np.mean((left < right) == (wanted == 1)) > 0.9


def test_equal_seeds_make_equal_images_and_a_state_dict_brings_them_back() -> None:
    z = np.random.default_rng(1).standard_normal((300, 2)).astype(np.float32)
    conditions = np.arange(300) % 2
    one, same = trained(3), trained(3)
    images = generate(one, z, conditions)
    assert np.array_equal(images, generate(same, z, conditions))
    reloaded = create_cvae(MLP, image_hwc=(28, 28, 1), classes=2, generator=torch_generator(9, "other"))
    assert not np.array_equal(images, generate(reloaded, z, conditions))
    reloaded.load_state_dict(one.state_dict())
    assert np.array_equal(images, generate(reloaded, z, conditions))


@pytest.mark.parametrize("channels", [1, 3])
def test_conv_trains_and_draws_32x32(channels: int) -> None:
    config = CvaeConfig(network="conv", latent=2, epochs=1, batch_size=4)
    pool_nhwc = np.random.default_rng(0).integers(0, 256, size=(8, 32, 32, channels), dtype=np.uint8)
    generator = torch_generator(1, "cvae")
    cvae = create_cvae(config, image_hwc=(32, 32, channels), classes=10, generator=generator)
    train_cvae(cvae, config, pool_nhwc, np.arange(8), generator)
    assert generate(cvae, np.zeros((3, 2), np.float32), np.arange(3)).shape == (3, 32, 32, channels)


def test_published_sizes() -> None:
    def parameters(network: str, side: int, channels: int) -> dict[str, int]:
        config = CvaeConfig.model_validate({"network": network})
        cvae = create_cvae(config, image_hwc=(side, side, channels), classes=10, generator=torch_generator(1, "x"))
        return {name: weights.numel() for name, weights in cvae.named_parameters()}

    mlp = parameters("mlp", 28, 1)
    assert mlp["encoder.0.weight"] == 794 * 256
    assert mlp["decoder.6.weight"] == 256 * 784
    assert max(parameters("conv", 32, 3).values()) == 12_288 * 3_072  # method.md: 37.75 M weights in that layer


def test_glorot_initialisation() -> None:
    cvae = create_cvae(MLP, image_hwc=(28, 28, 1), classes=10, generator=torch_generator(1, "cvae"))
    first = cvae.state_dict()["encoder.0.weight"]
    bound = (6 / (794 + 256)) ** 0.5
    assert bound * 0.99 < float(first.abs().max()) <= bound
    assert not torch.any(cvae.state_dict()["encoder.0.bias"])


@pytest.mark.parametrize(("network", "side"), [("mlp", 32), ("conv", 28)])
def test_a_size_the_network_does_not_make_is_refused(network: str, side: int) -> None:
    config = CvaeConfig.model_validate({"network": network})
    with pytest.raises(
        ConfigError, match=rf"synthesis\.cvae\.network is '{network}'.*{side}x{side}.*'mlp' for 28x28"
    ):
        create_cvae(config, image_hwc=(side, side, 1), classes=10, generator=torch_generator(1, "cvae"))


def test_divergence_names_the_learning_rate() -> None:
    pool_nhwc, classes_n = two_kinds_of_images()
    config = MLP.model_copy(update={"learning_rate": 1e30})
    cvae = create_cvae(config, image_hwc=(28, 28, 1), classes=2, generator=torch_generator(1, "cvae"))
    with pytest.raises(ConfigError, match=r"synthesis\.cvae\.learning_rate is 1e\+30"):
        train_cvae(cvae, config, pool_nhwc, classes_n, torch_generator(1, "cvae"))
