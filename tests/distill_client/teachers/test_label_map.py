"""Their classes to ours: mapped, rejected, pooled, summed; a run that learns nothing stops; permission; enlarging."""

import threading
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from PIL import Image
from typer.testing import CliRunner

from distill_client.cli import app
from distill_client.errors import ConfigError, TeacherProtocolError
from distill_client.teachers.adapters.kinds import load_teacher_file
from distill_client.teachers.label_map import LabelMap, Usefulness
from distill_client.teachers.map_proposal import as_toml, propose
from distill_client.teachers.permission import require_permission
from distill_client.teachers.teacher_toml import self_contained_text
from distill_client.teachers.upscaling import Upscaling
from shared.wire.images import batch_digest, image_digests
from tests.distill_client.teachers.adapters.vendor import IMAGES, Asked, Reply, Vendor, vendor
from tests.distill_client.teachers.custom_http.described import a_file, asked_as

OURS = ["cat", "dog", "other"]


@pytest.fixture
def theirs() -> Any:
    with vendor() as found:
        yield found


def test_several_of_theirs_are_one_of_ours() -> None:
    labels = LabelMap(OURS, {"tabby": "cat", "siamese": "cat", "LABEL_7": "dog"})
    assert labels.scores_of_ours({"tabby": 0.5, "siamese": 0.25, "LABEL_7": 0.25}) == {"cat": 0.75, "dog": 0.25}


def test_case_and_spaces_matter_unless_folded() -> None:
    with pytest.raises(TeacherProtocolError, match=r"'Tabby  Cat'.*unmapped"):
        LabelMap(OURS, {"tabby cat": "cat"}).scores_of_ours({"Tabby  Cat": 1.0})
    folds = LabelMap(OURS, {"tabby cat": "cat"}, folds=True)
    assert folds.scores_of_ours({" Tabby  CAT": 0.5, "DOG": 0.5}) == {"cat": 0.5, "dog": 0.5}
    with pytest.raises(ConfigError, match="mapped twice"):
        LabelMap(OURS, {"A": "cat", "a": "dog"}, folds=True)
    with pytest.raises(ConfigError, match="two classes differ by case"):
        LabelMap(["a", "A"], {}, folds=True)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ({"cat": 0.3, "tree": 0.6}, {"cat": 0.75}),  # 0.3 of the 0.4 that is not a tree
        ({"cat": 0.2, "dog": 0.2, "tree": 0.6}, {"cat": 0.5, "dog": 0.5}),
        ({"cat": 0.9, "dog": 0.9, "tree": 0.9}, {"cat": 0.5, "dog": 0.5}),  # independent scores
        ({"tree": 0.6, "house": 0.4}, {}),
        ({"cat": 0.6, "dog": 0.4}, {"cat": 0.6, "dog": 0.4}),
        ({}, {}),
    ],
)
def test_what_is_rejected_leaves_what_is_known_of_ours(scores: dict[str, float], wanted: dict[str, float]) -> None:
    found = LabelMap(OURS, {}, unmapped="reject").scores_of_ours(scores)
    assert found == pytest.approx(wanted)


def test_unmapped_names_may_be_pooled() -> None:
    labels = LabelMap(OURS, {}, unmapped="pool:other")
    assert labels.scores_of_ours({"cat": 0.5, "tree": 0.25, "house": 0.25}) == {"cat": 0.5, "other": 0.5}


def test_names_are_remembered_from_any_thread_and_not_without_end() -> None:
    labels = LabelMap(OURS, {}, unmapped="reject")

    def answer(number: int) -> None:
        for turn in range(500):
            labels.scores_of_ours({"cat": 0.1, f"name {number} {turn}": 0.9})

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labels.names_that_came()["cat"] == 32 * 500
    assert len(labels.names_that_came()) <= 10_000
    assert "and 9" in labels.describe_unmapped()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"label_map": {"a": "Hat"}}, "label_map.a is 'Hat'"),
        ({"label_map": {"a": 4}}, "label_map.a is 4"),
        ({"label_map": {"a": -1}}, "label_map.a is -1"),
        ({"label_map": {"a": True}}, "label_map"),
        ({"unmapped": "ignore"}, "unmapped is 'ignore'"),
        ({"unmapped": "pool:Hat"}, "unmapped is 'pool:Hat'"),
        ({"min_size": "64"}, "min_size"),
    ],
)
def test_a_map_that_cannot_be_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="validation error") as refused:
        a_file("http://teacher.test", **keys)
    assert says in str(refused.value)


