"""What a student learns from each kind of answer: `.venv/bin/python benchmarks/learning.py --seeds 11,12`.

One experiment's images, answered in process by its teacher's bundle, disclosed under each policy, and our student
trained on them by the project's own code. Prints, for each, the accuracy on the test set and the agreement with the
teacher's answers to it, per seed and as a mean. Nothing is bought; `benchmarks/seeds.py` does the same over HTTP.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from distill_client.config import RunConfig, load_config
from distill_client.contenders import STUDENT, prepare_lessons, train_contender
from distill_client.material import Material
from distill_client.plan import draw_held_out
from distill_client.randomness import torch_generator
from distill_client.student.evaluation import accuracy, agreement, predict_probabilities
from distill_client.student.losses import choose_loss
from distill_client.synthesis.cvae import generate, train_cvae
from distill_client.synthesis.cvae_networks import create_cvae
from distill_client.synthesis.mixup import mix_pairs
from distill_client.teachers.paid.labelled import LabelledImages
from shared.wire.contracts import Disclosure
from shared.wire.images import Images
from teacher_server.disclosure import disclose
from teacher_server.teachers.bundle import load_bundle
from teacher_server.teachers.classifier import load_classifier

PROJECT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")

# (disclosure, what of the configuration is changed)
VARIANTS: list[tuple[str, dict[str, dict[str, object]]]] = [
    ("probabilities", {}),
    ("probabilities;decimals=2", {}),
    ("top-k:3", {}),
    ("top-k:3", {"training": {"tail": "spread"}}),
    ("top-k:1", {}),
    ("top-k:1", {"training": {"tail": "spread"}}),
    ("label", {"label_only": {"ensemble": 0}}),
    ("label", {"label_only": {"ensemble": 0, "prior_correction": True}}),
    ("label", {}),
    ("label", {"label_only": {"prior_correction": True}}),
]


def bought_images(config: RunConfig, material: Material, top_class: Callable[[Images], np.ndarray]) -> Images:
    """The images that a run of this configuration buys, in its order."""
    pool, plan, seed = material.pool, material.plan, config.seed
    mixed = mix_pairs(pool.images_nhwc, plan.first_n, plan.second_n, plan.lambda_n)
    height, width, channels = pool.images_nhwc.shape[1:]
    cvae = create_cvae(
        config.synthesis.cvae,
        image_hwc=(height, width, channels),
        classes=len(pool.class_names),
        generator=torch_generator(seed, "cvae.initial-weights"),
    )
    shown_n = top_class(pool.images_nhwc)
    train_cvae(cvae, config.synthesis.cvae, pool.images_nhwc, shown_n, torch_generator(seed, "cvae.training"))
    return np.concatenate([pool.images_nhwc, *mixed, *generate(cvae, plan.z_nd, plan.classes_n)])


def main(
    config: Annotated[Path, typer.Option(help="the experiment")] = PROJECT / "configs" / "fashion-mnist-5000.toml",
    bundle: Annotated[Path, typer.Option(help="its teacher")] = PROJECT / "bundles" / "fashion-mnist-lenet5",
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "11,12",
    only: Annotated[str, typer.Option(help="only disclosures that begin so")] = "",
) -> None:
    """Train and print; a variant takes about half a minute per seed, and one with an ensemble three."""
    torch.set_num_threads(1)
    classify = load_classifier(load_bundle(bundle)).probabilities
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in map(int, seeds.split(",")):
        seeded = load_config(config).model_copy(update={"seed": seed})
        material = Material(seeded)
        if material.test is None:
            raise typer.BadParameter(f"{config} names no evaluation.dataset")
        images_nhwc = bought_images(seeded, material, lambda images: classify(images).argmax(axis=1))
        answers_nk, told_nk = classify(images_nhwc), classify(material.test.images_nhwc)
        held_out = draw_held_out(seeded, len(images_nhwc))
        for disclosure, changes in VARIANTS:
            if not disclosure.startswith(only):
                continue
            varied = RunConfig.model_validate(
                seeded.model_dump(exclude_unset=True)
                | {name: {**getattr(seeded, name).model_dump(), **section} for name, section in changes.items()}
            )
            bought = LabelledImages(images_nhwc, disclose(answers_nk, Disclosure.parse(disclosure)))
            loss = choose_loss(disclosure, bought.values, varied.training.tail)
            lessons = prepare_lessons(varied, material.pool, bought, held_out, loss)[STUDENT]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "student.safetensors"
                network, _ = train_contender(
                    varied, STUDENT, lessons, device=CPU, checkpoint_path=path, progress=lambda *_: None
                )
            student_nk = predict_probabilities(network, material.test.images_nhwc)
            name = " ".join(
                [disclosure, *(f"{key}={value}" for part in changes.values() for key, value in part.items())]
            )
            figures = (100 * accuracy(student_nk, material.test.truth_n), 100 * agreement(student_nk, told_nk))
            rows.setdefault(name, []).append(figures)
            print(f"seed {seed} {name:<48} accuracy {figures[0]:.2f} agreement {figures[1]:.2f}", flush=True)
    print(f"\n{'mean of the seeds ' + seeds:<56} accuracy agreement")
    for name, found in rows.items():
        accuracies, agreements = zip(*found, strict=True)
        print(f"{name:<56} {statistics.mean(accuracies):8.2f} {statistics.mean(agreements):9.2f}")


if __name__ == "__main__":
    typer.run(main)
