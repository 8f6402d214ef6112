"""A run that tests only read."""

import pytest
import torch

from tests.distill_client.fakes import (
    FakeTeacher,
    begin,
    bring_to_its_end,
    tiny_config,
)
from tests.distill_client.pipeline.support import Finished


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An uninterrupted run; tests only read it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    path, teacher = tmp_path_factory.mktemp("runs") / "whole", FakeTeacher(budget=130)
    teacher.charge_other_run(30)
    begin(path, tiny_config(), teacher)
    summary = bring_to_its_end(path, teacher)
    torch.set_num_threads(before)
    return path, teacher, summary
