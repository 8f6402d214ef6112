"""What run.json holds: whose run it is, of what, and by which versions."""

import platform
from importlib import metadata

from pydantic import BaseModel, ConfigDict

from distill_client.teachers.native.receipts import Pin
from distill_client.teachers.protocol import Capabilities


class RunRecord(BaseModel):
    """What run.json holds: written when the run begins, and when a server begins to sign whose run it is."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    name: str
    seed: int
    config_digest: str
    started_at: str
    teacher_url: str
    key_identity: str
    teacher: Capabilities
    versions: dict[str, str]
    pin: Pin | None = None


def current_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's results depend on."""
    packages = ("blackbox-distillation", "torch", "torchvision", "numpy", "httpx2", "pydantic")
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in packages}}
