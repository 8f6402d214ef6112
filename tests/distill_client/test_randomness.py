import numpy as np
import pytest
import torch

from distill_client.randomness import numpy_generator, torch_generator


def test_equal_seed_and_stage_draw_equally_and_nothing_else_does() -> None:
    stages = [(1, "pool"), (1, "pool"), (1, "plan"), (2, "pool"), (12, "pool"), (1, "2:pool")]
    numpy_draws = [tuple(numpy_generator(seed, stage).integers(2**60, size=4)) for seed, stage in stages]
    torch_draws = [
        tuple(torch.randint(2**60, (4,), generator=torch_generator(seed, stage)).tolist()) for seed, stage in stages
    ]
    for draws in (numpy_draws, torch_draws):
        assert draws[0] == draws[1]
        assert len(set(draws)) == len(stages) - 1


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_every_legal_seed_works(seed: int) -> None:
    numpy_generator(seed, "x").random()
    torch.rand(1, generator=torch_generator(seed, "x"))


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1).item(), np.random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    torch.rand(3, generator=torch_generator(1, "x"))
    numpy_generator(1, "x").random(3)
    assert (torch.rand(1).item(), np.random.random()) == expected


def test_draws_are_what_they_were_when_runs_began() -> None:
    """A run that is resumed by a later version of this program must draw what it drew before."""
    assert numpy_generator(1, "pool").integers(1_000_000, size=3).tolist() == [882_773, 939_705, 207_820]
