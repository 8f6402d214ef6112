"""What Muon does to which weights, and how its settings are refused."""

import copy

import pytest
import torch
from torch import nn

from distill_client.config import TrainingConfig
from distill_client.student.optimiser import optimiser_for

MUON = TrainingConfig(steps=1, optimiser="muon", learning_rate=0.01, weight_decay=0.5)


def network(seed: int = 1) -> nn.Sequential:
    """A convolution, one of each channel by itself, a normalisation, a dense layer and one without a bias."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(32, 6),
        nn.Linear(6, 4, bias=False),
    )


def step(made: nn.Module, config: TrainingConfig = MUON) -> dict[str, torch.Tensor]:
    """How every parameter moves in one step, of a gradient that is the same for the same network."""
    before = copy.deepcopy(dict(made.named_parameters()))
    optimiser = optimiser_for(made, config)
    torch.manual_seed(2)
    for parameter in made.parameters():
        parameter.grad = torch.randn(parameter.shape).to(memory_format=torch.preserve_format)
    optimiser.step()
    return {name: (tensor - before[name]).detach() for name, tensor in made.named_parameters()}


def test_matrices_lose_a_part_of_themselves_and_move_by_one_size_in_every_direction() -> None:
    """Muon as published, section "Muon" of its source; the size is that of Liu and others 2025, section 2.2."""
    made = network()
    before = {name: tensor.detach().clone() for name, tensor in made.named_parameters()}
    moved = step(made)
    for name, longer in (("0.weight", 27), ("4.weight", 32), ("5.weight", 6)):
        own = (moved[name] + 0.01 * 0.5 * before[name]).flatten(1)
        sizes = torch.linalg.svdvals(own) / (0.01 * 0.2 * longer**0.5)
        assert 0.6 < sizes.min() <= sizes.max() < 1.3, (name, sizes)
    for name in ("0.bias", "1.weight", "2.weight", "4.bias"):
        assert moved[name].abs().flatten() == pytest.approx(0.01, rel=1e-3), f"{name} is moved by Adam"


def test_bfloat16_is_muons_only_where_the_processor_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its iteration in float32, from its source."""

    def distance(capabilities: dict[str, bool]) -> float:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        moved = step(network(), MUON.model_copy(update={"weight_decay": 0.0}))["4.weight"]
        torch.manual_seed(2)
        gradients = {name: torch.randn(parameter.shape) for name, parameter in network_shapes}
        expected = -0.01 * 0.2 * 32**0.5 * orthogonal(gradients["4.weight"])
        return float((moved - expected).norm() / expected.norm())

    network_shapes = list(network().named_parameters())
    assert distance({"avx2": True}) < 1e-5
    assert distance({"amx_bf16": False}) < 1e-5
    assert distance({"amx_bf16": True}) > 1e-3


def orthogonal(gradient: torch.Tensor) -> torch.Tensor:
    """Of a first step, whose momentum looks ahead: 0.05 (1 + 0.95) times the gradient, and norms are divided out."""
    x: torch.Tensor = gradient / gradient.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_a_convolution_is_one_matrix_in_whatever_order_memory_has_it() -> None:
    plain, last = step(network()), step(network().to(memory_format=torch.channels_last))
    assert plain["0.weight"].flatten() == pytest.approx(last["0.weight"].flatten(), abs=3e-4)
    assert plain["0.weight"].abs().max() > 3e-3


def test_parameters_without_a_gradient_stay_and_one_rate_is_for_all() -> None:
    made = network()
    optimiser = optimiser_for(made, MUON)
    before = copy.deepcopy(made.state_dict())
    optimiser.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    for parameter in made.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in made.parameters())


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"weight_decay": 0.2}, "weight_decay is 0.2, which is Muon's; allowed with adam is 0, see l2"),
        ({"optimiser": "muon", "l2": 0.1}, "l2 is 0.1, which is Adam's; allowed with muon is 0, see weight_decay"),
    ],
)
def test_each_optimiser_decays_weights_its_own_way(keys: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainingConfig.model_validate({"steps": 10, **keys})
