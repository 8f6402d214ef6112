"""A real application behind a real socket, and a run that was bought from it."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import stamina
import uvicorn

from distill_client.cli import KEY_VARIABLE
from teacher_server.app import create_app
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from tests.distill_client.cli.support import Finished, Served, distill, hash_teacher, one_object, write_config


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    ledger = f"sqlite:///{tmp_path_factory.mktemp('server') / 'ledger.db'}"
    settings = TeacherSettings.load(bundles=(Path("unused"),), ledger=ledger)
    teachers = [
        hash_teacher("fake"),
        hash_teacher("other-classes", tuple("abcdefghij")),
        hash_teacher("tall", height=32),
    ]
    app = create_app(settings, teachers)
    config = uvicorn.Config(app, port=0, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with closing(open_database(ledger, create=True)) as database:
        yield Served(f"http://127.0.0.1:{port}", database, app.state.server.catalogue)
    server.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key unless a test gives one; the retry announcement that the command installs is taken back."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    yield
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.fixture(scope="session")
def finished(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run brought to its end by the command; tests that change it put it back."""
    folder, secret = tmp_path_factory.mktemp("cli"), served.key("finished")
    config = write_config(folder / "tiny.toml")
    result = distill("run", config, "--teacher", served.url, "--out", folder / "run", "--json", key=secret)
    return Finished(folder / "run", secret, one_object(result))
