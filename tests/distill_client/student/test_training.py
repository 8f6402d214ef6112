import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from distill_client.config import AugmentationConfig, TrainingConfig
from distill_client.errors import ConfigError, OtherDevice, RunStoreError
from distill_client.randomness import torch_generator
from distill_client.student.checkpoint import Checkpoint
from distill_client.student.evaluation import agreement, predict_probabilities
from distill_client.student.lessons import Lessons
from distill_client.student.networks import create_student
from distill_client.student.training import learning_rate_at, total_steps, train_student

SCHEDULE = TrainingConfig(
    batch_size=32, steps=60, learning_rate=5e-3, warmup_steps=10, decay="cosine", averaging_decay=0.9
)


def lessons(images: int = 200, **options: str) -> Lessons:
    """Noise with a bright band whose height is the class; a fake teacher answers by where the most light is."""
    rng = np.random.default_rng(images)
    images_nhwc = rng.integers(0, 60, size=(images, 28, 28, 1), dtype=np.uint8)
    for image, band in zip(images_nhwc, rng.integers(4, size=images), strict=True):
        image[7 * band : 7 * band + 7] += 150
    light = images_nhwc.reshape(images, 4, -1).mean(axis=2) / 20
    targets = np.exp(light - light.max(axis=1, keepdims=True))
    return Lessons(images_nhwc, (targets / targets.sum(axis=1, keepdims=True)).astype(np.float32), **options)  # type: ignore[arg-type]


def student(seed: int = 1) -> nn.Module:
    return create_student("lenet5-half", image_hwc=(28, 28, 1), classes=4, generator=torch_generator(seed, "weights"))


def equal_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Killed(Exception):
    pass


def test_a_student_learns_a_teachers_rule() -> None:
    network = student()
    metrics = train_student(network, lessons(400), SCHEDULE, torch_generator(1, "training"))
    unseen = lessons(300)
    assert agreement(predict_probabilities(network, unseen.images_nhwc), unseen.targets_nk) > 0.9
    assert metrics[-1]["loss"] < metrics[0]["loss"] / 2
    assert [row["step"] for row in metrics] == list(range(1, 61))


@pytest.mark.parametrize("changes", [{}, {"averaging_decay": 0.9}, {"optimiser": "muon", "weight_decay": 0.2}])
@pytest.mark.parametrize("killed_at", [1, 7, 33, 59])
def test_a_killed_training_ends_as_if_it_had_never_stopped(
    tmp_path: Path, changes: dict[str, object], killed_at: int
) -> None:
    taught = lessons(augmentation="combination")
    config = SCHEDULE.model_copy(update=changes)
    whole = student()
    metrics = train_student(whole, taught, config, torch_generator(1, "training"))

    def kill(step: int, total: int, loss: float) -> None:
        if step == killed_at + 1:
            raise Killed

    checkpoint = Checkpoint(tmp_path / "student.safetensors", every_s=0)
    with pytest.raises(Killed):
        train_student(student(), taught, config, torch_generator(1, "training"), checkpoint, kill)
    resumed, steps = student(seed=99), []
    resumed_metrics = train_student(
        resumed, taught, config, torch_generator(1, "training"), checkpoint, lambda step, *_: steps.append(step)
    )
    assert steps[0] == killed_at + 1
    assert equal_weights(whole, resumed)
    assert metrics == resumed_metrics

    again = student(seed=98)
    train_student(again, taught, config, torch_generator(1, "training"), checkpoint)
    assert equal_weights(whole, again)
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    taught, checkpoint = lessons(40), Checkpoint(tmp_path / "student.safetensors")
    short = SCHEDULE.model_copy(update={"steps": 3, "warmup_steps": 1})
    train_student(student(), taught, short, torch_generator(1, "training"), checkpoint)
    other_schedule = short.model_copy(update={"learning_rate": 1e-3})
    for changed, config, seed in (
        (lessons(41), short, 1),
        (lessons(40, augmentation="mixup"), short, 1),
        (taught, other_schedule, 1),
        (taught, short, 2),
    ):
        with pytest.raises(RunStoreError, match="another training"):
            train_student(student(), changed, config, torch_generator(seed, "training"), checkpoint)


