"""Whether a run's configuration is still the one it began with, also when this program has learnt more keys since."""

import hashlib
import json
from typing import Any

from distill_client.config import RunConfig


def is_unchanged(config: RunConfig, written: dict[str, Any], digest: str) -> bool:
    """Whether ``digest`` is of ``config``, which was read from ``written``, by this version or by an earlier one.

    A run folder's file names every key there was when it was written, but for those that had no value. What it does
    not name has come later, has its default, and was not in the digest.
    """
    if config.digest() == digest:
        return True
    known = _known_then(config.model_dump(mode="json"), written)
    canonical = json.dumps(known, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest() == digest


def _known_then(now: Any, written: Any) -> Any:
    if not isinstance(now, dict) or not isinstance(written, dict):
        return now
    return {
        key: _known_then(value, written.get(key)) for key, value in now.items() if value is None or key in written
    }
