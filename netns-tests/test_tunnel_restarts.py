"""Either end goes away, cleanly or killed, and comes back: so does the tunnel, with the connections inside.

10.64.1.2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1
gw bond0 172.21.1.2                                         srv office0 172.21.1.1
10.64.2.2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1
"""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from observe import Flow, all_active, control_socket, drops, eventually, status

from bondvpn.lab.shape import twins

pytestmark = pytest.mark.netns

SETTLE_S = 10.0
# From the start of the interpreter, which takes a good second here; the issue asks for 2 s from listening.
BACK_MAX_S = 4.0


@pytest.fixture(scope="module")
def running(shared_bond_over: Callable[..., Any]) -> Any:
    return shared_bond_over(twins())


@pytest.fixture
def bond(running: Any) -> Any:
    """With both lines in use, whatever the test before left."""
    eventually(lambda: all_active(running.tunnel, running.lab), SETTLE_S, "both lines are used")
    return running


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("end", ["server", "client"])
def test_the_tunnel_is_back(bond: Any, end: str, with_signal: signal.Signals) -> None:
    other = {"server": "client", "client": "server"}[end]
    survivor = bond.tunnel.ends[other]
    code = bond.tunnel.stop(end, with_signal=with_signal)
    assert code == (-signal.SIGKILL if with_signal is signal.SIGKILL else 0)
    assert control_socket(bond.tunnel, end).exists() == (with_signal is signal.SIGKILL)
    if with_signal is signal.SIGTERM:
        eventually(
            lambda: "closed by the peer" in bond.tunnel.client_log + bond.tunnel.server_log,
            2,
            "the peer was told",
        )
    time.sleep(1)  # the case: long enough to be missed, so that a retry is on its way or waiting
    started = time.monotonic()
    bond.tunnel.start(end)
    back_s = bond.tunnel.await_echo(BACK_MAX_S)
    listening_s = time.monotonic() - started - status(bond.tunnel, end)["uptime_s"]
    print(f"{end} after {with_signal.name}: back after {back_s:.2f} s, {listening_s:.2f} s of them to start")
    assert survivor.poll() is None
    eventually(lambda: all_active(bond.tunnel, bond.lab), BACK_MAX_S, "both lines are used")
    for each in ("client", "server"):
        assert drops(bond.tunnel, each).get("handshake", 0) == 0


@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
@pytest.mark.parametrize("end", ["server", "client"])
def test_a_connection_inside_survives(bond: Any, end: str, upload: bool) -> None:
    """The other end's TAP stays, and with it its sockets; the restarted one has its address again."""
    with Flow(bond.lab, upload=upload, bits_per_second=8e6) as flow:
        flow.flows(1_000_000)
        bond.tunnel.stop(end, with_signal=signal.SIGKILL)
        gone_at = time.monotonic()
        bond.tunnel.start(end)
        bond.tunnel.await_echo(BACK_MAX_S)
        # TCP's own timeout doubles while it hears nothing, and may have just been set off.
        flow.flows(500_000, within_s=10)
        print(f"silent for {flow.silence_s(since=gone_at):.2f} s")
        assert flow.failures == []
