"""The demo's eyes: what the lines carry, what bondvpn says of them, and a transfer that runs meanwhile."""

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bondvpn.errors import BondvpnError, SystemFault
from bondvpn.lab import measure
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import Tunnel
from bondvpn.ui import control
from bondvpn.ui.demo_table import View


class Transfer(threading.Thread):
    """One TCP transfer from the server to the gateway, while the thread that started it looks on."""

    def __init__(
        self,
        lab: Lab,
        address: str,
        seconds: float,
        *,
        congestion: str,
        bind: str | None = None,
        omit_s: int = 0,
        interval_s: float,
    ) -> None:
        super().__init__()
        self.fault: str | None = None
        self._result: measure.TcpResult | None = None
        self._measure: Callable[[], measure.TcpResult] = functools.partial(
            measure.tcp, lab, address, seconds, congestion=congestion, reverse=True, bind=bind, omit_s=omit_s,
            interval_s=interval_s,
        )  # fmt: skip

    def run(self) -> None:
        try:
            self._result = self._measure()
        except (BondvpnError, OSError) as fault:
            self.fault = str(fault)

    def outcome(self) -> measure.TcpResult:
        """Once it has ended; raises SystemFault when it failed."""
        if self._result is None:
            raise SystemFault(self.fault or "the transfer has not ended")
        return self._result


class Watch:
    """Keeps a view up to date by asking the emulator and both control sockets."""

    SAMPLE_S = 0.1
    FIRST_WINDOW_BYTES = 30_000  # twice TCP's first flight (RFC 6928): more than iperf3's talk before it
    STATUS_EVERY_S = 0.25
    SMOOTH_S = 0.3

    def __init__(self, lab: Lab, view: View) -> None:
        self.pulled: str | None = None
        """The line that is cut, if any."""
        self._lab = lab
        self._view = view
        self._sockets: tuple[Path, Path] | None = None
        self._status_due = 0.0
        self._said: dict[str, str] = {}
        self._carried: deque[tuple[float, dict[str, int]]] = deque()
        self._inside: deque[tuple[float, int]] = deque()

    def follow(self, tunnel: Tunnel) -> None:
        """From now on show what this tunnel says."""
        directories = [Path(tunnel.environment(end)["BONDVPN_RUNTIME_DIR"]) for end in ("client", "server")]
        self._sockets = directories[0] / "bond0.sock", directories[1] / "server.sock"
        self._view.inside = 0.0

    def delivered_bytes(self) -> int:
        """What has left the tunnel at the gateway by now: unlike the lines' bytes, without probes."""
        with contextlib.suppress(SystemFault):
            reply = control.ask(self._sockets[0], "status", timeout_s=1.0) if self._sockets else None
            if reply and reply.get("tunnels"):
                return int(reply["tunnels"][0]["tap"]["tx_bytes"])
        return 0

    def sample(self) -> list[str]:
        """Look once; returns what bondvpn says is new about its links, in words."""
        now = time.monotonic()
        lines = self._lab.counters()["lines"]
        self._carried.append((now, {name: ways["down"]["bytes_out"] for name, ways in lines.items()}))
        _forget(self._carried, now - self.SMOOTH_S)
        (then, before), (_, after) = self._carried[0], self._carried[-1]
        if now > then:
            self._view.carried = {
                name: (count - before[name]) * 8 / (now - then) for name, count in after.items()
            }
        events = self._ask(now) if self._sockets is not None and now >= self._status_due else []
        if self.pulled is not None:
            self._view.states[self.pulled] = "PULLED"
        return events

    def _ask(self, now: float) -> list[str]:
        self._status_due = now + self.STATUS_EVERY_S
        # A process that is busy, starting or ending has nothing to say now; the transfer shows how it does.
        with contextlib.suppress(SystemFault):
            replies = [control.ask(path, "status", timeout_s=1.0) for path in self._sockets or ()]
            tunnels = [reply["tunnels"][0] for reply in replies if reply and reply.get("tunnels")]
            if len(tunnels) == 2:
                return self._note(tunnels[0]["tap"]["tx_bytes"], tunnels[1]["links"], now)
        return []

    def _note(self, delivered: int, links: Sequence[dict[str, Any]], now: float) -> list[str]:
        """`delivered`: bytes that left the tunnel at the gateway. `links`: as the server sees them, since it
        sends and so chooses the line."""
        self._inside.append((now, delivered))
        _forget(self._inside, now - 2 * self.STATUS_EVERY_S)
        (then, before), (_, after) = self._inside[0], self._inside[-1]
        if now > then:
            self._view.inside = (after - before) * 8 / (now - then)
            self._view.history.append(self._view.inside)
        self._view.states = {link["name"]: link["state"] for link in links}
        events = []
        for link in links:
            name, state = link["name"], link["state"]
            if self._said.get(name, state) != state:
                why = f" ({link['reason']})" if link["reason"] and state != "active" else ""
                events.append(f"bondvpn: {name} is {state}{why}")
            self._said[name] = state
        return events


def _forget(samples: deque[Any], before: float) -> None:
    """Drop what is older, but keep the newest of it and two at least: rates need a span."""
    while len(samples) > 2 and samples[1][0] <= before:
        samples.popleft()
