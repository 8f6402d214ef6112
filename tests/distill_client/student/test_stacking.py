"""Networks that are trained as one learn what they would learn one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill_client.config import LabelOnlyConfig, TrainingConfig
from distill_client.errors import ConfigError
from distill_client.randomness import torch_generator
from distill_client.student.augmentation import augment
from distill_client.student.checkpoint import Checkpoint
from distill_client.student.ensemble import Ensemble
from distill_client.student.lessons import Lessons
from distill_client.student.losses import Targets
from distill_client.student.networks import create_student
from distill_client.student.optimiser import optimiser_for
from distill_client.student.stacking import Stack, gains_by_stacking, networks_in, side_by_side
from distill_client.student.training import train_student
from shared.networks.penalty import parameter_groups
from tests.distill_client.student.test_training import Killed, equal_weights

CLASSES = 4
SIDES = {"lenet5-half": (28, 1), "alexnet-half": (32, 3), "resnet20": (32, 3)}
SCHEDULE = TrainingConfig(batch_size=6, steps=5, learning_rate=1e-3, decay="constant", averaging_decay=0.5, l2=1e-3)


def network(name: str, seed: int) -> nn.Module:
    side, channels = SIDES[name]
    made = create_student(
        name, image_hwc=(side, side, channels), classes=CLASSES, generator=torch_generator(seed, "weights")
    )
    for layer in made.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # several networks at once draw other zeros than one by one
    return made


def lessons(name: str, images: int = 15) -> Lessons:
    side, channels = SIDES[name]
    rng = np.random.default_rng(1)
    images_nhwc = rng.integers(0, 256, (images, side, side, channels), dtype=np.uint8)
    return Lessons(images_nhwc, rng.dirichlet(np.ones(CLASSES), images).astype(np.float32), "combination")


def train_one_by_one(networks: list[nn.Module], taught: Lessons, generator: torch.Generator) -> None:
    """SCHEDULE written out: a loop over the networks in each step, and nothing of the project but its draws."""
    targets = Targets.of(taught.targets_nk)
    optimisers = [torch.optim.Adam(parameter_groups(each, SCHEDULE.l2), lr=1e-3, fused=True) for each in networks]
    averages = [{name: tensor.clone() for name, tensor in floats(each).items()} for each in networks]
    for each in networks:
        each.to(memory_format=torch.channels_last).train()
    for step in range(5):
        if step % 2 == 0:  # two batches of 6 are an epoch of 15
            orders = [torch.randperm(15, generator=generator) for _ in networks]
        batches = [order[step % 2 * 6 : step % 2 * 6 + 6] for order in orders]
        rows = torch.stack(batches, dim=1).flatten()
        images_nchw = torch.from_numpy(taught.images_nhwc[rows.numpy()]).permute(0, 3, 1, 2).float().div_(255)
        varied = augment(taught.augmentation, taught.bounds, images_nchw, targets[rows], generator)
        for number, (each, optimiser, average) in enumerate(zip(networks, optimisers, averages, strict=True)):
            own = slice(number, None, len(networks))
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(each(varied[0][own]), varied[1].named_nk[own]))
            optimiser.step()
            for name, tensor in floats(each).items():
                average[name].lerp_(tensor, 1 - min(0.5, (step + 1) / (step + 10)))
    for each, average in zip(networks, averages, strict=True):
        each.load_state_dict(average, strict=False)


def floats(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


def gradients_and_statistics(network: nn.Module) -> dict[str, torch.Tensor]:
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {name: found for name, found in gradients.items() if found is not None} | dict(network.named_buffers())


def test_one_network_learns_as_in_a_plain_loop_to_the_last_bit() -> None:
    taught, ours, plain = lessons("lenet5-half"), network("lenet5-half", 1), network("lenet5-half", 1)
    train_student(side_by_side([ours]), taught, SCHEDULE, torch_generator(1, "training"))
    train_one_by_one([plain], taught, torch_generator(1, "training"))
    assert equal_weights(ours, plain)


@pytest.mark.parametrize("name", ["lenet5-half", "alexnet-half"])
def test_muon_takes_each_networks_steps_by_its_own_matrices(name: str) -> None:
    """With the same gradients; what Muon makes of matrices that are nearly singular hangs on their last bits."""
    apart, stacked = ([network(name, seed) for seed in range(3)] for _ in range(2))
    together = side_by_side(stacked)
    schedule = TrainingConfig(steps=1, optimiser="muon", learning_rate=0.01, weight_decay=0.2)
    optimisers = [optimiser_for(each.to(memory_format=torch.channels_last), schedule) for each in (together, *apart)]
    draws = torch_generator(1, "gradients")
    for _ in range(3):
        for path, parameter in together.named_parameters():
            parameter.grad = torch.empty_like(parameter).normal_(generator=draws)
            for each, gradient in zip(apart, parameter.grad.chunk(3), strict=True):
                each.get_parameter(path.removeprefix("grouped.")).grad = gradient.clone()
        for optimiser in optimisers:
            optimiser.step()
    starts = [network(name, seed).state_dict() for seed in range(3)]
    for path, parameter in together.named_parameters():
        for tensor, alone, start in zip(parameter.chunk(3), apart, starts, strict=True):
            expected = alone.get_parameter(path.removeprefix("grouped."))
            moved = (expected - start[path.removeprefix("grouped.")]).abs().max()
            assert moved > 2e-3, path
            assert (tensor - expected).abs().max() <= 0.02 * moved, path


def test_networks_side_by_side_learn_what_they_learn_one_by_one() -> None:
    """Up to the order of sums; with weight averages and the penalty."""
    name, taught = "lenet5-half", lessons("lenet5-half")
    starts, apart = ([network(name, seed) for seed in range(3)] for _ in range(2))
    together = side_by_side([network(name, seed) for seed in range(3)])
    assert networks_in(together) == 3
    train_student(together, taught, SCHEDULE, torch_generator(1, "training"))
    train_one_by_one(apart, taught, torch_generator(1, "training"))
    for part, tensors in together.state_dict().items():
        for tensor, alone, start in zip(tensors.chunk(3), apart, starts, strict=True):
            expected = alone.state_dict()[part.removeprefix("grouped.")]
            moved = (expected - start.state_dict()[part.removeprefix("grouped.")]).abs().max()
            assert moved > 0
            assert (tensor - expected).abs().max() <= 2e-3 * moved, part


@pytest.mark.parametrize("name", SIDES)
def test_each_network_has_the_gradients_and_running_statistics_that_it_has_alone(name: str) -> None:
    """In float64, so that nothing but the order of sums is lost."""
    alone = [network(name, seed).double().train() for seed in range(2)]
    together = Stack(alone).train()
    images_nchw = torch.rand(2 * 4, *lessons(name).images_nhwc.shape[:0:-1], dtype=torch.float64)
    targets_nk = torch.softmax(torch.randn(2 * 4, CLASSES, dtype=torch.float64), dim=1)
    torch.autograd.backward(2 * F.cross_entropy(together(images_nchw), targets_nk))
    for number, each in enumerate(alone):
        torch.autograd.backward(F.cross_entropy(each(images_nchw[number::2]), targets_nk[number::2]))
    found = gradients_and_statistics(together)
    for number, each in enumerate(alone):
        for part, expected in gradients_and_statistics(each).items():
            whole = found[f"grouped.{part}"]
            own = whole.chunk(2)[number] if expected.ndim else whole
            assert torch.allclose(own, expected, rtol=1e-9, atol=1e-12), part
    assert len(found) == len(together.state_dict())


@pytest.mark.parametrize("name", SIDES)
def test_an_ensemble_side_by_side_thinks_what_its_members_think(name: str) -> None:
    members = [network(name, seed) for seed in range(3)]
    with torch.no_grad():  # running statistics of their own
        for member in members:
            member.train()(torch.rand(4, *lessons(name).images_nhwc.shape[:0:-1]))
    together, apart = Stack(members).eval(), [member.eval() for member in members]
    images_nchw = torch.rand(5, *lessons(name).images_nhwc.shape[:0:-1])
    shift_k = torch.linspace(-1, 1, CLASSES)
    one, other = (
        Ensemble(networks, LabelOnlyConfig()).probabilities(images_nchw, shift_k) for networks in ([together], apart)
    )
    assert torch.allclose(one, other, atol=1e-5)
    each = torch.stack([torch.softmax(member(images_nchw) + shift_k, dim=1) for member in apart])
    assert torch.allclose(other, each.mean(dim=0), atol=1e-6)


def test_a_killed_training_of_several_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """Of networks with dropout and running statistics, from one checkpoint for all."""
    taught = lessons("alexnet-half")

    def stack(first_seed: int = 0) -> nn.Module:
        made = Stack([network("alexnet-half", first_seed + number) for number in range(2)])
        for layer in made.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.5
        return made

    def kill(step: int, *_: object) -> None:
        if step == 4:
            raise Killed

    whole, resumed = stack(), stack(first_seed=90)
    metrics = train_student(whole, taught, SCHEDULE, torch_generator(1, "training"))
    checkpoint = Checkpoint(tmp_path / "members.safetensors", every_s=0)
    with pytest.raises(Killed):
        train_student(stack(), taught, SCHEDULE, torch_generator(1, "training"), checkpoint, kill)
    assert train_student(resumed, taught, SCHEDULE, torch_generator(1, "training"), checkpoint) == metrics
    assert equal_weights(whole, resumed)


def test_one_that_diverges_is_an_error() -> None:
    members = [network("lenet5-half", seed) for seed in range(3)]
    with torch.no_grad():
        next(members[1].parameters()).fill_(float("inf"))
    with pytest.raises(ConfigError, match=r"training\.learning_rate is 0\.001; the training diverged with it"):
        train_student(Stack(members), lessons("lenet5-half"), SCHEDULE, torch_generator(1, "training"))


def test_small_networks_are_stacked_everywhere_larger_ones_on_a_gpu_and_foreign_ones_never() -> None:
    networks = (
        "lenet5",
        "lenet5-half",
        "alexnet-half",
        "resnet20",
        "torchvision:resnet18",
        "timm:resnet18",
        "my:own",
    )
    for device, expected in (("cpu", [True] * 2 + [False] * 5), ("cuda", [True] * 4 + [False] * 3)):
        assert [gains_by_stacking(name, torch.device(device)) for name in networks] == expected


@pytest.mark.parametrize("layer", [nn.Conv1d(1, 1, 1), nn.LayerNorm(4), nn.Linear(2, 2, bias=False)])
def test_a_layer_without_a_grouped_form_is_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"layer 1 is a {type(layer).__name__}, which has no grouped form"):
        Stack([nn.Sequential(nn.ReLU(), layer)] * 2)
