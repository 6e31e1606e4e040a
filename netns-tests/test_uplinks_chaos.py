"""200 random link events in a row: what is there in the end is what is planned, and after the end nothing.

    gw  eth1 10.1.0.x/24   gateway configured                              lan  r1 --- srv   lo 198.51.100.1
        eth2 10.2.0.x/24   gateway of the main table, as DHCP leaves it    lan  r2 --- srv
        eth3 10.3.0.x/24   automatic while it has a default route          lan  r3 --- srv

The model below knows what an administrator would expect; it shares nothing with the planner.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from observe import POLL_S, links, rp_filter
from premises import Premises, await_active, tunnel

from bondvpn.lab import namespace

pytestmark = pytest.mark.netns

EVENTS = int(os.environ.get("BONDVPN_EVENTS", "200"))
SETTLE_S = 10.0
# The kernel tells of a lost carrier up to a second after it (net/core/link_watch.c); until then what is right
# may be so only because nobody has noticed yet.
LASTING_S = 2.0
UPLINKS = """
[[uplink]]
name = "one"
interface = "eth1"
gateway = "10.1.0.1"
table = 189
[[uplink]]
name = "two"
interface = "eth2"
[[uplink]]
auto = true
"""


@dataclass
class Port:
    """An Ethernet port as the last event left it."""

    i: int
    host: int = 2
    present: bool = True
    up: bool = True
    cable: bool = True
    default: int = 1
    """Host part of the main table's gateway by this port; 0: it has none."""

    @property
    def name(self) -> str:
        return f"eth{self.i}"

    def repair(self) -> list[str]:
        """The main table's default, which the kernel deletes with its interface."""
        if self.default and self.up and self.present:
            return [f"route replace default via 10.{self.i}.0.{self.default} dev {self.name} metric {self.i}"]
        return []


class Chaos:
    """Does things to ports."""

    def __init__(self, premises: Premises, seed: int) -> None:
        self.premises = premises
        self.ports = [Port(1, default=0), Port(2), Port(3)]
        self._random = random.Random(seed)
        # Addresses that the kernel makes up from hardware ones would be others each time.
        namespace.sysctl(premises.namespace("gw"), {"ipv6/conf/default/addr_gen_mode": "1"})
        for port in self.ports:
            self.plug_in(port)
            premises.provider(port.i, f"10.{port.i}.0.0/24")

    def plug_in(self, port: Port) -> None:
        i = port.i
        self.premises.join("gw", port.name, f"r{i}", "lan", f"10.{i}.0.{port.host}/24", f"10.{i}.0.1/24")
        self.premises.ip(f"r{i}", f"address add 10.{i}.0.9/24 dev lan", "link set lan up")
        rp_filter(self.premises, "gw", port.name, "1")
        port.present = port.up = port.cable = True
        self._gw(port.repair())

    def _gw(self, commands: list[str]) -> None:
        """All of them, whatever becomes of each."""
        if commands:
            words = ["ip", "-force", "-batch", "-"]
            self.premises.run("gw", words, input="\n".join(commands), text=True, stderr=subprocess.DEVNULL)

    def event(self) -> str:
        port = self._random.choice(self.ports)
        deeds = (self._address, self._toggle, self._cable, self._replug, self._gateway, self._delete)
        return f"{port.name} {self._random.choice(deeds)(port)}"

    def _address(self, port: Port) -> str:
        if not port.present:
            return "is not there"
        port.host = self._random.randrange(20, 250)
        own = f"address add 10.{port.i}.0.{port.host}/24 dev {port.name}"
        self._gw([f"address flush dev {port.name}", own, *port.repair()])
        return f"has .{port.host}"

    def _toggle(self, port: Port) -> str:
        if not port.present:
            return "is not there"
        port.up = not port.up
        self._gw([f"link set {port.name} {'up' if port.up else 'down'}", *port.repair()])
        return f"is {'up' if port.up else 'down'}"

    def _cable(self, port: Port) -> str:
        if not port.present:
            return "is not there"
        port.cable = not port.cable
        self.premises.ip(f"r{port.i}", f"link set lan {'up' if port.cable else 'down'}")
        return f"cable {'in' if port.cable else 'out'}"

    def _replug(self, port: Port) -> str:
        if port.present:
            self._gw([f"link delete {port.name}"])
            port.present = False
            if self._random.random() < 0.5:
                return "is unplugged"
        self.plug_in(port)
        return "is plugged in"

    def _gateway(self, port: Port) -> str:
        if port.i == 1:
            return "keeps its gateway"
        old, port.default = port.default, self._random.choice([0, 1, 9])
        gone = [f"route delete default dev {port.name}"] if old and not port.default else []
        self._gw([*gone, *port.repair()])
        return f"default {port.default or 'gone'}"

    def _delete(self, port: Port) -> str:
        """What systemd-networkd does to what it does not know."""
        deed = self._random.choice(
            ["route flush table 189", "route flush table 4490", "rule delete priority 11890",
             "rule delete priority 11891", "rule delete priority 11892"]
        )  # fmt: skip
        self._gw([deed])
        return deed

    def expected(self, table_of_auto: int | None) -> set[str]:
        """Rules and routes of ours in iproute2's words."""
        lines = set()
        for port in self.ports:
            gateway = 1 if port.i == 1 else port.default
            if not (port.present and port.up and port.cable and gateway):
                continue
            table = {1: 189, 2: 4490}.get(port.i) or table_of_auto or 0
            mark = 4489 if port.i == 1 else table
            own = f"10.{port.i}.0.{port.host}"
            lines |= {
                f"11890: from all fwmark {mark:#x} lookup {table} proto 118",
                f"11891: from {own} lookup main suppress_prefixlength 0 proto 118",
                f"11892: from {own} lookup {table} proto 118",
            }
            lines.add(f"default via 10.{port.i}.0.{gateway} dev {port.name} table {table} proto 118")
        return lines

    def found(self) -> set[str]:
        """Those that are there."""
        listed = [*self.premises.ip("gw", "rule show").splitlines(),
                  *self.premises.ip("gw", "route show table all proto 118").splitlines()]  # fmt: skip
        lines = (" ".join(line.split()) for line in listed)
        return {line if "proto 118" in line else f"{line} proto 118" for line in lines
                if "proto 118" in line or line.startswith("default")}  # fmt: skip


