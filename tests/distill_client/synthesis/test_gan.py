import numpy as np
import pytest
import torch
from torch import nn

from distill_client.config import GanConfig
from distill_client.errors import ConfigError
from distill_client.randomness import torch_generator
from distill_client.synthesis import gan as gan_module
from distill_client.synthesis.gan import candidates_per_block, generate_candidates, train_gan
from distill_client.synthesis.gan_networks import Gan, create_gan

TINY = GanConfig(latent=4, width=8, epochs=25, batch_size=16, learning_rate=2e-3, critic_steps=2)
SIDE = 12


def pool_of_bars(images: int = 64) -> np.ndarray:
    """Half of them bright on the left, half on the right, nowhere both."""
    pool_nhwc = np.random.default_rng(0).integers(0, 20, (images, SIDE, SIDE, 1), np.uint8)
    pool_nhwc[: images // 2, :, :3] += 220
    pool_nhwc[images // 2 :, :, -3:] += 220
    return pool_nhwc


def fresh(config: GanConfig = TINY, image_hwc: tuple[int, int, int] = (SIDE, SIDE, 1), seed: int = 1) -> Gan:
    return create_gan(config, image_hwc=image_hwc, rng=torch_generator(seed, "weights"))


def trained(config: GanConfig, pool_nhwc: np.ndarray, seed: int = 1) -> Gan:
    gan = fresh(config, seed=seed)
    train_gan(gan, config, pool_nhwc, torch_generator(seed, "training"))
    return gan


@pytest.mark.parametrize(
    ("image_hwc", "first"),
    [
        ((28, 28, 1), (256, 7, 7)),
        ((32, 32, 3), (256, 8, 8)),
        ((64, 64, 3), (256, 8, 8)),
        ((33, 47, 1), (256, 4, 5)),
        ((8, 8, 1), (256, 8, 8)),
        ((5, 9, 3), (256, 5, 9)),
    ],
)
def test_networks_are_of_any_size_and_as_published_where_there_is_one(
    image_hwc: tuple[int, int, int], first: tuple[int, int, int]
) -> None:
    gan = fresh(GanConfig(width=256), image_hwc)
    assert gan.generator[1].unflattened_size == first
    height, width, channels = image_hwc
    with torch.no_grad():
        images_nchw = gan.generator(torch.randn(3, 200))
        scores = gan.critic(images_nchw)
    assert images_nchw.shape == (3, channels, height, width)
    assert 0 <= float(images_nchw.min()) < float(images_nchw.max()) <= 1
    assert scores.shape == (3, 1)


def test_published_widths() -> None:
    """DivBFKD's code: 256 channels in the first stage, then halved; the critic the other way round."""
    gan = fresh(GanConfig(width=256), (32, 32, 3))
    convolutions = [
        [(layer.in_channels, layer.out_channels) for layer in network if isinstance(layer, nn.Conv2d)]
        for network in (gan.generator, gan.critic)
    ]
    assert convolutions == [[(256, 256), (256, 128), (128, 3)], [(3, 128), (128, 256)]]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in gan.critic)


def test_it_learns_to_draw_what_is_in_the_pool_and_both_kinds_of_it() -> None:
    images = generate_candidates(trained(TINY, pool_of_bars()), 1, 0).astype(np.float64)
    left, right = images[:, :, :3].mean(axis=(1, 2, 3)), images[:, :, -3:].mean(axis=(1, 2, 3))
    middle = images[:, :, 4:8].mean(axis=(1, 2, 3))
    is_left, is_right = (left > 150) & (right < 100), (right > 150) & (left < 100)
    assert is_left.mean() > 0.1
    assert is_right.mean() > 0.1
    assert middle.mean() < 60


def test_the_critics_loss_is_wgan_gps() -> None:
    """Of a linear critic, whose gradient is its weights everywhere."""
    config, gan = GanConfig(gradient_penalty=10.0, latent=4, width=8), fresh()
    linear = nn.Linear(SIDE * SIDE, 1, bias=False)
    gan.critic = nn.Sequential(nn.Flatten(), linear)
    nn.init.constant_(linear.weight, 0.25)  # 144 weights of 1/4 have the norm 3
    real_nchw = torch.rand(6, 1, SIDE, SIDE, generator=torch_generator(2, "real"))
    gan.train()
    with torch.no_grad():
        fake_nchw = gan.generator(torch.randn(6, 4, generator=torch_generator(3, "loss")))
    loss = gan_module._critic_loss(gan, real_nchw, config, torch_generator(3, "loss"))
    expected = 0.25 * (fake_nchw.sum() - real_nchw.sum()) / 6 + 10 * (3 - 1) ** 2
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("critic_steps", "is_taught"), [(4, True), (5, False)])
def test_the_generator_learns_once_in_so_many_steps_of_the_critic_also_across_epochs(
    critic_steps: int, is_taught: bool
) -> None:
    config = TINY.model_copy(update={"epochs": 2, "critic_steps": critic_steps})
    before, after = fresh(config).state_dict(), trained(config, pool_of_bars(32)).state_dict()  # two steps an epoch
    assert torch.equal(before["generator.0.weight"], after["generator.0.weight"]) != is_taught
    assert not torch.equal(before["critic.0.weight"], after["critic.0.weight"])


def test_equal_seeds_make_equal_candidates_whichever_block_is_asked_for_first() -> None:
    config = TINY.model_copy(update={"epochs": 2})
    one, same, other = (trained(config, pool_of_bars(), seed) for seed in (3, 3, 4))
    second, first = generate_candidates(one, 3, 1), generate_candidates(one, 3, 0)
    assert first.shape == (candidates_per_block(one.image_chw), SIDE, SIDE, 1)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert np.array_equal(first, generate_candidates(same, 3, 0))
    assert np.array_equal(second, generate_candidates(same, 3, 1))
    assert not np.array_equal(first, generate_candidates(other, 3, 0))


def test_a_block_of_large_images_is_small() -> None:
    assert candidates_per_block((1, 28, 28)) == 1024
    assert candidates_per_block((3, 224, 224)) == 27
    assert candidates_per_block((3, 4000, 4000)) == 1


def test_divergence_names_the_learning_rate() -> None:
    with pytest.raises(ConfigError, match=r"synthesis\.gan\.learning_rate is 1e\+30; the training diverged in epoch"):
        trained(TINY.model_copy(update={"learning_rate": 1e30, "epochs": 5}), pool_of_bars())
