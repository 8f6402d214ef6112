import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from distill_client.config import RunConfig, load_config
from distill_client.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]
MINIMAL: dict[str, Any] = {
    "name": "small",
    "seed": 1,
    "budget_images": 100,
    "teacher": {"name": "fake"},
    "pool": {"dataset": "digits", "images": 40},
    "synthesis": {"images": 60},
    "student": {"network": "lenet5-half"},
    "training": {"steps": 20},
    "evaluation": {"dataset": "digits"},
}


def changed(**changes: object) -> dict[str, Any]:
    """The minimal configuration with keys (sections joined by two underscores) set or, by None, left out."""
    content = copy.deepcopy(MINIMAL)
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        if value is None:
            del place[key]
        else:
            place[key] = value
    return content


def load(tmp_path: Path, content: dict[str, Any] | str) -> RunConfig:
    path = tmp_path / "experiment.toml"
    path.write_text(content if isinstance(content, str) else tomli_w.dumps(content), encoding="utf-8")
    return load_config(path)


def test_the_least_that_must_be_said(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    assert (config.teacher.images_per_request, config.teacher.requests_in_flight) == (256, 2)
    assert config.synthesis.mixup.original_within == 0.05
    assert config.baselines.standard_kd
    assert config.evaluation.held_out_fraction == 0.02


@pytest.mark.parametrize(
    ("key", "inside", "outside"),
    [
        ("name", ["a", "A-b_c.9", "x" * 80], ["", "a b", "a/b", "x" * 81, "ä"]),
        ("seed", [0, 2**63 - 1], [-1, 2**63]),
        ("budget_images", [1], [0, -5]),
        ("teacher__name", ["x"], [""]),
        ("teacher__images_per_request", [1, 65_536], [0, 65_537]),
        ("teacher__requests_in_flight", [1, 64], [0, 65]),
        ("teacher__deadline_s", [0.001, 1e6], [0, -1, float("inf"), float("nan")]),
        ("pool__images", [1], [0, 1.5]),
        ("pool__balanced", [True, False], ["perhaps"]),
        ("synthesis__images", [0, 10_000_000], [-1, 10_000_001]),
        ("synthesis__mixup__alpha", [0.1, 10], [0, -1, float("inf")]),
        ("synthesis__mixup__lambda_decimals", [1, 6], [0, 7]),
        ("synthesis__mixup__original_within", [0, 0.49], [0.5, -0.01]),
        ("synthesis__cvae__network", ["auto", "mlp", "conv"], ["transformer"]),
        ("synthesis__cvae__latent", [1, 1024], [0, 1025]),
        ("synthesis__cvae__epochs", [1], [0]),
        ("synthesis__cvae__batch_size", [1], [0]),
        ("synthesis__cvae__learning_rate", [1e-9], [0, float("nan")]),
        ("synthesis__cvae__z", ["hybrid", "gaussian", "uniform"], ["normal"]),
        ("synthesis__cvae__z_uniform_bound", [0.1], [0]),
        ("student__augmentation", ["none", "geometric", "mixup", "combination"], ["flip"]),
        ("student__pool_repeats", [1, 100], [0, 101, 1.5]),
        ("training__batch_size", [1], [0]),
        ("training__steps", [1], [0]),
        ("training__learning_rate", [1e-9], [0, -1]),
        ("training__warmup_steps", [0], [-1]),
        ("training__decay", ["constant", "cosine", "steps"], ["linear"]),
        ("training__l2", [0, 1e-4], [-1e-4]),
        ("training__averaging_decay", [0, 0.999], [1, -0.1]),
        ("augmentation__rotate_degrees", [0, 180], [-1, 181]),
        ("augmentation__shift_fraction", [0, 0.5], [-0.1, 0.6]),
        ("augmentation__flip", [True], ["left"]),
        ("augmentation__real_alone", [True], ["made"]),
        ("baselines__student_alone", [False], ["x"]),
        ("baselines__standard_kd_augmentation", ["none"], ["x"]),
        ("evaluation__held_out_fraction", [0, 0.49], [0.5, -0.1]),
        ("budget__policy", ["spend-all"], ["until-dawn"]),
        ("budget__rounds", [1, 1_000], [0, 1_001]),
        ("budget__interim_length", [0.01, 1], [0, 1.01]),
        ("budget__least_gain", [0, 100], [-0.1, 100.1, float("nan")]),
        ("budget__patience", [1, 9], [0]),
        ("synthesis__active__candidates", [1], [0]),
        ("synthesis__active__least_share", [0, 0.7], [-0.1, 1.1]),
        ("synthesis__active__most_share", [0.3, 1], [-0.1, 1.1]),
        ("synthesis__active__share_step", [0.001, 1], [0, 1.1]),
    ],
)
def test_every_bound(tmp_path: Path, key: str, inside: list[object], outside: list[object]) -> None:
    for value in inside:
        load(tmp_path, changed(**{key: value}))
    for value in outside:
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, changed(**{key: value}))
        message = str(caught.value)
        assert key.replace("__", ".") in message
        assert f"(given: {value!r})" in message
        assert "experiment.toml" in message
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "key", ["sede", "teacher__images_per_requests", "synthesis__cvae__epoch", "training__step", "extra"]
)
def test_a_misspelt_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace("__", r"\.") + ": Extra inputs are not permitted"):
        load(tmp_path, changed(**{key: 3}))


