import numpy as np
import pytest
import torch

from distill_client.config import CvaeConfig
from distill_client.errors import ConfigError
from distill_client.randomness import torch_generator
from distill_client.synthesis import cvae as cvae_module
from distill_client.synthesis.cvae import train_cvae
from distill_client.synthesis.cvae_networks import Cvae, create_cvae
from distill_client.synthesis.epochs import Epochs

MLP = CvaeConfig(network="mlp", latent=2, epochs=40, batch_size=32, learning_rate=3e-3)


def generate(cvae: Cvae, z_nd: np.ndarray, classes_n: np.ndarray) -> np.ndarray:
    return np.concatenate(list(cvae_module.generate(cvae, z_nd, classes_n)))


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
    train_cvae(cvae, MLP, pool_nhwc, classes_n, generator, Epochs(epochs.append))
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


@pytest.mark.parametrize(
    ("image_hwc", "weights"),
    [
        ((64, 64, 3), 14_011_175),
        ((224, 224, 3), 22_400_807),
        ((64, 64, 1), 14_009_125),
        ((48, 90, 3), 0),
        ((33, 47, 1), 0),
        ((8, 120, 3), 0),
    ],
)
def test_conv_is_of_any_size_and_grows_with_the_stages_not_with_the_pixels(
    image_hwc: tuple[int, int, int], weights: int
) -> None:
    config = CvaeConfig(latent=2, epochs=1, batch_size=3)
    pool_nhwc = np.random.default_rng(0).integers(0, 256, (4, *image_hwc), np.uint8)
    generator = torch_generator(1, "cvae")
    cvae = create_cvae(config, image_hwc=image_hwc, classes=10, generator=generator)
    train_cvae(cvae, config, pool_nhwc, np.arange(4), generator)
    images = generate(cvae, np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32), np.arange(5))
    assert images.shape == (5, *image_hwc)
    assert images.dtype == np.uint8
    counted = sum(parameter.numel() for parameter in cvae.parameters())
    assert counted < 23_000_000
    assert weights in (0, counted)


@pytest.mark.parametrize("image_hwc", [(40, 56, 1)])
def test_conv_learns_to_draw_the_class_it_is_asked_for(image_hwc: tuple[int, int, int]) -> None:
    """Class 0 is bright on the left, class 1 on the right."""
    height, width, channels = image_hwc
    wanted = np.arange(32) % 2
    pool_nhwc = np.random.default_rng(0).integers(0, 40, (32, height, width, channels), np.uint8)
    pool_nhwc[wanted == 0, :, : width // 2] += 200
    pool_nhwc[wanted == 1, :, width // 2 :] += 200
    config = CvaeConfig(epochs=30, batch_size=16, learning_rate=2e-3)
    generator = torch_generator(1, "cvae")
    cvae = create_cvae(config, image_hwc=image_hwc, classes=2, generator=generator)
    train_cvae(cvae, config, pool_nhwc, wanted, generator)
    images = generate(cvae, np.random.default_rng(1).standard_normal((20, 2)).astype(np.float32), np.arange(20) % 2)
    left, right = images[:, :, : width // 2].mean(axis=(1, 2, 3)), images[:, :, width // 2 :].mean(axis=(1, 2, 3))
    assert np.mean((left < right) == (np.arange(20) % 2 == 1)) > 0.9


def test_auto_is_the_published_network_where_there_is_one() -> None:
    def names(network: str, side: int) -> list[str]:
        config = CvaeConfig.model_validate({"network": network})
        cvae = create_cvae(config, image_hwc=(side, side, 1), classes=10, generator=torch_generator(1, "x"))
        return [f"{name} {tuple(weights.shape)}" for name, weights in cvae.named_parameters()]

    assert names("auto", 28) == names("mlp", 28)
    assert names("auto", 32) == names("conv", 32)
    assert names("conv", 28) != names("mlp", 28)


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


@pytest.mark.parametrize(("network", "side"), [("mlp", 32), ("mlp", 224), ("conv", 7), ("auto", 7)])
def test_a_size_the_network_does_not_make_is_refused(network: str, side: int) -> None:
    config = CvaeConfig.model_validate({"network": network})
    with pytest.raises(
        ConfigError,
        match=rf"synthesis\.cvae\.network is '{network}'.*{side}x{side}.*'mlp' for 28x28 and 'conv' for .* 8x8",
    ):
        create_cvae(config, image_hwc=(side, side, 1), classes=10, generator=torch_generator(1, "cvae"))


def test_divergence_names_the_learning_rate() -> None:
    pool_nhwc, classes_n = two_kinds_of_images()
    config = MLP.model_copy(update={"learning_rate": 1e30})
    cvae = create_cvae(config, image_hwc=(28, 28, 1), classes=2, generator=torch_generator(1, "cvae"))
    with pytest.raises(ConfigError, match=r"synthesis\.cvae\.learning_rate is 1e\+30"):
        train_cvae(cvae, config, pool_nhwc, classes_n, torch_generator(1, "cvae"))


def test_a_batch_in_parts_has_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained_on(part_values: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(cvae_module, "_PART_VALUES", part_values)
        config = CvaeConfig(network="conv", epochs=2, batch_size=16)
        generator = torch_generator(1, "cvae")
        cvae = create_cvae(config, image_hwc=(28, 28, 1), classes=2, generator=generator)
        train_cvae(cvae, config, *two_kinds_of_images(32), generator)
        return cvae.state_dict()

    whole, parts = trained_on(16 * 28 * 28), trained_on(3 * 28 * 28)
    for name, weights in whole.items():
        torch.testing.assert_close(parts[name], weights, atol=1e-4, rtol=1e-3)