def test_a_map_beside_the_file_goes_into_the_copy_that_a_run_keeps(tmp_path: Path) -> None:
    content = a_file("http://teacher.test").model_dump(mode="json", exclude_unset=True)
    path = tmp_path / "teacher.toml"
    path.write_text(tomli_w.dumps({**content, "label_map_file": "map.toml"}))
    with pytest.raises(ConfigError, match=r"map\.toml: cannot be read"):
        load_teacher_file(path)
    (tmp_path / "map.toml").write_text('[label_map]\n"boot" = 3\n')
    assert load_teacher_file(path).labels.ours("boot") == "Ankle boot"
    kept = tmp_path / "kept.toml"
    kept.write_text(self_contained_text(path))
    (tmp_path / "map.toml").unlink()
    assert load_teacher_file(kept).labels.ours("boot") == "Ankle boot"


def test_a_rejected_answer_is_paid_for_and_says_nothing(theirs: Vendor, tmp_path: Path) -> None:
    theirs.always({"top": "tree"})
    keys = {"reply": {"label": "top"}, "answers": "label", "unmapped": "reject"}
    with asked_as(a_file(theirs.url, **keys), tmp_path) as (teacher, ledger):
        assert teacher.card().is_closed_set is False
        answer = teacher.label(IMAGES[:1], "key")
        assert (answer.values.tolist(), answer.charged, ledger.usage().spent) == ([-1], 1, 1)