@pytest.mark.parametrize(
    "key", ["name", "seed", "budget_images", "pool__images", "student__network", "teacher__name"]
)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace("__", r"\.") + ": Field required"):
        load(tmp_path, changed(**{key: None}))


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, changed(seed=-1, pool__images=0, training__decay="x"))
    for key in ("seed", "pool.images", "training.decay"):
        assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_training_has_one_length(tmp_path: Path) -> None:
    assert load(tmp_path, changed(training__steps=None, training__epochs=3)).training.epochs == 3
    for both_or_none in (changed(training__epochs=3), changed(training__steps=None)):
        with pytest.raises(ConfigError, match=r"training: .*exactly one of epochs and steps"):
            load(tmp_path, both_or_none)


def test_a_warm_up_ends_before_its_training(tmp_path: Path) -> None:
    for length in ({"training__steps": 20}, {"training__steps": None, "training__epochs": 1}):
        assert load(tmp_path, changed(training__warmup_steps=19, **length)).training.warmup_steps == 19
    for warmup, steps, allowed in ((20, 20, "20 steps are 0 to 19"), (1, 1, "1 step are 0 to 0")):
        told = rf"training: warmup_steps is {warmup}; allowed with {allowed}, or the learning rate would only rise"
        with pytest.raises(ConfigError, match=told):
            load(tmp_path, changed(training__steps=steps, training__warmup_steps=warmup))


@pytest.mark.parametrize("content", ["name = ", "[[[", "name = 'a'\nname = 'b'", "\ufeff\x00"])
def test_what_is_no_toml_is_said_so(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match=r"experiment\.toml: not a TOML file"):
        load(tmp_path, content)


def test_what_is_no_text_or_not_there_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ConfigError, match=r"binary\.toml: not a TOML file"):
        load_config(tmp_path / "binary.toml")
    for path in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
            load_config(path)


def leaves(content: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        found += leaves(value, f"{prefix}{key}__") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def other_than(value: object) -> object:
    """A legal value beside ``value``, as far as types tell."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 + 0.001
    others = {"hybrid": "uniform", "auto": "conv", "cosine": "constant", "lump": "spread", "fs-bbt": "mixed-views"}
    others |= {"adam": "muon", "use": "ignore", "own": "second", "balanced": "by-class", "float32": "bfloat16"}
    return {**others, "spend-all": "until-flat", "none": "mixup", "combination": "none"}.get(str(value), f"{value}x")


# What has to change with a key for another value of it to be legal.
BESIDE: dict[str, dict[str, object]] = {
    "budget__policy": {"synthesis__method": "mixed-views"},
    "training__weight_decay": {"training__optimiser": "muon"},
}


def test_the_digest_is_of_the_content_and_changes_with_every_part_of_it(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL)
    backwards = {key: MINIMAL[key] for key in reversed(MINIMAL)}
    assert load(tmp_path, backwards).digest() == config.digest()
    resolved = config.model_dump(mode="json", exclude_none=True)
    assert RunConfig.model_validate(tomllib.loads(tomli_w.dumps(resolved))).digest() == config.digest()
    assert load(tmp_path, changed(training__averaging_decay=0)).digest() == config.digest()  # the default, said

    digests = {config.digest()}
    everything = leaves(resolved)
    assert len(everything) > 35
    for key, value in everything:
        changes = {**BESIDE.get(key, {}), key: other_than(value)}
        digests.add(load(tmp_path, changed(**changes)).digest())
    assert len(digests) == 1 + len(everything)


EXPERIMENTS = sorted([*(PROJECT / "configs").glob("*.toml"), *(PROJECT / "configs" / "paper").glob("*/*.toml")])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_experiment_of_the_project_loads(path: Path) -> None:
    config = load_config(path)
    assert config.pool.images + config.synthesis.images <= config.budget_images
