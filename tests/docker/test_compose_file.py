"""docker-compose.yml says what the containers are promised to be; docker/compose-test proves it on an engine."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from teacher_server.settings import ENV_PREFIX, TeacherSettings

PROJECT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
GPU: dict[str, Any] = yaml.safe_load((PROJECT / "compose.gpu.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWNER = {"teacher", "bundle", "key", "answers"}
DISTILLER = {"data", "runs", "client"}
ONE_SHOT_ROOT = "runs"  # makes the folder for runs writable; see docs/decisions/0006


def mounts(service: str) -> dict[str, tuple[str, bool]]:
    """Place in the container -> (what is mounted there, whether it may be written)."""
    found = {}
    for mount in SERVICES[service].get("volumes", []):
        writable = not mount.endswith(":ro")
        source, _, place = mount.removesuffix(":ro").rpartition(":")
        found[place] = (source, writable)
    return found


def networks(service: str) -> set[str]:
    return set(SERVICES[service].get("networks", []))


def test_the_services_are_the_two_sides() -> None:
    assert set(SERVICES) == OWNER | DISTILLER


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert all("size=" in mount for mount in service["tmpfs"])
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "group_add"} & set(service)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_its_own_build(name: str) -> None:
    side = "teacher" if name in OWNER else "client"
    service = SERVICES[name]
    assert service["build"] == {
        "context": ".",
        "dockerfile": f"docker/{side}.Dockerfile",
        "args": {"TORCH_INDEX": "${TORCH_INDEX:-}"},
    }
    assert service["image"] == f"blackbox-distillation-{side}"


def test_nobody_but_the_one_shot_that_prepares_the_folder_for_runs_is_root() -> None:
    users = {name: str(service["user"]) for name, service in SERVICES.items() if "user" in service}
    assert users == {ONE_SHOT_ROOT: "0:${DISTILL_GID:-1000}", "client": "${DISTILL_UID:-1000}:${DISTILL_GID:-1000}"}
    assert SERVICES[ONE_SHOT_ROOT]["network_mode"] == "none"
    assert set(mounts(ONE_SHOT_ROOT)) == {"/runs"}


def test_the_client_shares_one_network_with_the_teacher_and_nobody_else() -> None:
    assert networks("client") == {"inner"}
    assert {name for name in SERVICES if "inner" in networks(name)} == {"client", "teacher"}
    assert "ports" not in SERVICES["client"]
    inner = COMPOSE["networks"]["inner"]
    assert inner["internal"] is True
    # Without this the host stays reachable at the network's gateway.
    assert inner["driver_opts"] == {"com.docker.network.bridge.inhibit_ipv4": "true"}


def test_only_the_data_service_can_reach_the_internet() -> None:
    ways_out = {name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")}
    assert ways_out == {"published", "downloads"}
    assert {name for name in SERVICES if "downloads" in networks(name)} == {"data"}
    assert networks("data") == {"downloads"}
    assert {name for name in SERVICES if "published" in networks(name)} == {"teacher"}
    assert COMPOSE["networks"]["published"]["driver_opts"] == {
        "com.docker.network.bridge.enable_ip_masquerade": "false"
    }
    assert {name for name in SERVICES if SERVICES[name].get("network_mode") == "none"} == {
        "bundle",
        "key",
        "answers",
        "runs",
    }


def test_no_weights_and_no_ledger_are_mounted_on_the_distillers_side() -> None:
    for name in DISTILLER:
        sources = {source for source, _ in mounts(name).values()}
        assert not sources & {"bundle", "ledger", "./bundles", ".", "./"}, name
    assert mounts("client") == {
        "/app/data": ("data", False),
        "/key": ("key", False),
        "/answers": ("answers", False),
        "/runs": ("${DISTILL_RUNS:-./runs}", True),
    }


def test_ledger_and_key_are_on_named_volumes_of_their_own() -> None:
    assert {"ledger", "key"} <= set(COMPOSE["volumes"])
    assert {name for name in SERVICES if ("ledger", True) in mounts(name).values()} == {"teacher", "key"}
    assert {name for name in SERVICES if ("key", True) in mounts(name).values()} == {"key"}


def test_the_teacher_is_asked_whether_it_is_ready_and_published_to_this_machine_only() -> None:
    teacher = SERVICES["teacher"]
    assert any("/readyz" in word for word in teacher["healthcheck"]["test"])
    assert teacher["ports"] == ["127.0.0.1:${DISTILL_PORT:-8000}:8000"]


def test_the_client_waits_for_all_it_needs() -> None:
    conditions = {name: need["condition"] for name, need in SERVICES["client"]["depends_on"].items()}
    done = "service_completed_successfully"
    assert conditions == {"data": done, "key": done, "answers": done, "runs": done, "teacher": "service_healthy"}


def test_every_setting_of_the_teacher_exists() -> None:
    given = set(GPU["services"]["teacher"]["environment"])
    for name in OWNER:
        given |= set(SERVICES[name].get("environment", {}))
    known = {ENV_PREFIX + name.upper() for name in TeacherSettings.model_fields}
    assert {name for name in given if name.startswith(ENV_PREFIX)} <= known


def test_the_gpu_override_changes_nothing_but_the_teachers_device() -> None:
    assert set(GPU) == {"services"}
    assert set(GPU["services"]) == {"teacher"}
    teacher = GPU["services"]["teacher"]
    assert set(teacher) == {"environment", "deploy"}
    assert teacher["environment"] == {"TEACHER_DEVICE": "cuda"}
    (device,) = teacher["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def compose_is_there() -> bool:
    if shutil.which("docker") is None:
        return False
    return (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30).returncode == 0
    )


@pytest.mark.skipif(not compose_is_there(), reason="no docker CLI with the compose plugin here")
@pytest.mark.parametrize("files", [[], ["-f", "docker-compose.yml", "-f", "compose.gpu.yml"]])
def test_compose_itself_reads_the_files(files: list[str]) -> None:
    command = ["docker", "compose", *files, "config", "--format", "json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISTILL_")}
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["services"]) == set(SERVICES)
