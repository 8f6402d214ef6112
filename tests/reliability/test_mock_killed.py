"""A teacher that keeps no count, that loses answers and throttles: the client's own books against the mock's count.

The real `distill run` against the real `distill teacher mock`, killed with SIGKILL at several moments. At its end no
image was charged twice but those whose charge was unknown, and the run lists them.
"""

import json
import random
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.processes import ForkServer, Program, wait_until
from tests.reliability.test_client_killed import kept_answers

FAULTS = "timeouts-after-charge=0.05,throttle=0.2"
SLACK = 400  # images that may be lost to what is not known


def config(images: int, per_request: int) -> str:
    return f"""
name = "killed"
seed = 3
budget_images = {images}
teacher = {{ name = "mock", images_per_request = {per_request}, requests_in_flight = 8, deadline_s = 30 }}
pool = {{ dataset = "digits", images = 60 }}
synthesis = {{ images = {images - 60}, cvae = {{ epochs = 1 }} }}
student = {{ network = "lenet5-half", augmentation = "mixup" }}
training = {{ batch_size = 32, steps = 4 }}
evaluation = {{ dataset = "digits", held_out_fraction = 0.1 }}
"""


class KilledRun:
    """One mock that stands, and one run that is killed and resumed."""

    def __init__(self, forks: ForkServer, folder: Path, protocol: str, images: int, *, per_request: int, seed: int):
        self._forks, self._folder = forks, folder
        self._images = images
        self.log, self.run_dir, self._file = folder / "client.log", folder / "run", folder / "mock.toml"
        (folder / "config.toml").write_text(config(images, per_request))
        words = ("--protocol", protocol, "--faults", FAULTS, "--seed", seed, "--teacher-file", self._file, "--json")
        self._mock = forks.start("distill", "teacher", "mock", *words, log=folder / "mock.log")
        wait_until(self._file.exists)
        text = self._file.read_text().replace("timeout_s = 5", "timeout_s = 0.5")
        self._file.write_text(text.replace("max_queries = 1000", f"max_queries = {images + SLACK}"))
        (url,) = (line.split('"')[1] for line in text.splitlines() if line.startswith("url = "))
        self._origin = "/".join(url.split("/")[:3])

    def close(self) -> None:
        self._mock.kill()

    def start(self) -> Program:
        words = ("resume", self.run_dir) if self.run_dir.exists() else ("run", self._folder / "config.toml")
        more = () if self.run_dir.exists() else ("--teacher", self._file, "--out", self.run_dir)
        return self._forks.start("distill", *words, *more, log=self.log)

    def kill_after(self, answers: int, pause_s: float) -> bool:
        client = self.start()
        wait_until(lambda: client.poll() is not None or len(kept_answers(self.run_dir)) >= answers)
        time.sleep(pause_s)
        return client.kill()

    def finish(self) -> None:
        assert self.start().wait() == 0, self.log.read_text()[-2000:]
        assert "Traceback" not in self.log.read_text()

    def mock_counts(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._origin}/mock/counts", timeout=10) as reply:  # noqa: S310 - our own
            counts: dict[str, Any] = json.loads(reply.read())
            return counts

    def audit(self) -> dict[str, Any]:
        log = self._folder / "audit.log"
        log.with_suffix(".out").unlink(missing_ok=True)
        assert self._forks.start("distill", "audit", self.run_dir, "--json", log=log).wait() == 0, log.read_text()
        report: dict[str, Any] = json.loads(log.with_suffix(".out").read_text())
        return report

    def require_sound(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The run's books and the mock's count, compared image by image."""
        books, mock = self.audit(), self.mock_counts()
        unknown = Counter(digest for each in books["unsettled"] for digest in each["image_digests"])
        assert books["equal"], books["faults"]
        assert books["bought"] == books["answered"] == self._images
        assert books["spent"] == books["answered"] + books["failed"] + books["unsettled_images"]
        assert books["spent"] <= books["granted"] == self._images + SLACK
        assert len(mock["charged"]) == self._images, "every image was charged, and no other"
        undercounted = {d: n for d, n in mock["charged"].items() if n > 1 + unknown[d]}
        assert undercounted == {}, "charged more often than the books say"
        twice = {digest for digest, times in mock["charged"].items() if times > 1}
        assert twice <= set(unknown), "what was asked for twice is listed"
        assert mock["charged_images"] <= books["spent"]
        summary = json.loads((self.run_dir / "summary.json").read_text())
        assert summary["unsettled"] == books["unsettled"]
        return books, mock


def killed(
    forks: ForkServer, folder: Path, protocol: str, *, images: int, per_request: int, moments: list[int], seed: int
) -> tuple[dict[str, Any], dict[str, Any], int]:
    rng = random.Random(seed)
    run = KilledRun(forks, folder, protocol, images, per_request=per_request, seed=seed)
    try:
        kills = sum(run.kill_after(moment, rng.uniform(0, 0.1)) for moment in moments)
        run.finish()
        return (*run.require_sound(), kills)
    finally:
        run.close()


@pytest.mark.parametrize(
    ("protocol", "per_request", "moments"), [("huggingface", 1, [5, 50, 100]), ("vision", 4, [2, 10, 20])]
)
def test_a_run_killed_under_faults_asks_twice_only_for_what_was_unknown(
    distill_forks: ForkServer, tmp_path: Path, protocol: str, per_request: int, moments: list[int]
) -> None:
    books, mock, kills = killed(
        distill_forks, tmp_path, protocol, images=120, per_request=per_request, moments=moments, seed=7
    )
    assert kills == 3
    assert mock["faults"]["throttle"] > 0
    assert mock["faults"].get("timeouts-after-charge", 0) + kills > 0
    assert books["unsettled_images"] > 0, "kills with requests in flight, and timeouts, leave something unknown"


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_soak_a_run_killed_under_faults(distill_forks: ForkServer, tmp_path: Path, seed: int) -> None:
    moments = [20 * step + 5 for step in range(12)]
    _, _, kills = killed(
        distill_forks, tmp_path, "huggingface", images=400, per_request=1, moments=moments, seed=seed
    )
    assert kills >= 8
