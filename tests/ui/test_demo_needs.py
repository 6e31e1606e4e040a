"""What the demo asks of the machine, said before it touches it; and what it hears of the links."""

import os
import signal
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bondvpn.errors import SystemFault
from bondvpn.lab.shape import DEMO
from bondvpn.ui import demo
from bondvpn.ui.demo_table import View
from bondvpn.ui.demo_watch import Watch, _forget

NULL = Path("/dev/null")  # a character device, which is all that is asked


@pytest.fixture
def path(tmp_path: Path) -> str:
    for command in demo.COMMANDS:
        (tmp_path / command).touch(0o755)
    return str(tmp_path)


def test_a_machine_with_everything(path: str) -> None:
    demo._require(0, NULL, path)


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COMMANDS", {"no-such-iperf3": "iperf3", "no-such-ip": "iproute2"})
    with pytest.raises(SystemFault) as fault:
        demo._require(1000, tmp_path / "tun", str(tmp_path))
    lines = str(fault.value).splitlines()
    assert len(lines) == 3
    assert "needs root" in lines[0]
    assert f"{tmp_path}/tun is missing: modprobe tun" in lines[1]
    assert lines[2] == "commands are missing: apt-get install iperf3 iproute2"


@pytest.mark.parametrize(("user", "tun"), [(1000, NULL), (0, Path("/"))])
def test_each_alone_is_enough(path: str, user: int, tun: Path) -> None:
    with pytest.raises(SystemFault):
        demo._require(user, tun, path)


def test_one_demo_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PREFIX", "test-of-demo")
    for _ in range(2):  # the second time round it is free again
        with (
            demo._alone_on_this_machine(),
            pytest.raises(SystemFault, match="another bondvpn demo"),
            demo._alone_on_this_machine(),
        ):
            pass


@pytest.fixture
def handlers() -> Iterator[dict[int, Any]]:
    """Those of the demo's signals as they are, and are again after the test."""
    before = {number: signal.getsignal(number) for number in demo._Interrupts.SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_handlers_are_put_back(handlers: dict[int, Any]) -> None:
    with demo._Interrupts():
        assert signal.getsignal(signal.SIGINT) != handlers[signal.SIGINT]
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_the_second_interrupt_is_ignored_to_the_end(handlers: dict[int, Any]) -> None:
    with demo._Interrupts():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        for number in handlers:
            os.kill(os.getpid(), number)
    assert {signal.getsignal(number) for number in handlers} == {signal.SIG_IGN}


def test_a_forked_child_does_not_unwind_the_parents_stack() -> None:
    with demo._Interrupts():
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(1)  # not reached
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


def _links(state: str, reason: str = "") -> list[dict[str, Any]]:
    return [{"name": "lte", "state": state, "reason": reason}]


def test_only_changes_of_a_link_are_told() -> None:
    view = View(DEMO)
    watch = Watch(None, view)  # type: ignore[arg-type]  # never asked here
    assert watch._note(0, _links("active"), 10.0) == []
    assert watch._note(1_000_000, _links("active"), 10.5) == []
    assert view.inside == pytest.approx(16e6)
    silent = "no answer for 146 ms"
    assert watch._note(1_000_000, _links("stalled", silent), 11.0) == [f"bondvpn: lte is stalled ({silent})"]
    assert view.states == {"lte": "stalled"}
    assert watch._note(1_000_000, _links("active", silent), 11.5) == ["bondvpn: lte is active"]
    assert view.inside == 0
    assert len(view.history) == 3


def test_old_samples_go_but_a_span_stays() -> None:
    samples = deque((float(i), i) for i in range(10))
    _forget(samples, 6.5)
    assert list(samples) == [(6.0, 6), (7.0, 7), (8.0, 8), (9.0, 9)]
    _forget(samples, 99.0)
    assert list(samples) == [(8.0, 8), (9.0, 9)]


def test_an_interrupt_that_ends_in_a_fault_of_another_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, handlers: dict[int, Any]
) -> None:
    """The same Ctrl-C ends iperf3; who removes things must not meet a second one with Python's handler."""

    class Show:
        def __init__(self, *_: object) -> None: ...

        def run(self) -> None:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                raise SystemFault("iperf3 was interrupted")

    monkeypatch.setattr(demo, "_require", lambda *_: None)
    monkeypatch.setattr(demo, "_Show", Show)
    with pytest.raises(SystemFault, match=r"^interrupted"):
        demo.main(quick=True)
    assert {signal.getsignal(number) for number in handlers} == {signal.SIG_IGN}
