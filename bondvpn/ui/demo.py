"""`bondvpn demo`: a whole bonded network on this machine, shown at work and judged.

1. Three emulated lines between a gateway and a server; plain TCP on each of them alone.
2. bondvpn at both ends; one TCP connection through it, server to gateway.
3. A line is cut in silence in mid-transfer, and given back.
4. The verdict; then everything that was made is removed, also when interrupted.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from bondvpn import __version__
from bondvpn.errors import SystemFault
from bondvpn.lab.shape import DEMO
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import PEER_ADDRESS, Tunnel, write_configs
from bondvpn.ui.demo_table import View, render
from bondvpn.ui.demo_verdict import Figures, Timeline, Verdict, as_dict, evaluate, judge
from bondvpn.ui.demo_watch import Transfer, Watch

PREFIX = "demo"
PULLED = "lte"
CONGESTION = "cubic"  # named, since the default differs between machines
SCHEDULER = "weighted"
INTERVAL_S = 0.1  # the finest that iperf3 reports
TUN = Path("/dev/net/tun")
# command: Debian package
COMMANDS = {"ip": "iproute2", "setpriv": "util-linux", "iperf3": "iperf3"}
# The first data after the connection is made; generous, since a failing transfer ends by itself.
FIRST_DATA_S = 10.0
# A line is used again when it carries this share of what plain TCP got from it alone.
USED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each part takes, seconds."""

    alone_s: float
    omit_s: int
    """Slow start on a line alone, left out of its figure."""
    together: bool
    """The lines tried at the same time, each with its own connection, or one after the other."""
    ramp_s: float
    """Slow start of the connection through the bond, left out; 3 s measured (cubic leaves it early)."""
    steady_s: float
    """Until the cut. A loss of cubic's withholds 0.2 s of data, so far longer than that."""
    gone_s: float
    after_s: float


QUICK = Plan(alone_s=3, omit_s=1, together=True, ramp_s=3.5, steady_s=4.0, gone_s=2.5, after_s=3.5)
FULL = Plan(alone_s=4, omit_s=1, together=False, ramp_s=4.0, steady_s=6.0, gone_s=5.0, after_s=6.0)


def main(*, quick: bool = False, as_json: bool = False) -> int:
    """Run the demo; 0 when the verdict is good, else 1. With `as_json` standard output is one JSON object.

    Raises SystemFault when this machine lacks what the demo needs.
    """
    _require(os.geteuid(), TUN, os.environ.get("PATH", os.defpath))
    started = time.monotonic()
    plan = QUICK if quick else FULL
    console = Console(highlight=False, quiet=as_json)
    interrupts = _Interrupts()
    try:
        # Signals are switched off before anything is removed, and on again when all of it is.
        with _alone_on_this_machine(), interrupts, contextlib.ExitStack() as made:
            try:
                figures = _Show(console, plan, made).run()
            finally:
                interrupts.ignore()
    except (KeyboardInterrupt, SystemFault):
        if not interrupts.came:
            raise
        raise SystemFault("interrupted; everything the demo made is removed") from None
    verdict = judge(figures)
    if as_json:
        facts = {"quick": quick, "seconds": round(time.monotonic() - started, 1)} | _circumstances(plan)
        print(json.dumps(as_dict(figures, verdict) | facts, indent=2, ensure_ascii=False))
    else:
        _announce(console, plan, verdict, time.monotonic() - started)
    return 0 if verdict.ok else 1