def as_if_saved_on_a_gpu(path: Path) -> None:
    """Change what tells them apart: the device that is noted, and the generator's state, 16 bytes on a GPU."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    record = json.loads(metadata["record"])
    assert record["device"] == "cpu"
    tensors["generator"] = torch.zeros(16, dtype=torch.uint8)
    save_file(tensors, path, {"record": json.dumps(record | {"device": "cuda"})})


@pytest.mark.parametrize("images", [40, 41])  # its own lessons; or others, as after an ensemble that was trained anew
def test_a_training_does_not_go_on_on_another_kind_of_device_and_says_so(tmp_path: Path, images: int) -> None:
    checkpoint = Checkpoint(tmp_path / "student.safetensors")
    short = SCHEDULE.model_copy(update={"steps": 2, "warmup_steps": 1})
    train_student(student(), lessons(40), short, torch_generator(1, "training"), checkpoint)
    as_if_saved_on_a_gpu(checkpoint.path)
    with pytest.raises(
        OtherDevice, match=r"student\.safetensors: .* on cuda, .* now cpu; .*--device cuda, or remove"
    ):
        train_student(student(), lessons(images), short, torch_generator(1, "training"), checkpoint)


@pytest.mark.parametrize("keep", [0, 7, 100, 5_000])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "student.safetensors"
    short = SCHEDULE.model_copy(update={"steps": 2, "warmup_steps": 1})
    train_student(student(), lessons(40), short, torch_generator(1, "training"), Checkpoint(path))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunStoreError, match="damaged"):
        train_student(student(), lessons(40), short, torch_generator(1, "training"), Checkpoint(path))


def test_averaged_weights_differ_from_the_last_ones_but_agree_with_them() -> None:
    taught, networks = lessons(), []
    for decay in (0.0, 0.9):
        networks.append(student())
        config = SCHEDULE.model_copy(update={"averaging_decay": decay, "decay": "constant"})
        train_student(networks[-1], taught, config, torch_generator(1, "training"))
    last, averaged = (predict_probabilities(network, taught.images_nhwc) for network in networks)
    assert not np.array_equal(last, averaged)
    assert agreement(last, averaged) > 0.9


def test_the_averaged_weights_are_those_of_every_step_and_young_ones_forget_faster() -> None:
    """Written down once more, weight by weight, from what the network holds after each step."""
    network, steps = student(), 11
    averaged = [weight.detach().clone() for weight in network.parameters()]

    def average(step: int, *_: object) -> None:
        decay = min(0.5, step / (step + 9))
        for mean, weight in zip(averaged, network.parameters(), strict=True):
            mean.mul_(decay).add_(weight.detach(), alpha=1 - decay)

    config = SCHEDULE.model_copy(update={"steps": steps, "averaging_decay": 0.5})
    train_student(network, lessons(), config, torch_generator(1, "training"), progress=average)
    for mean, weight in zip(averaged, network.parameters(), strict=True):
        assert torch.allclose(mean, weight, rtol=0, atol=1e-6)


class Spy(nn.Module):
    """A network that remembers what it was shown: levels 0 to 255, a row of pixels for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[torch.Tensor] = []

    def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
        self.seen.append((images_nchw[:, 0] * 255).flatten(1))
        return images_nchw[:, 0, 0, :2] * self.scale


def test_every_epoch_uses_each_image_at_most_once_and_batches_stay_whole() -> None:
    spy = Spy()
    images = np.zeros((70, 4, 4, 1), np.uint8) + np.arange(70, dtype=np.uint8)[:, None, None, None]
    config = TrainingConfig(batch_size=32, epochs=3)
    train_student(spy, Lessons(images, np.full((70, 2), 0.5, np.float32)), config, torch_generator(1, "x"))
    seen = [rows[:, 0].round().int() for rows in spy.seen]
    assert [len(rows) for rows in seen] == [32] * 6
    epochs = [sorted(torch.cat(seen[i : i + 2]).tolist()) for i in (0, 2, 4)]
    assert all(len(set(epoch)) == 64 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_made_images_are_learnt_as_they_were_answered_where_real_ones_alone_are_turned() -> None:
    spy = Spy()
    images = np.zeros((60, 4, 4, 1), np.uint8) + np.arange(1, 61, dtype=np.uint8)[:, None, None, None]
    bounds, real_n = AugmentationConfig(shift_fraction=0.5, real_alone=True), np.arange(60) < 30
    taught = Lessons(images, np.full((60, 2), 0.5, np.float32), "geometric", bounds, real_n=real_n)
    train_student(spy, taught, TrainingConfig(batch_size=60, epochs=2), torch_generator(1, "x"))
    for rows in spy.seen:
        whole = rows[(rows > 0.5).all(dim=1) & (rows.std(dim=1) < 1e-3)]  # nothing black came in
        level = whole[:, 0].round().int()
        assert set(range(31, 61)) <= set(level.tolist()), "each made image, whole"
        assert len(whole) < 45, "most real ones moved"


def test_length_of_a_schedule() -> None:
    assert total_steps(TrainingConfig(steps=77), 5) == 77
    assert total_steps(TrainingConfig(epochs=50, batch_size=64), 50_000) == 50 * 781
    assert total_steps(TrainingConfig(epochs=3, batch_size=64), 10) == 3


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate_at(SCHEDULE, step, 60) for step in range(60)]
    assert rates[:10] == pytest.approx([5e-4 * step for step in range(1, 11)])
    assert max(rates) == pytest.approx(5e-3)
    assert all(after <= before for before, after in pairwise(rates[9:]))
    assert 0 < rates[-1] < 1e-5
    constant = TrainingConfig(epochs=1, decay="constant", learning_rate=1e-3)
    assert {learning_rate_at(constant, step, 60) for step in range(60)} == {1e-3}


def test_divergence_names_the_learning_rate() -> None:
    config = SCHEDULE.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(ConfigError, match=r"training\.learning_rate is 1e\+30"):
        train_student(student(), lessons(40), config, torch_generator(1, "training"))


