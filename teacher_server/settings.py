"""The server's settings: environment variables ``TEACHER_*`` and flags of ``teacher serve``, checked at start."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from teacher_server.errors import OperatorError

ENV_PREFIX = "TEACHER_"


class TeacherSettings(BaseSettings):
    """Everything ``teacher serve`` can be told; flags win over the environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        min_length=1, description="teacher bundle folders; in the environment separated by colons"
    )
    ledger: str = Field(description="sqlite:///FILE")
    ledger_timeout_s: float = Field(
        30.0, gt=0, description="seconds to wait for another writer of the ledger before answering 503"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one and prints it")
    trusted_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="module:function names whose code a bundle may run at load; in the environment with commas"
    )
    device: str = Field("cpu", description="where teachers run: cpu, cuda or cuda:N")
    images_per_request_max: int = Field(1024, ge=1, le=65536, description="images one request may carry")
    body_bytes_max: int = Field(32 * 2**20, ge=1024, description="bytes one request's body may have")
    body_timeout_s: float = Field(60.0, gt=0, description="seconds within which a body has to arrive")
    file_pixels_max: int = Field(25_000_000, ge=1, description="pixels one image file may have")
    request_pixels_max: int = Field(100_000_000, ge=1, description="pixels all image files of a request may have")
    requests_in_flight_max: int = Field(64, ge=1, description="label requests read or answered at the same time")
    answering_threads: int = Field(
        8, ge=1, le=256, description="label requests decoded, classified or charged at once"
    )

    @field_validator("bundles", mode="before")
    @classmethod
    def _split_bundles(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("trusted_networks", mode="before")
    @classmethod
    def _split_trusted(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @classmethod
    def load(cls, **flags: object) -> Self:
        """Read environment and flags (None means not given). Raises OperatorError naming the setting."""
        known = {ENV_PREFIX + name.upper() for name in cls.model_fields}
        unknown = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
        if unknown:
            raise OperatorError(
                f"environment variable {unknown[0]} is not a setting; allowed are {', '.join(sorted(known))}"
            )
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]  # validated by pydantic
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
                + ("" if fault["type"] == "missing" else f" (given: {fault['input']!r})")
                for fault in error.errors()
            ]
            raise OperatorError("settings: " + "; ".join(faults)) from error