class _Show:
    """The demo on one console; what it makes goes onto the stack `made`."""

    def __init__(self, console: Console, plan: Plan, made: contextlib.ExitStack) -> None:
        self._console = console
        self._plan = plan
        self._made = made
        self._began = time.monotonic()
        self._view = View(DEMO, title="setting up")
        # Joined after the lab has killed their processes.
        self._transfers: list[Transfer] = []
        made.callback(self._join_transfers)
        self._lab = made.enter_context(Lab(DEMO, prefix=PREFIX))
        self._watch = Watch(self._lab, self._view)
        self._live: Live | None = None
        if console.is_terminal and not console.quiet:
            self._live = Live(render(self._view), console=console, auto_refresh=False)
            made.enter_context(self._live)

    def run(self) -> Figures:
        """All of it but the removal; raises SystemFault where something other than the bond fails."""
        names = " + ".join(f"{line.name} {line.down.rate_bps / 1e6:g}" for line in DEMO
                           if line.down is not None and line.down.rate_bps is not None)  # fmt: skip
        self._say(f"{names} Mbit/s; first plain TCP ({CONGESTION}) on each")
        alone = self._each_alone()
        directory = self._made.enter_context(tempfile.TemporaryDirectory(prefix="bondvpn-demo-"))
        configs = write_configs(self._lab, Path(directory), scheduler=SCHEDULER)
        self._say("starting bondvpn at both ends")
        tunnel = self._made.enter_context(Tunnel(self._lab, configs))
        self._watch.follow(tunnel)
        return self._through_the_bond(alone)

    # 1. Plain TCP.

    def _each_alone(self) -> dict[str, float]:
        plan, view = self._plan, self._view
        groups = [DEMO] if plan.together else [(line,) for line in DEMO]
        for group in groups:
            names = ", ".join(line.name for line in group)
            view.title = f"Plain TCP on {names}{', each by itself' if len(group) > 1 else ' alone'}"
            view.states = {line.name: "plain" if line in group else "idle" for line in DEMO}
            started = {line.name: self._transfer_alone(line.name) for line in group}
            while any(transfer.is_alive() for transfer in started.values()):
                self._tick()
            for name, transfer in started.items():
                view.alone[name] = transfer.outcome().bits_per_second
                self._say(f"{name} alone: {view.alone[name] / 1e6:.1f} Mbit/s")
        self._say(f"the sum of the lines: {sum(view.alone.values()) / 1e6:.1f} Mbit/s")
        return dict(view.alone)

    def _transfer_alone(self, name: str) -> Transfer:
        return self._start(
            Transfer(self._lab, self._lab.gateway(name), self._plan.alone_s, congestion=CONGESTION,
                     bind=self._lab.address(name), omit_s=self._plan.omit_s, interval_s=0.5)
        )  # fmt: skip

    # 2. and 3. One connection through the bond, and a line that goes and comes back.

    def _through_the_bond(self, alone: dict[str, float]) -> Figures:
        plan, view, watch = self._plan, self._view, self._watch
        seconds = plan.ramp_s + plan.steady_s + plan.gone_s + plan.after_s
        self._say(f"one TCP connection ({CONGESTION}) through the bond, server to gateway, {seconds:g} s")
        view.title = "One TCP connection through the bond"
        transfer = self._start(
            Transfer(self._lab, PEER_ADDRESS, seconds, congestion=CONGESTION, interval_s=INTERVAL_S)
        )
        start = self._first_data(transfer)
        cut = restored = again = start
        used = None
        if self._until(start + plan.ramp_s, transfer):
            view.title = "One TCP connection through the bond: steady"
        if self._until(start + plan.ramp_s + plan.steady_s, transfer):
            self._say(f"{PULLED} pulled in silence: neither end is told, what is under way is lost")
            view.title = f"One TCP connection through the bond: {PULLED} pulled"
            self._lab.cut(PULLED)
            cut = time.monotonic()
            watch.pulled = PULLED
        if self._until(cut + plan.gone_s, transfer):
            watch.pulled = None
            restored = time.monotonic()
            self._lab.restore(PULLED)
            self._say(f"{PULLED} back")
            view.title = f"One TCP connection through the bond: {PULLED} back"
        while transfer.is_alive():
            self._tick()
            if used is None and view.carried.get(PULLED, 0.0) >= USED_SHARE * alone[PULLED]:
                used = again = time.monotonic()
                self._say(f"{PULLED} used again, {again - restored:.1f} s after its return")
        if transfer.fault is not None:
            return Figures(alone, PULLED, fault=transfer.fault)
        when = Timeline(
            steady_from=plan.ramp_s,
            cut=cut - start,
            restored=restored - start,
            again=None if used is None else again - start,
            end=seconds,
        )
        return evaluate(alone, PULLED, transfer.outcome().intervals, INTERVAL_S, when)

    def _first_data(self, transfer: Transfer) -> float:
        give_up_at = time.monotonic() + FIRST_DATA_S
        before = self._watch.delivered_bytes()
        while transfer.is_alive() and time.monotonic() < give_up_at:
            self._tick(0.02)
            if self._watch.delivered_bytes() > before + Watch.FIRST_WINDOW_BYTES:
                break
        return time.monotonic()

    # Time and talk.

    def _start(self, transfer: Transfer) -> Transfer:
        self._transfers.append(transfer)
        transfer.start()
        return transfer

    def _join_transfers(self) -> None:
        for transfer in self._transfers:
            transfer.join()

    def _until(self, at: float, transfer: Transfer) -> bool:
        """Watch until that moment; False when the transfer ended before."""
        while transfer.is_alive() and (left := at - time.monotonic()) > 0:
            self._tick(min(left, Watch.SAMPLE_S))
        return transfer.is_alive()

    def _tick(self, seconds: float = Watch.SAMPLE_S) -> None:
        time.sleep(seconds)
        for event in self._watch.sample():
            self._say(event)
        self._view.elapsed_s = time.monotonic() - self._began
        if self._live is not None:
            self._live.update(render(self._view), refresh=True)

    def _say(self, event: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:5.1f} s  {event}", soft_wrap=True, markup=False)


