"""What is compared: a method on a data set, with what is varied, as the very experiment that `distill run` takes.

A method is a folder's file: `configs/paper/DATASET/METHOD.toml`, whole and to be run by hand. What suits few answers
may be in `METHOD-up-to-N.toml` beside it, which holds for up to N answers, its budget, or in
`METHOD-up-to-N-per-image.toml`, which holds for up to N for each real image and no more than its budget. A case
changes in it what its options name, and nothing else.
"""

import hashlib
import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from distill_client.config import RunConfig, faults_of

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs" / "paper"
BUNDLES = PROJECT / "bundles"
_PART = re.compile(r"(?P<method>[a-z0-9-]+?)(-up-to-(?P<answers>\d+)(?P<each>-per-image)?)?")

Draw = Literal["balanced", "random"]


class CaseError(Exception):
    """There is no such experiment; the message names the option, its value and what is allowed."""


# What the teachers of each data set take: images of another one are brought to it.
_SIZES = {"fashion-mnist": "28x28x1", "mnist": "28x28x1", "cifar10": "32x32x3", "cifar100": "32x32x3"}


@dataclass(frozen=True)
class Case:
    """A method on a data set under a seed, and what is varied; None leaves what the method's file says.

    ``answers`` is everything bought, the pool included. Without it, the file's own budget, also with a smaller pool.
    """

    dataset: str
    method: str
    seed: int
    student: str | None = None
    answers: int | None = None
    pool_images: int | None = None
    pool: Draw = "balanced"
    pool_dataset: str | None = None
    disclosure: str = "probabilities"
    teacher: str | None = None

    def command(self, seeds: str = "") -> str:
        """What repeats it, or the same under several ``seeds``, such as "1,2,3", the command's default."""
        options = {
            "dataset": self.dataset,
            "method": self.method,
            "seeds": None if seeds == "1,2,3" else seeds or self.seed,
            "student": self.student,
            "answers": self.answers,
            "pool-images": self.pool_images,
            "pool": None if self.pool == "balanced" else self.pool,
            "pool-dataset": self.pool_dataset,
            "disclosure": None if self.disclosure == "probabilities" else self.disclosure,
            "teacher": self.teacher,
        }
        given = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
        return " ".join([".venv/bin/python benchmarks/paper.py", *given])


@dataclass(frozen=True)
class Experiment:
    """A case with its configuration, which the method's ``file`` and the case make.

    ``weights_sha256`` is the teacher's, None where its bundle is not made yet.
    """

    case: Case
    config: RunConfig
    file: Path
    bundle: Path
    weights_sha256: str | None

    @property
    def folder_name(self) -> str:
        """A name of its own below the folder of runs; the same when this program has learnt more keys since."""
        case, config = self.case, self.config
        said = {
            "config": config.model_dump(mode="json", exclude_defaults=True),
            "disclosure": case.disclosure,
            "weights": self.weights_sha256,
        }
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        network = re.sub(r"[^a-z0-9]+", "-", config.student.network.lower())
        return f"{case.dataset}/{case.method}-{network}-{config.budget_images}-seed{case.seed}-{digest[:8]}"


def methods_of(dataset: str, configs: Path = CONFIGS) -> list[str]:
    """The methods there are for a data set. Raises CaseError where there are none."""
    return sorted({file.method for file in _files_of(dataset, configs)})


def resolve(case: Case, *, configs: Path = CONFIGS, bundles: Path = BUNDLES) -> Experiment:
    """The experiment of a case. Raises CaseError."""
    path = _file_for(case, configs)
    _require_among_teachers(case, bundles)
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    _vary(content, case, path)
    try:
        config = RunConfig.model_validate(content)
    except ValidationError as error:
        raise CaseError(f"{path}: " + "; ".join(faults_of(error))) from error
    bundle = bundles / config.teacher.name
    manifest = bundle / "teacher.toml"
    weights = tomllib.loads(manifest.read_text())["weights"]["sha256"] if manifest.exists() else None
    return Experiment(case, config, path, bundle, weights)


def _require_among_teachers(case: Case, bundles: Path) -> None:
    """Raise CaseError for another teacher than the data set has; the file's own may still be to be made."""
    there = sorted(manifest.parent.name for manifest in bundles.glob(f"{case.dataset}-*/teacher.toml"))
    if case.teacher not in (None, *there):
        allowed = ", ".join(there) or "none yet"
        raise CaseError(
            f"--teacher is {case.teacher!r}; allowed for {case.dataset}, of those in {bundles}, are {allowed}"
        )


