"""TLS by flag: what is spoken, which files are refused at the start, whom a client believes; and proxies' headers."""

import datetime
import ipaddress
import socket
import ssl
import warnings
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from distill_client.errors import ConfigError, TeacherUnavailable
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.teacher import connect
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy
from tests.ledger_places import sqlite_place
from tests.reliability.processes import ForkServer
from tests.teacher_server.security.conftest import Serve, Served
from tests.teacher_server.security.sockets import LABELS, connected, head, hear, resident_kib, talk
from tests.teacher_server.support import numbered_images

PRIVATE = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Files:
    """PEM files: an authority of the owner's own, a certificate that it signed, and keys."""

    authority: Path
    certificate: Path
    key: Path
    other_key: Path
    encrypted_key: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"TEACHER_TLS_CERTIFICATE": str(self.certificate), "TEACHER_TLS_KEY": str(self.key)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority, server, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = _certificate("Our authority", authority, "Our authority", authority, is_authority=True)
    leaf = _certificate("127.0.0.1", server, "Our authority", authority, is_authority=False)
    plain, secret = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"passphrase")
    contents = {
        "authority.pem": root.public_bytes(serialization.Encoding.PEM),
        "certificate.pem": leaf.public_bytes(serialization.Encoding.PEM),
        "key.pem": _key_bytes(server, plain),
        "other_key.pem": _key_bytes(other, plain),
        "encrypted_key.pem": _key_bytes(server, secret),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return Files(*(folder / name for name in contents))


def _key_bytes(key: PRIVATE, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def _certificate(subject: str, key: PRIVATE, issuer: str, signer: PRIVATE, *, is_authority: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if is_authority:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer, hashes.SHA256())


def https_client(served: Served, context: ssl.SSLContext) -> httpx2.Client:
    return httpx2.Client(
        base_url=f"https://127.0.0.1:{served.port}",
        verify=context,
        headers={"Authorization": f"Bearer {served.secret}", "Content-Type": NPY_MEDIA_TYPE},
        trust_env=False,
        timeout=30,
    )


def test_answers_are_sold_over_tls_and_not_otherwise(serve: Serve, files: Files) -> None:
    served = serve(**files.settings)
    printed = served.server.log.with_suffix(".out").read_text()
    assert f"at https://127.0.0.1:{served.port}" in printed
    with https_client(served, ssl.create_default_context(cafile=files.authority)) as client:
        content = encode_npy(numbered_images([7]))
        assert client.post(LABELS, content=content).status_code == 200
        assert client.post(LABELS, content=b"nonsense").json()["code"] == "invalid_images"
        assert client.get("/v1/usage").json()["spent"] == 1
        response = client.get("/healthz", headers={"X": "x" * 20_000})
        assert (response.status_code, response.json()["code"]) == (431, "headers_too_large")
    assert not talk(served.port, head("GET", "/healthz")).raw.startswith(b"HTTP/")


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_versions_of_tls(serve: Serve, files: Files, version: str) -> None:
    served = serve(**files.settings)
    context = ssl.create_default_context(cafile=files.authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the versions that are to fail
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with connected(served.port) as plain:
        if version in ("TLSv1_2", "TLSv1_3"):
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
                encrypted.sendall(head("GET", "/healthz", "Connection: close"))
                assert hear(encrypted).status == 200
        else:
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
                context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("flood", ["head", "body"])
def test_strangers_over_tls_are_bounded_too(serve: Serve, files: Files, flood: str) -> None:
    """With what OpenSSL itself needs for a connection, which is most of it."""
    served = serve(TEACHER_HEAD_TIMEOUT_S="60", **files.settings)
    context = ssl.create_default_context(cafile=files.authority)
    start = (
        head("GET", "/healthz")[:-2] + b"X: " if flood == "head" else head("POST", LABELS, "Content-Length: 99999999")
    )
    strangers = 20
    with ExitStack() as stack:
        connections = []
        for _ in range(strangers):
            plain = stack.enter_context(connected(served.port))
            connections.append(stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1")))
        before = peak = resident_kib(served.pid)
        for connection in connections:
            connection.setblocking(False)
            try:
                connection.sendall(start)
                for _ in range(50):
                    connection.send(b"x" * 2**16)
                    peak = max(peak, resident_kib(served.pid))
            except (OSError, ssl.SSLError):
                continue
        peak = max(peak, resident_kib(served.pid))
    assert peak - before < strangers * 100


@pytest.mark.parametrize(
    ("certificate", "key", "says"),
    [
        ("certificate", "other_key", "KEY_VALUES_MISMATCH"),
        ("certificate", "encrypted_key", "encrypted"),
        ("certificate", "nowhere", "cannot be read: No such file"),
        ("nowhere", "key", "cannot be read: No such file"),
        ("key", "certificate", "not a certificate and its private key"),
        ("certificate", "", "given together"),
        ("", "key", "given together"),
    ],
)
def test_files_that_do_not_do_are_told_at_the_start(
    teacher_forks: ForkServer, tmp_path: Path, files: Files, certificate: str, key: str, says: str
) -> None:
    place = sqlite_place(tmp_path)
    flags: list[object] = []
    for flag, name in (("--tls-certificate", certificate), ("--tls-key", key)):
        flags += [flag, getattr(files, name, tmp_path / "nowhere.pem")] if name else []
    log = tmp_path / "log"
    program = teacher_forks.start("teacher", "serve", "--bundle", "x", "--port", 0, *flags, log=log, env=place.env)
    assert program.wait() == 2
    told = log.read_text()
    assert says in told
    assert told.startswith("teacher: ")
    assert told.count("\n") == 1
    assert "tls_key" in told or "tls_certificate" in told


def test_a_client_believes_the_authority_it_is_given(
    serve: Serve, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served = serve(**files.settings)
    url = f"https://127.0.0.1:{served.port}"
    monkeypatch.delenv("DISTILL_CA_FILE", raising=False)
    with (
        closing(connect(url, served.secret, "numbers", manners=Manners(1, requests_in_flight=8))) as teacher,
        pytest.raises(TeacherUnavailable, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        teacher.card()
    monkeypatch.setenv("DISTILL_CA_FILE", str(files.authority))
    with closing(connect(url, served.secret, "numbers", manners=Manners(5, requests_in_flight=8))) as teacher:
        assert teacher.card().name == "numbers"
    for wrong in (tmp_path / "nowhere.pem", files.key):
        monkeypatch.setenv("DISTILL_CA_FILE", str(wrong))
        with pytest.raises(ConfigError, match="DISTILL_CA_FILE"):
            connect(url, served.secret, "numbers", manners=Manners(1, requests_in_flight=8))


@pytest.mark.parametrize(
    ("trusted", "scheme"), [("", "http"), ("10.0.0.0/8", "http"), ("10.0.0.1,127.0.0.1", "https")]
)
def test_only_a_trusted_proxy_says_how_it_was_asked(serve: Serve, trusted: str, scheme: str) -> None:
    served = serve(TEACHER_TRUSTED_PROXIES=trusted)
    asked = head("GET", "/v1/usage/", "X-Forwarded-Proto: https", "X-Forwarded-For: 1.2.3.4", "Connection: close")
    heard = talk(served.port, asked)
    assert heard.headers["location"] == f"{scheme}://teacher/v1/usage"


def test_a_server_without_tls_says_so_in_its_address(serve: Serve) -> None:
    served = serve()
    assert f"at http://127.0.0.1:{served.port}" in served.server.log.with_suffix(".out").read_text()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(connection, server_hostname="127.0.0.1")


def test_a_handshake_that_does_not_end_is_given_up(serve: Serve, files: Files) -> None:
    served = serve(TEACHER_HEAD_TIMEOUT_S="1", **files.settings)
    with connected(served.port) as silent, connected(served.port) as halting:
        halting.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        for connection in (silent, halting):
            heard = hear(connection)
            assert heard.raw == b""
            assert heard.seconds < 4
