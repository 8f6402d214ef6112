"""Teachers and experiments for the tests of pools."""

from typing import Any

from distill_client.config import RunConfig
from shared.wire.contracts import InputSpec
from tests.distill_client.fakes import FakeTeacher, tiny_config

SPEC = InputSpec(height=28, width=28, channels=1, resize="crop")


def teacher(**changes: Any) -> FakeTeacher:
    return FakeTeacher(resize="crop", **changes)


def config_of(pool: dict[str, Any], **changes: Any) -> RunConfig:
    """Like tiny_config, of a pool without labels."""
    content = tiny_config(**changes).model_dump(mode="json", exclude_none=True)
    content["pool"] = {"images": 20, **pool}
    content["evaluation"] = {"held_out_fraction": 0.1, **changes.get("evaluation", {})}
    content["baselines"] = changes.get("baselines", {})
    content["synthesis"]["images"] = 30
    return RunConfig.model_validate(content)
