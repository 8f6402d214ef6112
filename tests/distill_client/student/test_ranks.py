"""One training by several processes: the student is that of one, however many they are, and rank 0 alone has files.

The processes are forked with the environment that torchrun gives its own, which would import torch anew.
"""

import copy
import itertools
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from distill_client import cli
from distill_client.contenders import STUDENT, fresh_network, save_network, train_contender
from distill_client.errors import ConfigError
from distill_client.randomness import torch_generator
from distill_client.student.checkpoint import Checkpoint
from distill_client.student.lending import call_ranks, require_own, run_on_first_rank
from distill_client.student.lessons import Lessons
from distill_client.student.ranks import Ranks
from distill_client.student.training import train_student
from tests.distill_client.fakes import tiny_config

CPU = torch.device("cpu")
CHECKPOINT = "student.checkpoint"

# Batches of 33 images: of two ranks one has 16 of them, the other 17.
SCHEDULE = {"steps": 14, "batch_size": 33, "learning_rate": 2e-3, "averaging_decay": 0.9}
CONFIG = tiny_config(training=SCHEDULE, label_only={"ensemble": 2})


def lessons(*, of_labels: bool = False) -> Lessons:
    rng = np.random.default_rng(0)
    images_nhwc = rng.integers(0, 256, (120, 28, 28, 1), dtype=np.uint8)
    if of_labels:
        labels_nk = np.eye(4, dtype=np.float32)[rng.integers(4, size=120)]
        return Lessons(images_nhwc, labels_nk, "geometric", amplification=CONFIG.label_only)
    answers_nk = rng.dirichlet(np.full(4, 0.3), 110).astype(np.float32)
    return Lessons(images_nhwc, answers_nk, "combination", rows_n=np.arange(10, 120))


def train(folder: Path, *, of_labels: bool) -> nn.Module:
    path, taught = folder / CHECKPOINT, lessons(of_labels=of_labels)
    return train_contender(CONFIG, STUDENT, taught, device=CPU, checkpoint_path=path, progress=lambda *_: None)[0]


def train_thrice(folder: Path) -> None:
    """What rank 0 does; it writes the students beside their checkpoints."""
    for name in ("answers", "killed", "labels"):
        save_network(train(folder / name, of_labels=name == "labels"), folder / name / "student.safetensors")


def run_a_command(argument: str) -> None:
    sys.argv = ["distill", *argument.split()]
    cli.main()


def _be_rank(number: int, port: int, run: Callable[[str], None], argument: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a test"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run(argument)


def exit_codes(run: Callable[[str], None], argument: str) -> list[int | None]:
    """How the two ranks of ``run`` end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A process that has used a GPU must not fork.
    has_gpu = torch.cuda.is_available()
    context: SpawnContext | ForkContext = get_context("spawn") if has_gpu else get_context("fork")
    ranks = [context.Process(target=_be_rank, args=(number, port, run, argument)) for number in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        rank.kill()
    return [rank.exitcode for rank in ranks]


def train_on_first_rank(argument: str) -> None:
    run_on_first_rank(lambda: train_thrice(Path(argument)))


class Killed(Exception):
    pass


def kill(step: int, *_: object) -> None:
    if step == 7:
        raise Killed


def test_two_processes_train_the_student_of_one_up_to_the_order_of_sums(tmp_path: Path) -> None:
    """From answers, from where one process was killed, and from labels with an ensemble of two."""
    of_one = {name: train(tmp_path / "of-one" / name, of_labels=name == "labels") for name in ("answers", "labels")}
    untrained = fresh_network(CONFIG, image_hwc=(28, 28, 1), classes=4)
    interrupted = Checkpoint(tmp_path / "killed" / CHECKPOINT, every_s=0)
    generator = torch_generator(CONFIG.seed, f"train.{STUDENT}")
    with pytest.raises(Killed):
        train_student(copy.deepcopy(untrained), lessons(), CONFIG.training, generator, interrupted, kill)

    assert exit_codes(train_on_first_rank, str(tmp_path)) == [0, 0]
    for name in ("answers", "killed", "labels"):
        together = safetensors.torch.load_file(tmp_path / name / "student.safetensors")
        expected = of_one["labels" if name == "labels" else "answers"].state_dict()
        for part, start in untrained.state_dict().items():
            moved = (expected[part] - start).abs().max()
            assert moved > 0
            assert (together[part] - expected[part]).abs().max() < 1e-3 * moved, (name, part)


def test_a_command_is_rank_0s_and_the_others_end_with_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_codes(run_a_command, "--help") == [0, 0]
    assert capfd.readouterr().out.count("Usage:") == 1
    assert exit_codes(run_a_command, f"resume {tmp_path}") == [6, 1]
    assert capfd.readouterr().err.count("is not a run folder") == 1


@pytest.mark.parametrize(("images", "count"), [(64, 1), (64, 2), (33, 2), (7, 3), (3, 3), (100, 7)])
def test_the_ranks_parts_are_the_batch_and_their_means_its_mean(images: int, count: int) -> None:
    ranks = [Ranks(number, count) for number in range(count)]
    batch = torch.arange(images, dtype=torch.float64)
    parts = [batch[rank.part(images)] for rank in ranks]
    assert torch.equal(torch.cat(parts), batch)
    weighted = [part.mean() * rank.weight(images) for part, rank in zip(parts, ranks, strict=True)]
    assert float(torch.stack(weighted).mean()) == pytest.approx(float(batch.mean()))


def test_a_rank_without_an_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size: a batch has 2 images for 3 processes; allowed is"):
        Ranks(0, 3).part(2)


def test_a_gpu_of_another_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match=r"device is cuda:1; allowed under torchrun are cpu and cuda"):
        require_own(torch.device("cuda", 1))
    for allowed in ("cpu", "cuda", "cuda:0"):
        require_own(torch.device(allowed))


def test_every_rank_and_step_drops_out_its_own_and_one_process_is_left_alone() -> None:
    with torch.random.fork_rng():
        before = torch.get_rng_state()
        Ranks().reseed(5, step=3)
        assert torch.equal(torch.get_rng_state(), before)
        drawn = {}
        for number, step in itertools.product(range(3), range(4)):
            Ranks(number, 3).reseed(5, step)
            drawn[number, step] = float(torch.rand(()))
        assert len(set(drawn.values())) == 12
        Ranks(1, 3).reseed(5, step=2)
        assert float(torch.rand(())) == drawn[1, 2]


def test_one_process_calls_nobody() -> None:
    call_ranks("lenet5-half", lessons(), CONFIG.training, 1, CPU)
    assert Ranks.here() == Ranks(0, 1)
    assert Ranks.here().told("a word") == "a word"
    assert float(Ranks.here().mean(torch.tensor(2.0))) == 2.0