class _Interrupts(contextlib.AbstractContextManager["_Interrupts"]):
    """SIGINT, SIGTERM and SIGHUP as one KeyboardInterrupt: those that follow do not disturb the removal.

    The terminal's Ctrl-C ends iperf3 as well, and its failure may be what is raised in the end.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.came = False
        """Whether there was one."""
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interrupts":
        self._before = {number: signal.signal(number, self._interrupt) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        # After an interrupt the process only has its last words to say.
        if not self.came:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def ignore(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, number: int, _frame: object) -> None:
        if os.getpid() != self._process:
            # pyroute2 forks a helper to enter a namespace and ends it with SIGTERM: to unwind this stack
            # there would remove the namespaces that are just being made.
            os._exit(128 + number)
        self.came = True
        self.ignore()
        raise KeyboardInterrupt


@contextlib.contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """The namespaces' names are the same in every run, so that each removes what a killed one left: one at a
    time. An abstract address (unix(7)) goes with its process."""
    with socket.socket(socket.AF_UNIX) as claim:
        try:
            claim.bind(f"\0bondvpn-{PREFIX}")
        except OSError:
            raise SystemFault("another bondvpn demo is running on this machine") from None
        yield


def _require(user: int, tun: Path, path: str) -> None:
    """Raises SystemFault naming everything that is missing."""
    missing = []
    if user != 0:
        missing.append("the demo makes network namespaces and needs root: sudo bondvpn demo")
    if not tun.is_char_device():
        missing.append(f"{tun} is missing: modprobe tun (a container must be given the device)")
    packages = [
        package
        for command, package in COMMANDS.items()
        if shutil.which(command, path=f"{path}:/usr/sbin:/sbin") is None
    ]
    if packages:
        missing.append(f"commands are missing: apt-get install {' '.join(packages)}")
    if missing:
        raise SystemFault("\n".join(missing))


def _circumstances(plan: Plan) -> dict[str, Any]:
    return {
        "lines": [
            {
                "name": line.name,
                "down_mbit": (line.down.rate_bps or 0.0) / 1e6,
                "up_mbit": (line.up.rate_bps or 0.0) / 1e6,
                "delay_ms": line.down.delay_s * 1e3,
            }
            for line in DEMO
            if line.up is not None and line.down is not None
        ],
        "direction": "server to gateway",
        "congestion": CONGESTION,
        "scheduler": SCHEDULER,
        "method": _method(plan),
        "version": __version__,
        "kernel": platform.release(),
        "cpu": _cpu(Path("/proc/cpuinfo")),
        "cores": os.cpu_count(),
    }


def _method(plan: Plan) -> str:
    order = "at the same time" if plan.together else "one after the other"
    return (
        f"alone: each line {order}, {plan.alone_s:g} s after {plan.omit_s} s of slow start; "
        f"bond: one connection, the {plan.steady_s:g} s before the cut, after {plan.ramp_s:g} s of slow start"
    )


def _cpu(cpuinfo: Path) -> str:
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _announce(console: Console, plan: Plan, verdict: Verdict, seconds: float) -> None:
    console.print()
    style = "bold green" if verdict.ok else "bold red"
    console.print(verdict.text, style=style, markup=False, soft_wrap=not console.is_terminal)
    console.print(
        f"The bond's figure is from the {plan.steady_s:g} s before the cut, slow start left out. "
        f"It took {seconds:.0f} s; everything is removed again.",
        style="dim",
        markup=False,
        soft_wrap=not console.is_terminal,
    )
