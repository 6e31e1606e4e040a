"""The administrator's commands: in order, one at a time, never in the loop's way."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bondvpn import config
from bondvpn.runtime import hooks as under_test
from bondvpn.runtime.hooks import Hooks


def _noting(path: Path, *more: str) -> tuple[str, ...]:
    """A command that appends its BONDVPN_* variables and its arguments to a file."""
    script = 'printf "%s|%s|%s|%s|%s" "$BONDVPN_EVENT" "$BONDVPN_LINK" "$BONDVPN_LINKS_ACTIVE" '
    script += '"$BONDVPN_REASON" "$*" >> "$0"; echo >> "$0"'
    return ("/bin/sh", "-c", script, str(path), *more)


def _link(name: str, *, active: bool, reason: str = "") -> Any:
    return SimpleNamespace(name=name, active=active, reason=reason)


def _all(path: Path, **more: Any) -> config.Hooks:
    return config.Hooks(
        up=_noting(path), down=_noting(path), link_up=_noting(path), link_down=_noting(path), **more
    )


def test_what_is_told_when(tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    hooks = Hooks(_all(noted), "client")
    announcer = hooks.announcer("office", "bond0")
    announcer.links([_link("dsl", active=False), _link("lte", active=False)])
    announcer.links([_link("dsl", active=True), _link("lte", active=False)])
    announcer.links([_link("dsl", active=True), _link("lte", active=True)])
    announcer.links([_link("dsl", active=True), _link("lte", active=True)])
    announcer.links([_link("dsl", active=False, reason="no answer"), _link("lte", active=True)])
    announcer.links([], "closed by the peer")
    hooks.close()
    assert noted.read_text().splitlines() == [
        "link_up|dsl|dsl||",
        "up||dsl||",
        "link_up|lte|dsl lte||",
        "link_down|dsl|lte|no answer|",
        "link_down|lte||closed by the peer|",
        "down|||closed by the peer|",
    ]


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    hooks = Hooks(config.Hooks(up=_noting(noted, "$HOME; touch x", "a  b")), "server")
    hooks.announcer("office", "office0").links([_link("dsl", active=True)])
    hooks.close()
    assert noted.read_text() == "up||dsl||$HOME; touch x a  b\n"


def test_a_slow_command_holds_up_nobody_and_is_killed_with_its_children(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "LAST_WORDS_S", 20.0)
    noted, child = tmp_path / "noted", tmp_path / "child"
    slow = ("/bin/sh", "-c", f"sleep 600 & echo $! > {child}; wait")
    hooks = Hooks(config.Hooks(link_up=slow, up=_noting(noted), timeout_s=0.3), "client")
    started = time.monotonic()
    hooks.announcer("office", "bond0").links([_link("dsl", active=True)])
    assert time.monotonic() - started < 0.2
    hooks.close()
    assert noted.read_text() == "up||dsl||\n"  # in its turn
    assert "hook link_up: /bin/sh: killed after 0.3 s" in caplog.text
    pid = int(child.read_text())
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("/bin/sh", "-c", "exit 3"), "hook up: /bin/sh: exit status 3"),
        (("/bin/sh", "-c", "kill -9 $$"), "hook up: /bin/sh: ended by signal 9"),
        (("/nowhere/at/all",), "hook up: /nowhere/at/all: No such file or directory"),
        (("/",), "hook up: /: Permission denied"),
    ],
)
def test_failures_are_logged(argv: tuple[str, ...], said: str, caplog: pytest.LogCaptureFixture) -> None:
    hooks = Hooks(config.Hooks(up=argv), "client")
    hooks.happened("up", {})
    hooks.close()
    assert [record.getMessage() for record in caplog.records] == [said]


def test_what_it_prints_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    hooks = Hooks(config.Hooks(up=("/bin/sh", "-c", "echo hello; cat")), "client")
    hooks.happened("up", {})
    hooks.close()
    assert capfd.readouterr() == ("", "hello\n")  # and nothing is left on stdin to wait for


def test_a_command_that_hangs_fills_no_memory(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(under_test, "LAST_WORDS_S", 0.05)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    hooks = Hooks(config.Hooks(up=("/bin/sh", "-c", f"read x < {gate}"), timeout_s=60), "client")
    for _ in range(under_test.WAITING_MAX + 10):
        hooks.happened("up", {})
    assert "64 wait already: not run" in caplog.text
    hooks.close()
    assert "one still runs after 0.05 s" in caplog.text
    hooks.commands = config.Hooks()
    give_up_at = time.monotonic() + 20
    while hooks._thread is not None and hooks._thread.is_alive() and time.monotonic() < give_up_at:
        fd = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
        os.write(fd, b"go\n")
        time.sleep(0.01)
        os.close(fd)
    assert hooks._thread is not None
    assert not hooks._thread.is_alive()


def test_without_commands_there_is_no_thread() -> None:
    hooks = Hooks(config.Hooks(), "client")
    hooks.announcer("office", "bond0").links([_link("dsl", active=True)])
    assert hooks._thread is None
    hooks.close()
