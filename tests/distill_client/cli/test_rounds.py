"""`distill plan`, `run` and `resume` of a run that buys until it is flat, against the real application."""

import json
from pathlib import Path

from distill_client.results import sample_images
from distill_client.run_folder import open_run
from tests.distill_client.cli.support import Served, distill, one_object, write_config


def test_a_run_that_stops_early_is_audited_for_what_it_bought(served: Served, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "flat.toml",
        synthesis={"method": "mixed-views", "images": 60},
        budget={"policy": "until-flat", "rounds": 5, "least_gain": 100, "patience": 3},
        training={"steps": 3},
        baselines={"student_alone": False, "standard_kd": False},
        evaluation={"held_out_fraction": 0.2},
    )
    secret, folder = served.key("flat", budget=100), tmp_path / "run"
    planned = one_object(distill("plan", config, "--teacher", served.url, "--json", key=secret))
    assert planned["phases"] == {"pool": 40} | {f"views-{number}": 12 for number in range(1, 6)}
    assert (planned["total"], planned["policy"]) == (100, "until-flat")

    result = distill("run", config, "--teacher", served.url, "--out", folder, key=secret)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "stopped after round 3 of 5: round 3, at 76 answers, added" in " ".join(result.stdout.split())
    assert "round 1, at 52 answers, added" in result.stderr
    assert "all rows agree" in result.stdout
    audit = one_object(distill("audit", folder, "--json", key=secret))
    assert (audit["bought"], audit["charged_by_server"], audit["in_audit_log"], audit["receipts"]) == (76, 76, 76, 6)
    assert audit["equal"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["images"]["not_bought"] == {"views-4": 12, "views-5": 12}
    again = one_object(distill("resume", folder, "--json", key=secret))
    assert again["rounds"] == summary["rounds"]
    with open_run(folder) as opened:
        assert list(sample_images(opened)) == ["pool", "views-1", "views-2", "views-3"]


def test_of_many_rounds_the_picture_shows_the_first_and_the_last(served: Served, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "active.toml",
        synthesis={"method": "active-mixup", "images": 8, "active": {"candidates": 30}},
        budget={"rounds": 4},
        training={"steps": 2},
        baselines={"student_alone": False, "standard_kd": False},
    )
    result = distill("run", config, "--teacher", served.url, "--out", tmp_path / "run", key=served.key("active"))
    assert result.exit_code == 0, (result.output, result.exception)
    assert "choosing active-4 from up to 30 candidates" in result.stderr
    with open_run(tmp_path / "run") as opened:
        assert list(sample_images(opened)) == ["pool", "active-1", "active-4"]
