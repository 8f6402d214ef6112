"""docs/results.md and the README say what the committed results say, and nothing else."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.reproduction.caveats import caveats, coverage
from benchmarks.reproduction.curves import curve_name, draw_curve, points_of
from benchmarks.reproduction.outcomes import Section, read_sections
from benchmarks.reproduction.published import TARGETS
from benchmarks.reproduction.rows import Measured, Row, Versions, append_row
from benchmarks.reproduction.tables import METHODS, case_table, curves, main_tables, proof, readme_table, target_table
from benchmarks.results_page import CURVES, PAGE, PageError, filled, pages, pictures
from tests.benchmarks.made_up import folders, found, row

PLAN = """
[[group]]
about = "all"
section = "main"
dataset = "fashion-mnist"
methods = ["standard-kd", "standard-kd-tuned", "fs-bbt", "ours"]
[[group]]
about = "few"
section = "curve"
dataset = "fashion-mnist"
methods = ["ours"]
answers = [2_500, 5_000]
[[group]]
about = "a case"
section = "case"
dataset = "fashion-mnist"
methods = ["ours"]
disclosures = ["label"]
"""


def recorded(root: Path, rows: Iterable[Row]) -> tuple[Section, ...]:
    """What came of the plan above, of these rows alone."""
    (root / "plan.toml").write_text(PLAN)
    for each in rows:
        append_row(each, root / "results")
    places = {"configs": root / "configs", "bundles": root / "bundles", "results": root / "results"}
    return read_sections(root / "plan.toml", **places)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folders(tmp_path)
    return tmp_path


@pytest.fixture
def sections(root: Path) -> tuple[Section, ...]:
    """Three seeds of ours and one of FS-BBT at the whole budget, two of few answers; none of labels."""
    alone = {"student_alone": Measured(accuracy=0.81, agreement=0.82)}
    rows = [
        row(found(root, method="standard-kd"), accuracy=0.83, baselines=alone),
        row(found(root, method="standard-kd-tuned"), accuracy=0.85),
        row(found(root, method="fs-bbt"), accuracy=0.8473),
    ]
    rows += [row(found(root, seed=seed), accuracy=0.868 + 0.002 * seed) for seed in (1, 2, 3)]
    for answers, accuracy in ((2_500, 0.84), (5_000, 0.85)):
        few = [found(root, seed=seed, answers=answers) for seed in (1, 2)]
        rows += [row(experiment, accuracy=accuracy, resumed=True) for experiment in few]
    superseded = row(found(root, student="lenet5"), accuracy=0.99)  # in no plan
    return recorded(root, [*rows, superseded])


def test_the_pages_are_those_of_the_committed_results() -> None:
    sections = read_sections()
    for path, text in pages(sections).items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run benchmarks/results_page.py"
    wanted = set(pictures(sections))
    assert {path.name for path in CURVES.glob("*.svg")} == wanted
    assert set(re.findall(r"\(curves/([^)]+)\)", PAGE.read_text(encoding="utf-8"))) == wanted


def test_the_pages_know_every_method_and_student_of_the_plan() -> None:
    for section in read_sections():
        assert section.blocked == (), "a case of the plan cannot be run"
        for outcome in section.outcomes:
            assert outcome.experiment.case.method in METHODS
            if section.group.section != "case":
                assert (section.group.dataset, outcome.student) in TARGETS


def test_a_main_table_has_means_deviations_and_what_was_published(sections: tuple[Section, ...]) -> None:
    table = main_tables(sections).split("###")[1]
    assert "| **ours** | 50,000 | 87.20 ± 0.20 % | 89.20 ± 0.20 % | 100 | `.venv/bin/python" in table
    assert "| FS-BBT, one pool | 50,000 | 84.73 % (1 seed) |" in table
    assert "| student-alone: true labels of the pool | 0 | 81.00 % (1 seed) | 82.00 % (1 seed) |" in table
    assert "*published: DivBFKD (teacher 90.90 %)* | *about 2.0 million* | *86.50 ± 0.18 %*" in table
    assert "| goal | 50,000 | 88.0 %: 0.80 short |" in table
    assert "99.00" not in table


def test_targets_say_how_far_we_came(sections: tuple[Section, ...]) -> None:
    first = target_table(sections).splitlines()[2]
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert cells[:4] == ["Fashion-MNIST, LeNet5-half", "88.0 %", "87.20 ± 0.20 %", "0.80 short"]
    assert cells[4:] == [
        "84.73 %",
        "2,500",
        "84.00 ± 0.00 % (2 seeds) with 2,500",
        "0.73 short; reached by 2 seeds so far with 5,000",
    ]
    assert "not run yet" in target_table(sections).splitlines()[3]


@pytest.mark.parametrize(("seeds", "told"), [((1,), "reached by 1 seed so far"), ((1, 2, 3), "reached")])
def test_a_goal_is_reached_by_three_seeds(root: Path, seeds: tuple[int, ...], told: str) -> None:
    of_ours = recorded(root, [row(found(root, seed=seed), accuracy=0.89) for seed in seeds])
    assert [cell.strip() for cell in target_table(of_ours).splitlines()[2].split("|")][4] == told
    assert f"| goal | 50,000 | 88.0 %: {told} |" in main_tables(of_ours)


def test_a_goal_that_is_missed_by_a_hair_is_missed(root: Path) -> None:
    of_ours = recorded(
        root, [row(found(root, seed=seed), accuracy=each) for seed, each in enumerate((0.88, 0.8799), 1)]
    )
    assert "| goal | 50,000 | 88.0 %: 0.005 short |" in main_tables(of_ours)
    nearer = recorded(root, [row(found(root, seed=3), accuracy=0.88)])
    assert "| goal | 50,000 | 88.0 %: 0.003 short |" in main_tables(nearer)


def test_rows_of_what_is_not_committed_and_means_over_versions_of_torch_are_named(root: Path) -> None:
    newer = Versions(python="3", torch="2.15.0", numpy="2", commit="c", dirty=False)
    older, dirty = newer.model_copy(update={"torch": "2.11.0"}), newer.model_copy(update={"dirty": True})
    versions = {1: newer, 2: older, 3: dirty}
    rows = [row(found(root, seed=seed), accuracy=0.87, versions=ran) for seed, ran in versions.items()]
    rows.append(row(found(root, disclosure="label"), accuracy=0.8, versions=dirty))
    assert caveats(recorded(root, rows)).split("\n\n") == [
        "Some rows are of files that no commit has (`dirty`), until they are run again: "
        "Fashion-MNIST, LeNet5-half, ours with 50,000 answers (seed 3); "
        "Fashion-MNIST, LeNet5-half, a case, `label`, ours with 50,000 answers (seed 1).",
        "Some means are over different versions of torch. 2.11.0 for seed 2, 2.15.0 for seeds 1 and 3: "
        "Fashion-MNIST, LeNet5-half, ours with 50,000 answers.",
    ]


def test_rows_that_need_no_caveat_are_said_to_need_none(sections: tuple[Section, ...]) -> None:
    assert caveats(sections) == "Every row is of committed files.\n\nNo mean is over different versions of torch."


def test_methods_that_are_not_compared_everywhere_are_named(root: Path) -> None:
    (root / "configs" / "mnist").mkdir()
    for method in ("ours", "fs-bbt"):
        content = (root / "configs" / "fashion-mnist" / f"{method}.toml").read_text()
        (root / "configs" / "mnist" / f"{method}.toml").write_text(content)
    mnist = '[[group]]\nabout = "all"\nsection = "main"\ndataset = "mnist"\nmethods = ["ours"]\n'
    (root / "plan.toml").write_text(PLAN + mnist)
    places = {"configs": root / "configs", "bundles": root / "bundles", "results": root / "results"}
    assert coverage(read_sections(root / "plan.toml", **places), root / "configs") == (
        "Compared on Fashion-MNIST alone: standard-kd; standard-kd, under our schedule for few answers; "
        "FS-BBT, one pool (configured for MNIST too, and in no plan)."
    )
    assert coverage(recorded(root, []), root / "configs") == "Every method is compared on every data set."


def test_a_case_without_rows_is_not_run_yet(sections: tuple[Section, ...]) -> None:
    assert "| Fashion-MNIST: a case: `label` | **ours** | LeNet5-half | 50,000 | not run yet |" in case_table(
        sections
    )


def test_the_readme_has_what_was_measured_alone(sections: tuple[Section, ...]) -> None:
    rows = readme_table(sections).splitlines()[2:]
    assert len(rows) == 1
    assert "| 83.00 % (1 seed) (2,000) | 85.00 % (1 seed) (2,000) | 84.73 %" in rows[0]
    assert "| 84.73 % (1 seed) (50,000) | 87.20 ± 0.20 % (50,000) |  | 84.00 ± 0.00 % (2 seeds) (2,500) |" in rows[0]
    assert "84.73 (50,000 (52,000 by its code)); 86.50 (about 2.0 million)" in rows[0]
    assert proof(sections).startswith("10 runs, 219,000 images: ")


def test_a_picture_is_of_its_data(sections: tuple[Section, ...], tmp_path: Path) -> None:
    outcomes = curves(sections)["fashion-mnist", "lenet5-half"]
    points = points_of(outcomes)
    assert [answers for answers, _, _ in points["ours"]] == [2_500, 5_000, 50_000]
    name = curve_name("fashion-mnist", "lenet5-half", points)
    draw_curve(tmp_path / "one" / name, "fashion-mnist", "lenet5-half", points)
    draw_curve(tmp_path / "two" / name, "fashion-mnist", "lenet5-half", points)
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    fewer = {method: line[:-1] for method, line in points.items()}
    assert curve_name("fashion-mnist", "lenet5-half", fewer) != name


def test_prose_around_a_block_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: main by us -->\nold\n<!-- end -->\nafter\n")
    assert filled(page, {"main": "new"}) == "before\n<!-- generated: main by us -->\nnew\n<!-- end -->\nafter\n"
    with pytest.raises(PageError, match="other"):
        filled(page, {"main": "new", "other": "table"})
