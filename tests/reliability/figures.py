"""How long the kill loops are, and what they found: a few kills in `make test`, hundreds in `make soak`.

Each loop adds its figures to one JSON file, runs/soak.json or SOAK_FIGURES, before it fails or passes.
"""

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

SHORT_KILLS = 4
LONG_KILLS = int(os.environ.get("SOAK_KILLS", "500"))
_FILE = Path(os.environ.get("SOAK_FIGURES", Path(__file__).resolve().parents[2] / "runs" / "soak.json"))


@dataclass
class Figures:
    """What one loop did, and every way in which a promise was not kept."""

    kills: int = 0
    starts: int = 0
    requests: int = 0
    images: int = 0
    in_flight_at_kill: list[int] = field(default_factory=list)
    checks: int = 0
    events_checked: int = 0
    seconds: float = 0.0
    lost: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def keep(self, name: str) -> None:
        """Write them under ``name`` into the file of figures."""
        content = asdict(self) | {"lost": dict(self.lost), "differences": len(self.differences)}
        in_flight = content.pop("in_flight_at_kill")
        content["in_flight_at_kill_mean"] = round(sum(in_flight) / max(1, len(in_flight)), 1)
        content["seconds"] = round(self.seconds)
        _FILE.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{_FILE}.lock", timeout=30):
            known = json.loads(_FILE.read_text()) if _FILE.exists() else {}
            _FILE.write_text(json.dumps(known | {name: content}, indent=2, sort_keys=True) + "\n")