def test_equal_seeds_make_equal_students_whatever_else_draws() -> None:
    one = student()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert equal_weights(one, student())
    assert torch.equal(before, torch.get_rng_state())
    assert not equal_weights(one, student(seed=2))


def test_what_cannot_be_taught_is_refused() -> None:
    with pytest.raises(ValueError, match="3 images cannot be learnt from 2 answers"):
        Lessons(np.zeros((3, 28, 28, 1), np.uint8), np.zeros((2, 4), np.float32))
    for name, side in (("lenet6", 28), ("lenet5", 32)):
        with pytest.raises(ConfigError, match=rf"student\.network: network .*{name}"):
            create_student(name, image_hwc=(side, side, 1), classes=4, generator=torch_generator(1, "x"))


def test_default_bounds_are_the_published_ones() -> None:
    assert lessons(4).bounds == AugmentationConfig(rotate_degrees=10, shift_fraction=0.1, flip=False)


def test_dropout_too_goes_on_where_it_was_and_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    """AlexNet drops out and normalises by batch: both have a state that the weights alone do not hold."""
    small = lessons(64)
    taught = Lessons(np.pad(small.images_nhwc, ((0, 0), (2, 2), (2, 2), (0, 0))), small.targets_nk)
    config = TrainingConfig(batch_size=32, steps=8, learning_rate=1e-3)

    def alexnet() -> nn.Module:
        return create_student(
            "alexnet-half", image_hwc=(32, 32, 1), classes=4, generator=torch_generator(1, "weights")
        )

    def kill(step: int, *_: object) -> None:
        if step == 5:
            raise Killed

    before = torch.random.get_rng_state()
    whole = alexnet()
    train_student(whole, taught, config, torch_generator(1, "training"))
    checkpoint = Checkpoint(tmp_path / "student.safetensors", every_s=0)
    with pytest.raises(Killed):
        train_student(alexnet(), taught, config, torch_generator(1, "training"), checkpoint, kill)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)  # whatever else drew from it in between does not matter
    resumed = alexnet()
    train_student(resumed, taught, config, torch_generator(1, "training"), checkpoint)
    assert equal_weights(whole, resumed)


def test_steps_are_kerass_at_200_epochs_and_the_same_fractions_elsewhere() -> None:
    config = TrainingConfig(batch_size=16, epochs=200, learning_rate=1e-3, decay="steps")
    epochs = (0, 80, 81, 120, 121, 160, 161, 180, 181, 199)
    rates = [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6, 5e-7, 5e-7]
    assert [learning_rate_at(config, epoch * 10, 2000) for epoch in epochs] == pytest.approx(rates)
    assert [learning_rate_at(config, epoch, 200) for epoch in epochs] == pytest.approx(rates)


def test_the_penalty_shrinks_convolutions_alone() -> None:
    def norms(l2: float) -> dict[str, float]:
        network = student()
        config = SCHEDULE.model_copy(update={"l2": l2, "averaging_decay": 0.0})
        train_student(network, lessons(), config, torch_generator(1, "training"))
        return {name: float(tensor.norm()) for name, tensor in network.state_dict().items()}

    free, penalised = norms(0.0), norms(1.0)
    assert penalised["conv2.weight"] < free["conv2.weight"] / 2
    assert penalised["dense1.weight"] > free["dense1.weight"] / 2


def test_bfloat16_is_the_networks_alone_and_trains_nearly_the_same_student(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    config = SCHEDULE.model_copy(update={"steps": 5, "warmup_steps": 1})
    exact, coarse = student(), student()
    metrics = train_student(exact, lessons(), config, torch_generator(1, "training"))
    config = config.model_copy(update={"precision": "bfloat16"})
    coarse_metrics = train_student(coarse, lessons(), config, torch_generator(1, "training"))
    assert not equal_weights(exact, coarse)
    assert {tensor.dtype for tensor in coarse.state_dict().values()} == {torch.float32}
    losses = [[row["loss"] for row in rows] for rows in (metrics, coarse_metrics)]
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_bfloat16_is_float32_where_it_would_only_be_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SCHEDULE.model_copy(update={"steps": 3, "warmup_steps": 1})
    exact, asked = student(), student()
    train_student(exact, lessons(), config, torch_generator(1, "training"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": False})
    config = config.model_copy(update={"precision": "bfloat16"})
    train_student(asked, lessons(), config, torch_generator(1, "training"))
    assert equal_weights(exact, asked)


def test_a_compiled_network_is_what_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's compiler without its code generator, whose minutes no test has."""
    compiled: list[object] = []

    def without_code(module: nn.Module) -> object:
        compiled.append(module)
        return compile_really(module, backend="eager")

    compile_really = torch.compile
    monkeypatch.setattr(torch, "compile", without_code)
    plain, other = student(), student()
    config = SCHEDULE.model_copy(update={"steps": 4, "warmup_steps": 1})
    train_student(plain, lessons(), config, torch_generator(1, "training"))
    assert compiled == []
    train_student(other, lessons(), config.model_copy(update={"compile": True}), torch_generator(1, "training"))
    assert compiled == [other]
    assert equal_weights(plain, other)
