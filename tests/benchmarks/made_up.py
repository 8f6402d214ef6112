"""A data set's methods, its teacher and results, made up: for tests of what is done with them."""

from pathlib import Path
from typing import Any

from benchmarks.reproduction.cases import Case, Experiment, resolve
from benchmarks.reproduction.rows import (
    Counts,
    LastReceipt,
    Machine,
    Measured,
    PoolDrawn,
    Row,
    TeacherAsked,
    Versions,
)

OURS = """
name = "fashion-mnist-ours"
seed = 1
budget_images = 50_000
[teacher]
name = "fashion-mnist-lenet5"
[pool]
dataset = "fashion-mnist"
images = 2_000
[synthesis]
method = "mixed-views"
images = 48_000
[student]
network = "lenet5-half"
augmentation = "none"
[training]
steps = 5_860
[evaluation]
dataset = "fashion-mnist"
held_out_fraction = 0.0
"""
FEW = OURS.replace("50_000", "5_000").replace("48_000", "3_000").replace('"none"', '"mixup"')
STANDARD_KD = OURS.replace("50_000", "2_000").replace("48_000", "0").replace("-ours", "-standard-kd")
TWO_POOLS = OURS.replace("50_000", "52_000").replace("-ours", "-released").replace("mixed-views", "fs-bbt")
TWO_POOLS += '\n[synthesis.cvae]\npool = "second"\n'
METHODS = {
    "ours": OURS,
    "ours-up-to-5000": FEW,
    "standard-kd": STANDARD_KD,
    "standard-kd-tuned": STANDARD_KD.replace("-kd", "-kd-tuned").replace('"none"', '"mixup"'),
    "two-pools": TWO_POOLS,
    "fs-bbt": OURS.replace("-ours", "-fs-bbt").replace("mixed-views", "fs-bbt"),
}


def folders(root: Path) -> dict[str, Path]:
    """``configs`` and ``bundles`` for ``resolve``, with the methods above and teachers' manifests."""
    configs, bundles = root / "configs", root / "bundles"
    (configs / "fashion-mnist").mkdir(parents=True)
    for method, content in METHODS.items():
        (configs / "fashion-mnist" / f"{method}.toml").write_text(content)
    for name, sha256 in (("fashion-mnist-lenet5", "0f"), ("fashion-mnist-other", "1e"), ("mnist-lenet5", "2d")):
        (bundles / name).mkdir(parents=True)
        (bundles / name / "teacher.toml").write_text(f'[weights]\nsha256 = "{sha256}"\n')
    return {"configs": configs, "bundles": bundles}


def found(root: Path, **of_case: Any) -> Experiment:
    """The experiment of a case of the folders at ``root``, ours under seed 1 unless said otherwise."""
    case = Case(**{"dataset": "fashion-mnist", "method": "ours", "seed": 1, **of_case})
    return resolve(case, configs=root / "configs", bundles=root / "bundles")


def row(experiment: Experiment, *, accuracy: float, **changed: Any) -> Row:
    """A result of an experiment, with an agreement two points above its accuracy."""
    config = experiment.config
    budget = config.budget_images
    fields: dict[str, Any] = {
        "dataset": experiment.case.dataset,
        "method": experiment.case.method,
        "student": config.student.network,
        "answers": budget,
        "pool": PoolDrawn(dataset="fashion-mnist", images=config.pool.images, draw="balanced"),
        "disclosure": experiment.case.disclosure,
        "seed": config.seed,
        "config_digest": config.digest(),
        "teacher": TeacherAsked(
            name="t", version="1", weights_sha256=str(experiment.weights_sha256), accuracy=0.9063
        ),
        "result": Measured(accuracy=accuracy, agreement=accuracy + 0.02),
        "baselines": {},
        "test_images": 10_000,
        "counts": Counts(
            planned=budget, bought=budget, charged_by_server=budget, in_audit_log=budget, answers=7, receipts=7
        ),
        "by_phase": {"pool": budget},
        "last_receipt": LastReceipt(
            sequence=8, event_hash=f"{experiment.folder_name}", signing_key="k", signature="s"
        ),
        "seconds": {"train_student": 100.0},
        "cpu_seconds": 100.0,
        "resumed": False,
        "finished_at": "2026-01-01T00:00:00+00:00",
        "versions": Versions(python="3", torch="2", numpy="2", commit="c", dirty=False),
        "machine": Machine(cpu="c", cores=2, threads=1, device="cpu"),
        "config": config.model_dump(mode="json"),
    }
    return Row(**{**fields, **changed})