def everything(premises: Premises) -> dict[str, str]:
    """All that a client may change, but for what IPv6 does by itself."""
    state = {f"{family} {what}": premises.ip("gw", f"{family} {what}")
             for family in ("-4", "-6") for what in ("rule show", "route show table all")}  # fmt: skip
    state["links"] = " ".join(
        sorted(line.split("@")[0] for line in premises.ip("gw", "-br link").splitlines())
    )
    with namespace.entered(premises.namespace("gw")):
        for path in sorted(Path("/proc/sys/net").glob("ipv?/conf/*/*")):
            with contextlib.suppress(OSError):  # some can only be written, or hold no secret yet
                state[str(path)] = path.read_text()
    return state


def settled(wrong: Callable[[], list[str]]) -> list[str]:
    """Nothing once nothing was wrong for LASTING_S; after SETTLE_S, what last was."""
    last, right_since = wrong(), time.monotonic()
    give_up_at = right_since + SETTLE_S
    while time.monotonic() < right_since + LASTING_S:
        if time.monotonic() > give_up_at:
            return last
        time.sleep(POLL_S)
        if found := wrong():
            last, right_since = found, time.monotonic()
    return []


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_exactly_what_is_planned_and_then_nothing(
    premises_with: Callable[[int], Premises], tmp_path: Path, ending: signal.Signals
) -> None:
    seed = int(os.environ.get("BONDVPN_SEED", time.time_ns() % 1_000_000))
    print(f"BONDVPN_SEED={seed}")
    premises = premises_with(3)
    chaos = Chaos(premises, seed)
    before = everything(premises)
    with tunnel(premises, tmp_path / "etc", UPLINKS) as both:
        await_active(both, "one", "two", "eth3")
        for number in range(EVENTS if ending == signal.SIGTERM else EVENTS // 20):
            print(number, chaos.event())

        def wrong() -> list[str]:
            """What is missing or too much."""
            places = links(both, "client")
            table = places["eth3"]["table"] if "eth3" in places else None
            return sorted(set.symmetric_difference(chaos.found(), chaos.expected(table)))

        assert settled(wrong) == [], chaos.ports
        assert both.client_log.count("Traceback") == 0
        for port in chaos.ports:  # as it was, to see that nothing stays
            if port.present:
                premises.ip("gw", f"link delete {port.name}")
            port.host, port.default = 2, int(port.i != 1)
            chaos.plug_in(port)
        await_active(both, "one", "two", "eth3")  # as before the last port came, perhaps
        assert settled(wrong) == []
        both.stop("client", with_signal=ending)
        if ending == signal.SIGKILL:
            assert everything(premises) != before
            assert both.command("client", "down").returncode == 0
        after = everything(premises)
        assert {
            key: (before.get(key), value) for key, value in after.items() if before.get(key) != value
        } == {}
