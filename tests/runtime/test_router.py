"""When a server looks at its machine; what it does there is at work in netns-tests/test_gateway.py."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from bondvpn.config import ServerConfig
from bondvpn.linux.journal import Journal
from bondvpn.runtime.router import CHECK_S, Router


@pytest.fixture
def router() -> Iterator[Router]:
    settings = ServerConfig(path=Path("server.toml"), private_key=bytes(32), listen=(), clients=())
    router = Router(settings, cast(Journal, None))
    yield router
    router.close()


def test_it_looks_without_an_event_now_and_then(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(router, "look", lambda: looks.append(now))
    for now, due in ((100.0, 100 + CHECK_S), (100 + CHECK_S - 1, 100 + CHECK_S), (140.0, 140 + CHECK_S)):
        assert router.poll(now) == due
    assert looks == [140.0]


def test_what_waits_is_said_once(
    router: Router, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for waiting in (["a", "b"], ["a"], ["a", "b"]):
        monkeypatch.setattr(router, "install", lambda waiting=waiting: waiting)
        router.look()
    assert caplog.messages == ["a", "b", "b"]
