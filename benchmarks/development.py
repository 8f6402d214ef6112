"""What settings are chosen on: `.venv/bin/python benchmarks/development.py --dataset cifar10 --about "as it is"`.

One student by a method of configs/paper, with some of its settings changed, measured on agreement with its teacher on
10,000 training images that are in nobody's pool. The test set is not looked at, and the seed, 11, is no row's of
docs/results.md. So that many settings can be tried, the teacher answers in process and nothing is charged; everything
else is the client's own. Each trial adds a line to `benchmarks/development.jsonl`, with the digest of its
configuration and what ran, and docs/results.md tells of them.
"""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from pydantic import ValidationError

from benchmarks.reproduction.cases import Case, CaseError, resolve
from benchmarks.reproduction.provenance import present_versions
from benchmarks.reproduction.trials import TRIALS, Trial, append_trial
from distill_client.config import RunConfig
from distill_client.config.reading import faults_of
from distill_client.contenders import STUDENT, prepare_lessons, train_contender
from distill_client.material import Material
from distill_client.randomness import numpy_generator
from distill_client.student.evaluation import agreement, predict_probabilities
from distill_client.student.losses import choose_loss
from distill_client.synthesis.views import render_views
from distill_client.teachers.paid.labelled import LabelledImages
from shared.datasets import load_dataset
from shared.wire.images import Images, image_digests
from teacher_server.teachers.teacher import load_teacher

SEED = 11
HELD_OUT = 10_000


def main(  # noqa: PLR0913, PLR0917 - one parameter per flag
    dataset: Annotated[str, typer.Option(help="a folder of configs/paper")],
    about: Annotated[str, typer.Option(help="what is tried, in words")],
    method: Annotated[str, typer.Option(help="a file of that folder that buys views, or the pool alone")] = "ours",
    student: Annotated[str | None, typer.Option(help="another network than the method's file has")] = None,
    answers: Annotated[int | None, typer.Option(help="so many in all, the pool included", min=1)] = None,
    changed: Annotated[list[str] | None, typer.Option("--set", help="a setting, as training.steps=2000")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    trials: Annotated[Path, typer.Option(help="where the line goes")] = TRIALS,
) -> None:
    """Try one setting."""
    try:
        experiment = resolve(Case(dataset, method, SEED, student, answers))
        config = with_changes(experiment.config, changed or [])
    except CaseError as error:
        raise SystemExit(f"development: {error}") from None
    versions = present_versions()
    found = tried(config, experiment.bundle, torch.device(device))
    trial = Trial(
        dataset=dataset,
        method=method,
        student=config.student.network,
        answers=config.budget_images,
        about=about,
        set=changed or [],
        config_digest=config.digest(),
        **found,
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions,
    )
    append_trial(trial, trials)
    print(
        f"{about}: agreement {found['agreement']:.2%}, divergence {found['divergence']:.4f}, {found['seconds']:.0f} s"
    )


def with_changes(config: RunConfig, changed: list[str]) -> RunConfig:
    """The same with some settings changed, each named from the top: ``training.steps=2000``. Raises CaseError."""
    content = config.model_dump(mode="json", exclude_none=True)
    for change in changed:
        name, equals, value = change.partition("=")
        *sections, key = name.split(".")
        place: dict[str, Any] = content
        for section in sections:
            place = place.setdefault(section, {})
        if not equals or not isinstance(place, dict):
            raise CaseError(f"--set is {change!r}; allowed is SECTION.KEY=VALUE, the value as JSON has it")
        try:
            place[key] = json.loads(value)
        except json.JSONDecodeError:
            place[key] = value
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise CaseError(f"--set: {'; '.join(faults_of(error))}") from error


def tried(config: RunConfig, bundle: Path, device: torch.device) -> dict[str, float]:
    """Draw, ask in process, train, and measure on training images outside of the pool.

    ``agreement`` is a fraction, ``divergence`` the mean of sum_c t_c log(t_c / p_c) in nats, of the student's p from
    the teacher's t; ``seconds`` are the training's, of the wall.
    """
    synthesis = config.synthesis
    if synthesis.images and synthesis.method != "mixed-views":
        raise SystemExit(
            f"development: synthesis.method is {synthesis.method!r}; allowed: 'mixed-views', or no images"
        )
    teacher = load_teacher(bundle, device=device.type)
    material = Material(config)
    views = list(render_views(material.pool.images_nhwc, material.plan.views))
    images_nhwc = np.concatenate([material.pool.images_nhwc, *views])
    bought = LabelledImages(images_nhwc, teacher.classifier.probabilities(images_nhwc))
    nothing_n = np.zeros(len(images_nhwc), dtype=bool)
    loss = choose_loss("probabilities", bought.values, config.training.tail)
    lessons = prepare_lessons(config, material.pool, bought, nothing_n, loss)[STUDENT]
    held_out_nhwc = unseen_images(config, material.pool.images_nhwc)
    teacher_nk = teacher.classifier.probabilities(held_out_nhwc)

    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        network, _ = train_contender(
            config,
            STUDENT,
            lessons,
            device=device,
            checkpoint_path=Path(folder) / "checkpoint.safetensors",
            progress=lambda *_: None,
        )
    seconds = time.perf_counter() - started
    student_nk = predict_probabilities(network, held_out_nhwc)
    return {
        "agreement": round(agreement(student_nk, teacher_nk), 4),
        "divergence": round(divergence(teacher_nk, student_nk), 4),
        "seconds": round(seconds, 1),
    }


def unseen_images(config: RunConfig, pool_nhwc: Images) -> Images:
    """``HELD_OUT`` training images of the evaluation's data set that are not in the pool, uint8 images_nhwc."""
    everything_nhwc = load_dataset(str(config.evaluation.dataset), "train").images_nhwc
    pool = frozenset(image_digests(pool_nhwc))
    unseen = np.array([digest not in pool for digest in image_digests(everything_nhwc)])
    chosen_n = numpy_generator(SEED, "development.held-out").choice(np.flatnonzero(unseen), HELD_OUT, replace=False)
    return np.asarray(everything_nhwc[chosen_n])


def divergence(teacher_nk: NDArray[np.float32], student_nk: NDArray[np.float32]) -> float:
    """The mean Kullback-Leibler divergence of the student's probabilities from the teacher's, in nats."""
    t_nk, p_nk = np.clip(teacher_nk.astype(np.float64), 1e-12, 1), np.clip(student_nk.astype(np.float64), 1e-12, 1)
    return float(np.mean(np.sum(t_nk * np.log(t_nk / p_nk), axis=1)))


if __name__ == "__main__":
    typer.run(main)