def test_a_run_whose_first_answers_are_mostly_rejected_stops_and_names_them(theirs: Vendor, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply({"top": "Sandal" if len(theirs.asked) % 3 == 0 else f"tree {len(theirs.asked) % 2}"})

    theirs.answer = answer
    keys = {"reply": {"label": "top"}, "answers": "label", "unmapped": "reject"}
    with asked_as(a_file(theirs.url, **keys), tmp_path) as (teacher, ledger):
        for number in range(20):
            teacher.label(IMAGES[:1], f"key-{number}")
        with pytest.raises(ConfigError, match=r"14 of the first 20 answers.*'tree [01]' \(7\)"):
            teacher.label(IMAGES[:1], "one more")
        assert (len(theirs.asked), ledger.usage().spent) == (20, 20)


def test_half_of_the_answers_is_enough_to_go_on() -> None:
    useful = Usefulness(LabelMap(OURS, {}))
    useful.count(19, 19)
    useful.require()
    useful.count(19, 0)
    useful.require()
    useful.count(1, 1)
    with pytest.raises(ConfigError, match="20 of the first 39"):
        useful.require()


def test_nothing_is_bought_without_permission(tmp_path: Path) -> None:
    file = a_file("http://127.0.0.1:9", i_have_permission=False)
    with pytest.raises(ConfigError, match="terms of service forbid"):
        require_permission(file)
    path = tmp_path / "teacher.toml"
    path.write_text(tomli_w.dumps(file.model_dump(mode="json", exclude_unset=True)))
    for command in (
        ["run", "configs/demo-fashion-mnist.toml", "--teacher", str(path), "--out", str(tmp_path / "run")],
        ["teacher", "map", str(path), "--images", str(tmp_path), "--yes"],
    ):
        found = CliRunner().invoke(app, command)
        assert isinstance(found.exception, ConfigError), command
        assert "i_have_permission" in str(found.exception)
        assert found.exception.exit_code == 2
        assert "\n" not in str(found.exception)
    assert not (tmp_path / "run").exists()
    require_permission(a_file("http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("size", "smallest", "method", "wanted"),
    [
        ((28, 28), (64, 64), "nearest", (84, 84)),
        ((32, 32), (64, 64), "nearest", (64, 64)),
        ((100, 20), (64, 64), "nearest", (400, 80)),
        ((28, 28), (64, 64), "bicubic", (64, 64)),
        ((100, 20), (64, 64), "bicubic", (320, 64)),
        ((64, 80), (64, 64), "nearest", None),
    ],
)
def test_images_are_enlarged_in_proportion_and_no_pixel_is_lost(
    size: tuple[int, int], smallest: tuple[int, int], method: Any, wanted: tuple[int, int] | None
) -> None:
    found = Upscaling.to_reach(*size, smallest, method)
    if found is None:
        assert wanted is None
        return
    assert (found.height, found.width) == wanted
    images_nhwc = np.random.default_rng(0).integers(0, 256, (2, *size, 1), np.uint8)
    enlarged = found.apply(images_nhwc)
    assert enlarged.shape == (2, *wanted, 1)
    if method == "nearest":
        assert np.array_equal(enlarged[:, :: found.factor, :: found.factor], images_nhwc)


def test_the_client_counts_the_image_that_it_had_and_not_the_enlarged_one(theirs: Vendor, tmp_path: Path) -> None:

    theirs.always([0.7, 0.1, 0.1, 0.1])
    file = a_file(theirs.url, reply={"scores": "@"}, min_size="10x10")
    with asked_as(file, tmp_path) as (teacher, ledger):
        teacher.label(IMAGES[:1], "key")
        (asked,) = [event for event in ledger.events() if event.kind == "ask"]
    assert asked.input_digest == batch_digest(image_digests(IMAGES[:1]))


def test_a_proposal_says_why() -> None:
    came = Counter({"Dog": 9, "cat": 8, "LABEL_2": 7, "doggs": 6, "tabby": 5, "tree": 4})
    found = {each.theirs: each for each in propose(came, OURS, {"tabby": Counter({"cat": 4, "dog": 1})})}
    assert {name: each.ours for name, each in found.items()} == {
        "Dog": "dog",
        "cat": "cat",
        "LABEL_2": "other",
        "doggs": "dog" if found["doggs"].ours else None,
        "tabby": "cat",
        "tree": None,
    }
    text = as_toml(list(found.values()), OURS, 9)
    assert found["tabby"].reason == "of the images it was the best answer to, 4 of 5 are of that class; in 5 answers"

    assert tomllib.loads(text)["label_map"]["tabby"] == "cat"
    assert '# tree = "?"' in text


def test_a_proposal_with_hostile_names_is_toml() -> None:

    names = ['a"\n[x]\nb = 1', "\x7f\\", "é\U0001f600", "cat"]
    text = as_toml(propose(Counter(dict.fromkeys(names, 1)), OURS), OURS, 1)
    assert tomllib.loads(text) == {"label_map": {"cat": "cat"}}


def test_distill_teacher_map_asks_a_few_images_and_counts_them(theirs: Vendor, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        named = {"Sneaker": 0.6, "tee": 0.3} if len(theirs.asked) % 2 else {"SANDAL": 0.9}
        return Reply({"results": [{"name": name, "score": score} for name, score in named.items()]})

    theirs.answer = answer
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    path = tmp_path / "teacher.toml"
    file = a_file(theirs.url, price_per_image="0.01").model_dump(mode="json", exclude_unset=True)
    path.write_text(tomli_w.dumps(file))
    words = [
        "teacher",
        "map",
        str(path),
        "--images",
        str(pictures),
        "--count",
        "4",
        "--out",
        str(tmp_path / "m.toml"),
    ]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, ConfigError)
    assert theirs.asked == []
    found = CliRunner().invoke(app, [*words, "--yes"])
    assert found.exception is None, found.output
    assert "they cost 0.04 USD" in found.output.replace("\n", " ")
    assert len(theirs.asked) == 4
    assert "SANDAL" in (tmp_path / "m.toml").read_text()
    path.write_text(tomli_w.dumps({**file, "label_map_file": "m.toml"}))
    assert load_teacher_file(path).labels.ours("SANDAL") == "Sandal"