def require_teacher(experiment: Experiment) -> None:
    """Raise CaseError, which says how it is made, when the teacher's bundle is not there."""
    if experiment.weights_sha256 is None:
        name, dataset = experiment.config.teacher.name, experiment.case.dataset
        network = name.removeprefix(f"{dataset}-")
        raise CaseError(
            f"there is no teacher {name} in {experiment.bundle.parent}; make it: "
            f"teacher train --dataset {dataset} --network {network} --out {experiment.bundle}"
        )


@dataclass(frozen=True)
class _File:
    """A file of a method; up to how many answers it holds, in all or for each real image, or None: for any."""

    method: str
    bound: int | None
    is_per_image: bool
    path: Path

    def most(self, pool_images: int) -> int | None:
        """How many answers it holds for with such a pool."""
        if self.bound is None or not self.is_per_image:
            return self.bound
        budget_images = int(tomllib.loads(self.path.read_text(encoding="utf-8"))["budget_images"])
        return min(self.bound * pool_images, budget_images)


def _files_of(dataset: str, configs: Path) -> list[_File]:
    """All files of a data set."""
    if not re.fullmatch(r"[a-z0-9-]+", dataset) or not (configs / dataset).is_dir():
        allowed = ", ".join(sorted(path.name for path in configs.iterdir() if path.is_dir()))
        raise CaseError(f"--dataset is {dataset!r}; allowed are {allowed}")
    found = []
    for path in sorted((configs / dataset).glob("*.toml")):
        part = _PART.fullmatch(path.stem)
        if part is None:
            raise CaseError(
                f"{path}: its name is not METHOD.toml, METHOD-up-to-N.toml or METHOD-up-to-N-per-image.toml"
            )
        bound = int(part["answers"]) if part["answers"] else None
        found.append(_File(part["method"], bound, bool(part["each"]), path))
    return found


def _file_for(case: Case, configs: Path) -> Path:
    """The method's file for so many answers: the one with the smallest bound that is not below them."""
    files = [file for file in _files_of(case.dataset, configs) if file.method == case.method]
    whole = [file.path for file in files if file.bound is None]
    if not whole:
        allowed = ", ".join(methods_of(case.dataset, configs))
        raise CaseError(f"--method is {case.method!r}; allowed for {case.dataset} are {allowed}")
    pool_images = case.pool_images or int(tomllib.loads(whole[0].read_text(encoding="utf-8"))["pool"]["images"])
    bounds = sorted((most, file.path) for file in files if (most := file.most(pool_images)) is not None)
    fitting = [path for most, path in bounds if case.answers is not None and case.answers <= most]
    return [*fitting, *whole][0]


def _vary(content: dict[str, Any], case: Case, path: Path) -> None:
    """Change in a file's content what the case names."""
    pool, synthesis = content["pool"], content["synthesis"]
    beside, odd = divmod(content["budget_images"] - synthesis["images"], pool["images"])
    if odd or beside < 1:
        raise CaseError(f"{path}: its budget is not its synthetic images and its pool, once or more")
    pool["images"] = case.pool_images or pool["images"]
    real = beside * pool["images"]  # FS-BBT as released buys a second pool
    only_pool = synthesis["images"] == 0
    answers = case.answers or (real if only_pool else content["budget_images"])
    if answers < real or (only_pool and answers != real):
        allowed = f"is {real:,}, its pool" if only_pool else f"begins at {real:,}, its real images; see --pool-images"
        raise CaseError(f"--answers is {answers:,}; what {case.method} buys {allowed}")
    synthesis["images"] = answers - real
    content["budget_images"], content["seed"] = answers, case.seed
    content["teacher"]["name"] = case.teacher or content["teacher"]["name"]
    content["student"]["network"] = case.student or content["student"]["network"]
    if case.pool == "random":
        pool["balanced"] = False
    if case.pool_dataset is not None:
        size = _SIZES[case.dataset]
        pool.update(dataset=case.pool_dataset, balanced=False, labels="ignore", size=size)
        if _SIZES.get(case.pool_dataset) != size:  # the teachers of published data sets resize nothing
            pool["resize"] = "crop"
        content.setdefault("baselines", {})["student_alone"] = False
