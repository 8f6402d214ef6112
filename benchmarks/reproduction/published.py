"""What was published, what it really took, and what we aim at. Accuracies in percent, on the official test sets.

FS-BBT: "Black-box Few-shot Knowledge Distillation", ECCV 2022, its result tables, with the counts of its released
code. DivBFKD: ECML-PKDD 2024, arXiv 2604.25795, mean and deviation of three runs,
with the queries that its released code makes: epochs of the generator's training times N. BBKD, active MixUp: CVPR
2020, as quoted by FS-BBT.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published accuracy. ``asked``: what its teacher was asked; ``teacher``: that teacher's accuracy."""

    who: str
    accuracy: float
    teacher: float
    asked: str
    deviation: float | None = None


@dataclass(frozen=True)
class Target:
    """What a data set and a student are to reach: ``goal`` with the whole budget; FS-BBT's accuracy with ``few``."""

    title: str
    budget: int
    fs_bbt: float
    goal: float
    few: int


DATASETS = {"fashion-mnist": "Fashion-MNIST", "mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
STUDENTS = {
    "lenet5-half": "LeNet5-half",
    "lenet5": "LeNet5",
    "alexnet-half": "AlexNet-half",
    "alexnet": "AlexNet",
    "resnet20": "ResNet-20",
    "torchvision:mobilenet_v3_small": "MobileNetV3-small",
}

TARGETS = {
    ("fashion-mnist", "lenet5-half"): Target("Fashion-MNIST, LeNet5-half", 50_000, 84.73, 88.0, 2_500),
    ("fashion-mnist", "lenet5"): Target("Fashion-MNIST, LeNet5", 50_000, 86.53, 88.8, 2_500),
    ("mnist", "lenet5-half"): Target("MNIST, LeNet5-half", 26_000, 98.42, 99.0, 2_600),
    ("mnist", "lenet5"): Target("MNIST, LeNet5", 26_000, 98.91, 99.1, 2_600),
    ("cifar10", "alexnet-half"): Target("CIFAR-10, AlexNet-half", 42_000, 74.10, 79.0, 4_200),
    ("cifar10", "alexnet"): Target("CIFAR-10, AlexNet", 42_000, 76.17, 80.5, 4_200),
    ("cifar100", "resnet20"): Target("CIFAR-100, ResNet-20", 45_000, 56.28, 62.0, 4_500),
}

_FASHION, _MNIST = "50,000 (52,000 by its code)", "26,000 (28,000 by its code)"
_CIFAR10, _CIFAR100 = "42,000 (44,000 by its code)", "45,000 (50,000 by its code)"

PUBLISHED = {
    ("fashion-mnist", "lenet5-half"): (
        Published("Student-Alone", 81.37, 90.15, "0"),
        Published("Standard-KD", 83.87, 90.15, "2,000"),
        Published("FS-BBT", 84.73, 90.15, _FASHION),
        Published("DivBFKD", 86.50, 90.90, "about 2.0 million", 0.18),
    ),
    ("fashion-mnist", "lenet5"): (
        Published("BBKD", 80.90, 90.80, "not stated"),
        Published("FS-BBT", 86.53, 90.15, _FASHION),
        Published("DivBFKD", 87.65, 90.90, "about 2.0 million", 0.37),
    ),
    ("mnist", "lenet5-half"): (
        Published("Student-Alone", 95.97, 99.18, "0"),
        Published("Standard-KD", 95.99, 99.18, "2,000"),
        Published("FS-BBT", 98.42, 99.18, _MNIST),
        Published("DivBFKD", 98.58, 99.28, "about 1.0 million", 0.06),
    ),
    ("mnist", "lenet5"): (
        Published("BBKD", 98.74, 99.29, "not stated"),
        Published("FS-BBT", 98.91, 99.18, _MNIST),
        Published("DivBFKD", 98.97, 99.28, "about 1.0 million", 0.04),
    ),
    ("cifar10", "alexnet-half"): (
        Published("Student-Alone", 54.59, 84.07, "0"),
        Published("Standard-KD", 58.96, 84.07, "2,000"),
        Published("FS-BBT", 74.10, 84.07, _CIFAR10),
        Published("DivBFKD", 76.97, 90.05, "about 4.0 million", 0.56),
    ),
    ("cifar10", "alexnet"): (
        Published("BBKD", 74.60, 83.07, "not stated"),
        Published("FS-BBT", 76.17, 84.07, _CIFAR10),
        Published("DivBFKD", 78.07, 90.05, "about 4.0 million", 0.26),
    ),
    ("cifar100", "resnet20"): (
        Published("Student-Alone", 32.85, 69.08, "0"),
        Published("Standard-KD", 36.79, 69.08, "5,000"),
        Published("BBKD", 53.41, 69.08, "not stated"),
        Published("FS-BBT", 56.28, 69.08, _CIFAR100),
        Published("DivBFKD", 59.91, 71.41, "about 25 million", 0.31),
    ),
}
