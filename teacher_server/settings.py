"""The server's settings: environment variables ``TEACHER_*`` and flags of ``teacher serve``, checked at start."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from teacher_server.errors import OperatorError
from teacher_server.webhook_address import read_signing_secret, require_webhook_url

ENV_PREFIX = "TEACHER_"
# May hold a password, so that their values are in no message.
SECRET_SETTINGS = frozenset({"ledger", "alert_webhook", "alert_webhook_secret"})


class TeacherSettings(BaseSettings):
    """Everything ``teacher serve`` can be told; flags win over the environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        min_length=1, description="teacher bundle folders; in the environment separated by colons"
    )
    ledger: str = Field(description="sqlite:///FILE or postgresql://USER@HOST/DATABASE")
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
    body_timeout_s: float = Field(
        60.0, gt=0, description="seconds within which a body has to arrive, and an answer that waits to be taken"
    )
    head_timeout_s: float = Field(
        10.0,
        gt=0,
        description="seconds within which a request's head has to arrive; a connection may be idle as long",
    )
    connections_max: int = Field(4096, ge=1, le=100_000, description="connections open at the same time")
    tls_certificate: Path | None = Field(
        None, description="file with the certificate and those that sign it (PEM); then only TLS is spoken"
    )
    tls_key: Path | None = Field(None, description="file with the certificate's private key (PEM), not encrypted")
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="addresses whose X-Forwarded-* headers are believed; in the environment with commas",
    )
    file_pixels_max: int = Field(25_000_000, ge=1, description="pixels one image file may have")
    request_pixels_max: int = Field(100_000_000, ge=1, description="pixels all image files of a request may have")
    requests_in_flight_max: int = Field(64, ge=1, description="label requests read or answered at the same time")
    requests_in_flight_per_key_max: int = Field(32, ge=1, description="the same of one key, the rest is for others")
    answering_threads: int = Field(64, ge=1, le=256, description="label requests worked on or being charged at once")
    classifying_threads: int = Field(8, ge=1, le=256, description="label requests decoded or classified at once")
    signing_key: Path | None = Field(
        None, description="file of the private key that receipts are signed with; beside a SQLite ledger by default"
    )
    verify_interval_s: float = Field(
        60.0, gt=0, description="seconds between two looks at whether the ledger adds up and what has expired"
    )
    answer_kept_s: float = Field(
        86_400.0, gt=0, description="seconds for which an answer's values are stored; then they are computed again"
    )
    answers_bytes_max: int = Field(2**30, ge=0, description="bytes of stored values; the oldest go first")
    alert_webhook: SecretStr | None = Field(None, description="URL that budget alerts are posted to; see below")
    alert_webhook_secret: SecretStr | None = Field(None, description="what they are signed with: whsec_BASE64")

    @field_validator("bundles", mode="before")
    @classmethod
    def _split_bundles(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("trusted_networks", "trusted_proxies", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _require_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:  # uvicorn would take anything else for a name that no peer ever has
            ipaddress.ip_network(address)
        return value

    @field_validator("alert_webhook")
    @classmethod
    def _require_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            require_webhook_url(value.get_secret_value())
        return value

    @field_validator("alert_webhook_secret")
    @classmethod
    def _require_signing_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_signing_secret(value.get_secret_value())
        return value

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
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
                + (f" (given: {fault['input']!r})" if _may_be_shown(fault) else "")
                for fault in error.errors()
            ]
            raise OperatorError("settings: " + "; ".join(faults)) from error


def _may_be_shown(fault: Any) -> bool:
    """Whether the value at fault is there and holds no password."""
    return fault["type"] != "missing" and fault["loc"][0] not in SECRET_SETTINGS
