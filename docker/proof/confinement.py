"""What the images hold, how the containers are confined, and what the client can reach, read and write."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .engine import PROJECT, Stack, docker, fact, require, wait_until

HERE = Path(__file__).resolve().parent
BASE = "python:3.11-slim"
IMAGES = {"teacher": "blackbox-distillation-teacher", "client": "blackbox-distillation-client"}
ABSENT = {"teacher": ("distill_client", ".safetensors"), "client": ("teacher_server", ".safetensors", ".pt2")}
WEIGHTS = PROJECT / "bundles" / "fashion-mnist-lenet5" / "weights.safetensors"
CLIENT_MOUNTS = {"/app/data": False, "/key": False, "/answers": False, "/runs": True}  # place -> may be written
CLIENT_NETWORKS = ["inner"]
ROOT_SERVICE = "runs"  # makes the folder for runs writable for the client's group; without any capability
READ_ONLY = os.strerror(errno.EROFS)  # and not merely another user's
DECOY_PORT = 20_000 + os.getpid() % 10_000
TEST_NET = "192.0.2.1"  # RFC 5737: nobody's address. Without a route there, the kernel says so and sends nothing.
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2)"


def prove_images() -> None:
    """Neither image holds the other side or weights; torch's layers are the same in both."""
    program = (HERE / "inside_image.py").read_text()
    for side, image in IMAGES.items():
        asked = (
            "run",
            "--rm",
            "--interactive",
            "--user",
            "0",
            "--network",
            "none",
            image,
            "python",
            "-",
            *ABSENT[side],
        )
        found = json.loads(docker(*asked, stdin=program, timeout_s=300))
        require(
            not found["found"] and found["files"] > 10_000,
            f"the {side}'s image has no {', no '.join(ABSENT[side])} among {found['files']:,} files"
            + listed(found["found"]),
        )
    layers = [
        json.loads(docker("image", "inspect", "-f", "{{json .RootFS.Layers}}", image)) for image in IMAGES.values()
    ]
    base = len(json.loads(docker("image", "inspect", "-f", "{{json .RootFS.Layers}}", BASE)))
    shared = sum(1 for one, other in zip(*layers, strict=False) if one == other)
    sizes = [int(docker("image", "inspect", "-f", "{{.Size}}", image)) / 1e9 for image in IMAGES.values()]
    require(
        shared >= base + 2,  # the requirement file, and torch itself
        f"the images ({sizes[0]:.1f} and {sizes[1]:.1f} GB) share {shared} layers: {base} of {BASE}, and torch",
    )


def prove_containers_are_confined(stack: Stack) -> None:
    """Every service: read-only root, no capability, no new privileges, not root; the client's mounts and networks."""
    users = {}
    for service in stack.compose("config", "--services").split():
        inspected = json.loads(docker("inspect", stack.container(service)))[0]
        host, users[service] = inspected["HostConfig"], inspected["Config"]["User"]
        confined = (
            host["ReadonlyRootfs"]
            and host["CapDrop"] == ["ALL"]
            and not host["CapAdd"]
            and not host["Privileged"]
            and host["SecurityOpt"] == ["no-new-privileges:true"]
        )
        require(confined, f"{service}: read-only root, all capabilities dropped, no new privileges")
        if service == "client":
            mounts = {mount["Destination"]: mount["RW"] for mount in inspected["Mounts"]}
            names = [name.removeprefix(f"{stack.name}_") for name in inspected["NetworkSettings"]["Networks"]]
            require(mounts == CLIENT_MOUNTS, f"client: mounts are {', '.join(mounts)}; only /runs may be written")
            require(names == CLIENT_NETWORKS, f"client: its one network is {', '.join(names)}")
    root = [service for service, user in users.items() if user.split(":")[0] in ("", "0", "root")]
    require(root == [ROOT_SERVICE], f"no service is root but the one-shot `{root[0]}`: {users}")
    status = stack.compose("exec", "-T", "teacher", "sh", "-c", "id -u; grep -E 'CapEff|CapBnd' /proc/self/status")
    refused = stack.compose("exec", "-T", "teacher", "sh", "-c", "touch /app/x /bundle/x 2>&1 || true")
    require(
        status.split() == ["10001", "CapEff:", "0" * 16, "CapBnd:", "0" * 16] and refused.count("Read-only") == 2,
        "teacher, from the inside: uid 10001, no capability in any set, /app and /bundle cannot be written",
    )


def prove_client_reaches_only_its_teacher(stack: Stack) -> None:
    """Asked from the inside: the teacher answers; a decoy, the host, the way out and the weights are out of reach."""
    content = WEIGHTS.read_bytes()
    weights = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with decoys() as addresses:
        inner = network(stack, "inner")
        published = network(stack, "published")["Containers"][stack.container("teacher")]["IPv4Address"].split("/")[0]
        asked = {
            "teacher": ("teacher", 8000),
            **addresses,
            "the host at the inner network's gateway": (inner["IPAM"]["Config"][0]["Gateway"], DECOY_PORT),
            "the teacher's published address": (published, 8000),
            "the internet": (TEST_NET, 443),
        }
        program = (HERE / "inside_client.py").read_text()
        question = json.dumps({"addresses": asked, "weights": weights})
        found: dict[str, Any] = json.loads(stack.in_client("python", "-", question, stdin=program))
    require(found["reached"].pop("teacher") == "reached", "client: its teacher can be reached")
    for name, outcome in found["reached"].items():
        require(outcome != "reached", f"client: {name} cannot be reached ({outcome})")
    require(found["default_routes"] == 0, "client: there is no default route")
    require(
        not found["weights"],
        f"client: no file there has the content of the teacher's weights{listed(found['weights'])}",
    )
    require(not found["teacher_server"], "client: teacher_server cannot be imported")
    capabilities = set(found["capabilities"])
    require(
        found["uid"] != 0 and capabilities == {"0" * 16} and found["no_new_privileges"] == "1",
        f"client, from the inside: uid {found['uid']}, no capability in any set, no new privileges",
    )
    refused = {place: why for place, why in found["written"].items() if why == READ_ONLY}
    require(refused == found["written"], f"client: {', '.join(refused)} cannot be written ({READ_ONLY})")


@contextmanager
def decoys() -> Iterator[dict[str, tuple[str, int]]]:
    """A container and a service of the host, name -> address; both answer an unconfined container."""
    serve = (BASE, "python", "-m", "http.server", str(DECOY_PORT))
    running = [docker("run", "--detach", *serve)]
    try:
        running.append(docker("run", "--detach", "--network", "host", *serve))
        address = docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", running[0])
        gateway = docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}")
        addresses = {"a decoy container": (address, DECOY_PORT), "the host's gateway": (gateway, DECOY_PORT)}
        for name, (host, port) in addresses.items():
            ask = ("run", "--rm", BASE, "python", "-c", CONNECT, host, str(port))
            wait_until(partial(docker, *ask), 20)
            fact(f"{name} answers an unconfined container")
        yield addresses
    finally:
        docker("rm", "--force", *running)


def listed(paths: list[str]) -> str:
    """What was found and should not be there, after a colon; nothing for nothing."""
    return f": {', '.join(paths[:20])}" if paths else ""


def network(stack: Stack, name: str) -> dict[str, Any]:
    """What the engine says of one of the project's networks."""
    described: dict[str, Any] = json.loads(docker("network", "inspect", f"{stack.name}_{name}"))[0]
    return described
