"""Other ways to compute a training step, beside ours: `.venv/bin/python benchmarks/steps.py`. Why ours is as it is.

Forward, back and Adam on one batch, no data: channels first, channels last (ours), bfloat16 under autocast and, with
`--compiled`, torch.compile, whose first step is told. Then three students with batches of their own: one after the
other, side by side in one network (grouped convolutions, batched matrix products; `stacking` says where it is ours),
and by torch.func, which cannot keep the running statistics of batch normalisation. Before that, what an optimiser's
step takes alone: Adam's, and Muon's as torch has it, in bfloat16, and in float32. `ONEDNN_MAX_CPU_ISA=AVX2
MKL_ENABLE_INSTRUCTIONS=AVX2` stand in for a lesser processor. All in turns, by this process' processor time, the best
of each; the processor may be shared.
"""

import copy
import time
from collections.abc import Callable
from typing import Annotated
from unittest.mock import patch

import torch
import torch.nn.functional as F
import typer
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from distill_client.config import TrainingConfig
from distill_client.student import optimiser
from distill_client.student.networks import create_student
from distill_client.student.stacking import Stack
from shared.networks import NETWORKS

STUDENTS = ("lenet5", "lenet5-half", "alexnet", "alexnet-half", "resnet20")
CLASSES = 10
STACKED = 3
TURN_S = 0.4

Step = Callable[[], object]


def fresh(name: str, *, channels_last: bool = True) -> nn.Module:
    """A student in training mode."""
    shape, generator = (*_size(name), _channels(name)), torch.Generator().manual_seed(1)
    network = create_student(name, image_hwc=shape, classes=CLASSES, generator=generator).train()
    return network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _size(name: str) -> tuple[int, int]:
    return NETWORKS[name][0] if name in NETWORKS else (32, 32)


def _channels(name: str) -> int:
    return 1 if name.startswith("lenet5") else 3


def _batch(name: str, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    images_nchw = torch.rand(images, *_size(name), _channels(name)).permute(0, 3, 1, 2)
    return images_nchw, torch.softmax(torch.randn(images, CLASSES), dim=1)


def _adam(weights: list[torch.Tensor]) -> torch.optim.Adam:
    return torch.optim.Adam(weights, fused=True)


def single_step(name: str, images: int, *, way: str) -> Step:
    """A step of one student in a ``way`` of the first table."""
    network = fresh(name, channels_last=way != "channels first")
    images_nchw, answers_nk = _batch(name, images)
    if way == "channels first":
        images_nchw = images_nchw.contiguous()
    optimiser = _adam(list(network.parameters()))
    learner = torch.compile(network) if way == "compiled" else network

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=way == "bfloat16"):
            logits_nk = learner(images_nchw)
        loss = F.cross_entropy(logits_nk.float(), answers_nk)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def optimiser_step(name: str, way: str) -> Step:
    """An optimiser's step of one student, whose gradients are random: "Adam", or "Muon in" a precision."""
    network = fresh(name)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    if way == "Adam":
        return _adam(list(network.parameters())).step
    with patch.object(optimiser, "multiplies_bfloat16", lambda device: way == "Muon in bfloat16"):
        return optimiser.optimiser_for(network, TrainingConfig(steps=1, optimiser="muon")).step


def functional_step(name: str, images: int) -> Step:
    """A step of STACKED students by torch.func."""
    students = [fresh(name) for _ in range(STACKED)]
    weights, buffers = stack_module_state(students)
    skeleton = copy.deepcopy(students[0]).to("meta")
    optimiser = _adam(list(weights.values()))
    batches = [_batch(name, images) for _ in students]
    images_snchw, answers_snk = (torch.stack(parts) for parts in zip(*batches, strict=True))

    def loss(
        own: dict[str, torch.Tensor], own_buffers: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        return F.cross_entropy(functional_call(skeleton, (own, own_buffers), (x,)), y)

    gradients = vmap(grad(loss))

    def step() -> None:
        for part, gradient in gradients(weights, buffers, images_snchw, answers_snk).items():
            weights[part].grad = gradient
        optimiser.step()

    return step


def stacked_step(name: str, images: int) -> Step:
    """A step of STACKED students in one network."""
    network = Stack([fresh(name) for _ in range(STACKED)]).to(memory_format=torch.channels_last)
    images_nchw, answers_nk = _batch(name, STACKED * images)
    optimiser = _adam(list(network.parameters()))

    def step() -> None:
        loss = F.cross_entropy(network(images_nchw), answers_nk) * STACKED
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def rates(ways: dict[str, Step], images: int, turns: int) -> dict[str, float]:
    """Images per second of processor time of each way, the best of its turns."""
    best = dict.fromkeys(ways, 0.0)
    for step in ways.values():
        step()
    for _ in range(turns):
        for way, step in ways.items():
            started, steps = time.process_time(), 0
            while time.process_time() - started < TURN_S:
                step()
                steps += 1
            best[way] = max(best[way], steps * images / (time.process_time() - started))
    return best


def _print(name: str, images: int, found: dict[str, float], ours: str) -> None:
    told = ", ".join(f"{way} {rate:,.0f} ({rate / found[ours]:.2f})" for way, rate in found.items())
    print(f"{name}, batches of {images}: {told}", flush=True)


def main(
    batch_size: Annotated[int, typer.Option(help="images of a batch", min=2)] = 64,
    turns: Annotated[int, typer.Option(help="of each way; the best counts", min=1)] = 6,
    compiled: Annotated[bool, typer.Option("--compiled", help="torch.compile too, which takes minutes")] = False,
    only: Annotated[str, typer.Option(help="comma-separated students, also torchvision:NAME")] = ",".join(STUDENTS),
) -> None:
    """Print images per second and, in brackets, the ratio to ours."""
    torch.set_num_threads(1)
    names = only.split(",")
    for name in names:
        ways = {
            way: single_step(name, batch_size, way=way) for way in ("channels last", "channels first", "bfloat16")
        }
        if compiled:
            ways["compiled"] = single_step(name, batch_size, way="compiled")
            started = time.perf_counter()
            ways["compiled"]()
            print(f"{name}: the first compiled step took {time.perf_counter() - started:.0f} s", flush=True)
        _print(name, batch_size, rates(ways, batch_size, turns), "channels last")
    for name in names:
        ways = {way: optimiser_step(name, way) for way in ("Adam", "Muon in bfloat16", "Muon in float32")}
        told = ", ".join(f"{way} {1000 / rate:.1f} ms" for way, rate in rates(ways, 1, turns).items())
        print(f"{name}, an optimiser's step: {told}", flush=True)
    for name in [name for name in names if name in NETWORKS]:
        alone = [single_step(name, batch_size, way="channels last") for _ in range(STACKED)]
        ways = {
            "one after the other": lambda alone=alone: [step() for step in alone],  # type: ignore[misc]
            "side by side": stacked_step(name, batch_size),
        }
        if name.startswith("lenet5"):
            ways["torch.func"] = functional_step(name, batch_size)
        found = rates(ways, STACKED * batch_size, turns)
        _print(f"{STACKED} x {name}", batch_size, found, "one after the other")


if __name__ == "__main__":
    typer.run(main)
