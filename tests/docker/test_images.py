"""The Dockerfiles: what goes into which image; and the locks they install from are parts of the development lock."""

import re
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SIDES = {"teacher": ("teacher_server", "distill_client"), "client": ("distill_client", "teacher_server")}
DOCKERFILES = {side: (PROJECT / "docker" / f"{side}.Dockerfile").read_text() for side in SIDES}
REQUIREMENTS = PROJECT / "requirements"
EXTRAS = {"server.txt": ("server", "digits", "onnx"), "client.txt": ("client", "digits")}
CUDA = ("nvidia-", "cuda-", "triton")


def instructions(side: str) -> list[str]:
    """A Dockerfile's instructions, one a line, without comments."""
    joined = re.sub(r"\\\n", " ", DOCKERFILES[side])
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def first_stage(side: str) -> list[str]:
    lines = DOCKERFILES[side].splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    stage = lines[starts[0] : starts[1]]
    return stage[: max(number for number, line in enumerate(stage) if line and not line.startswith("#")) + 1]


def pins(file: str) -> dict[str, set[str]]:
    """Package -> its pinned versions, of which a universal lock may have several."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", (REQUIREMENTS / file).read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_torch_is_installed_in_one_stage_that_both_images_share_word_for_word() -> None:
    stage = first_stage("teacher")
    assert stage == first_stage("client")
    text = "\n".join(stage)
    assert "ARG TORCH_INDEX" in text
    assert "--require-hashes -r /requirements/torch.txt" in text
    for side in SIDES:
        assert instructions(side)[0] == "FROM python:3.11-slim AS torch"
        final = [line for line in instructions(side) if line.startswith("FROM ")][-1]
        assert final == f"FROM torch AS {side}"


@pytest.mark.parametrize("side", SIDES)
def test_a_dockerfile_asks_a_registry_for_its_base_image_only(side: str) -> None:
    assert not re.search(r"^#\s*syntax\s*=", DOCKERFILES[side], re.MULTILINE | re.IGNORECASE)
    stages = re.findall(r"^FROM (\S+) AS (\S+)", DOCKERFILES[side], re.MULTILINE)
    own = {name for _, name in stages}
    assert {image for image, _ in stages} - own == {"python:3.11-slim"}


@pytest.mark.parametrize("side", SIDES)
def test_an_image_takes_its_own_side_and_shared_and_nothing_else(side: str) -> None:
    own, other = SIDES[side]
    copied = {word for line in instructions(side) if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert {"shared", own} <= copied
    assert not {word for word in copied if other in word or "bundles" in word or word in (".", "./", "data", "runs")}
    for name in copied - {"--from=program", "/app"}:
        assert (PROJECT / name).exists(), name


@pytest.mark.parametrize("side", SIDES)
def test_an_image_does_not_run_as_root(side: str) -> None:
    users = [line.split()[1] for line in instructions(side) if line.startswith("USER ")]
    assert users == ["10001:10001"]


def test_the_build_context_holds_neither_weights_nor_data_nor_runs() -> None:
    rules = [
        line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    taken = {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}
    assert not taken & {"bundles", "data", "runs", ".git", ".venv", "tests"}
    assert "**/*.safetensors" in rules


@pytest.mark.parametrize("file", ["torch.txt", "server.txt", "client.txt"])
def test_the_images_packages_are_the_versions_that_the_tests_ran_with(file: str) -> None:
    everything = pins("all.txt")
    here = pins(file)
    assert here
    assert {name: versions for name, versions in here.items() if versions != everything.get(name)} == {}


@pytest.mark.parametrize("file", ["all.txt", "torch.txt", "server.txt", "client.txt", "build.txt"])
def test_a_lock_is_hashed_and_names_no_registry(file: str) -> None:
    text = (REQUIREMENTS / file).read_text()
    assert "://" not in text
    assert "--index" not in text
    blocks = re.split(r"^(?=[a-z0-9.-]+==)", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("file", EXTRAS)
def test_an_images_lock_has_every_package_the_project_asks_for_but_torch_and_cuda(file: str) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(line for extra in EXTRAS[file] for line in project["optional-dependencies"][extra]),
    ]
    names = {re.split(r"[\[><=~! ;]", line)[0] for line in asked}
    here = pins(file)
    assert names - set(here) == {"torch", "torchvision"}
    assert not [name for name in here if name.startswith(CUDA)]
    assert {"torch", "torchvision"} <= set(pins("torch.txt"))
