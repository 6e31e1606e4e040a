"""The full tunnel: everything through it, no loop, what is local stays, and nothing is left behind.

                                    +-- eth1 10.1.0.2/24, 2001:db8:1::2/64 --- r1 --+
    lan 192.168.7.2 --- gw bond0 ---+                                               +--- srv office0
                                    +-- eth2 10.2.0.2/24 -------------------- r2 --+

    bond0    172.21.1.2/30, fd21::2/127            lo of srv   198.51.100.1    where bondvpn listens
    office0  172.21.1.1/30, fd21::3/127                        198.51.100.80, 2001:db8:80::1   "the Internet"

"The Internet" is reached by every line too, and says from which address one comes. gw's main table has a
default route by each line.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from internet import HOST, HOST6, Internet, dual_stack_office
from observe import Flow, eventually, links, settled_state, status, system_state
from premises import Premises, await_active, configure

from bondvpn.lab.tunnel import Tunnel

pytestmark = pytest.mark.netns

SETTLE_S = 30.0  # on a busy machine
INSIDE, INSIDE6 = "172.21.1.2", "fd21::2"
CONFIGURED = """
[[uplink]]
name = "eth1"
interface = "eth1"
gateway = "10.1.0.1"
[[uplink]]
name = "eth2"
interface = "eth2"
"""
AUTOMATIC = """
[[uplink]]
auto = true
"""


class Place(NamedTuple):
    premises: Premises
    internet: Internet
    directory: Path

    def tunnel(
        self,
        uplinks: str = CONFIGURED,
        *,
        ipv6: bool = True,
        endpoints: Sequence[str] = (),
        **settings: object,
    ) -> Tunnel:
        """Both ends, not started; `settings` go into [tunnel]."""
        own = {"default_route": True} | settings
        configs = configure(self.premises, self.directory, uplinks, endpoints=endpoints, **own)
        if ipv6:
            for file, one, other in (
                (configs.client, "172.21.1.2/30", "fd21::2/127"),
                (configs.server, "172.21.1.1/30", "fd21::3/127"),
            ):
                file.write_text(file.read_text().replace(f'"{one}"', f'"{one}", "{other}"'))
        return Tunnel(self.premises, configs, wait_s=SETTLE_S)


@pytest.fixture
def place(premises_with: Callable[[int], Premises], tmp_path: Path) -> Iterator[Place]:
    premises = premises_with(2)
    dual_stack_office(premises)
    with Internet(premises) as internet:
        yield Place(premises, internet, tmp_path / "etc")


def rules(premises: Premises, family: str) -> list[str]:
    return [" ".join(line.split()) for line in premises.ip("gw", f"{family} rule show").splitlines()]


@pytest.mark.parametrize("uplinks", [CONFIGURED, AUTOMATIC], ids=["configured", "automatic"])
def test_everything_but_what_is_local(place: Place, uplinks: str) -> None:
    premises, internet = place.premises, place.internet
    assert (internet.sees("gw"), internet.sees("gw", HOST6)) == ("10.1.0.2", "2001:db8:1::2")
    main = premises.ip("gw", "route show table main")
    with place.tunnel(uplinks) as both:
        await_active(both, "eth1", "eth2", within_s=SETTLE_S)
        assert (internet.sees("gw"), internet.sees("gw", HOST6)) == (INSIDE, INSIDE6)
        assert internet.sees("gw", "198.51.100.1") == INSIDE  # the server has no exception
        # The main table is as it was, so what is local stays direct.
        assert all(line in premises.ip("gw", "route show table main") for line in main.splitlines())
        for local in ("192.168.7.2", "10.1.0.1", "10.2.0.1"):
            assert "via" not in premises.ip("gw", f"route get {local}"), local
        assert "dev bond0" in premises.ip("gw", f"route get {HOST}")
        # Ours leave by their line even where that has lost its route: no loop.
        for mark, line in ((0x1189, "eth1"), (0x118A, "eth2")):
            assert f"dev {line}" in premises.ip("gw", f"route get {HOST} mark {mark}")
        premises.ip("gw", "route flush table 4490")
        assert "dev bond0" not in premises.ip("gw", f"route get {HOST} mark {0x118A}")
        with Flow(premises, congestion="bbr") as flow:
            flow.flows()
            assert flow.failures == []
        assert status(both, "client")["machine"]["default_route_table"] == 4491
    assert premises.ip("gw", "route show table main") == main
    assert internet.sees("gw") == "10.1.0.2"


def test_the_rules_stand_behind_the_uplinks_and_come_back(place: Place) -> None:
    premises = place.premises
    with place.tunnel() as both:
        await_active(both, "eth1", "eth2", within_s=SETTLE_S)
        for family in ("-4", "-6"):
            shown = rules(premises, family)
            ours = [line for line in shown if line.startswith("1189") and not line.startswith("11890")]
            assert [line for line in ours if line[:6] > "11892:"] == [
                "11893: from all fwmark 0x1189 lookup main proto 118",
                "11893: from all fwmark 0x118a lookup main proto 118",
                "11894: from all lookup main suppress_prefixlength 0 proto 118",
                "11895: from all lookup 4491 proto 118",
            ]
        assert (
            premises.ip("gw", "route show table 4491").strip() == "default via 172.21.1.1 dev bond0 proto 118"
        )
        assert premises.ip("gw", "-6 route show table 4491").startswith("default via fd21::3 dev bond0")
        before = settled_state(premises, "gw")
        for broken in (
            "rule delete priority 11895",
            "-6 rule delete priority 11894",
            "route flush table 4491",
            "link set bond0 down",
        ):
            premises.ip("gw", broken)
            if broken.endswith("down"):
                premises.ip("gw", "link set bond0 up")
            eventually(lambda: place.internet.sees("gw", timeout_s=1) == INSIDE, SETTLE_S, broken)
        premises.ip("gw", "route show table all proto 118")
        after = settled_state(premises, "gw")
        assert {key: sorted(text.splitlines()) for key, text in after.items() if "rules" in key} == {
            key: sorted(text.splitlines()) for key, text in before.items() if "rules" in key
        }


def test_a_family_that_the_tunnel_has_not_stays_as_it_was(place: Place) -> None:
    with place.tunnel(ipv6=False) as both:
        await_active(both, "eth1", "eth2", within_s=SETTLE_S)
        assert place.internet.sees("gw") == INSIDE
        assert place.internet.sees("gw", HOST6) == "2001:db8:1::2"
        assert not any("11895" in line for line in rules(place.premises, "-6"))


def test_uplinks_come_and_go_under_it(place: Place) -> None:
    """Its own default route makes no uplink, and the lines' default routes go on to make them."""
    premises = place.premises
    with place.tunnel(AUTOMATIC) as both:
        await_active(both, "eth1", "eth2", within_s=SETTLE_S)
        premises.ip("gw", "route delete default via 10.1.0.1")
        premises.ip("gw", "-6 route delete default")
        eventually(lambda: set(links(both, "client")) == {"eth2"}, SETTLE_S, "eth1 has gone")
        assert place.internet.sees("gw") == INSIDE
        premises.ip("gw", "route add default via 10.1.0.1 metric 50")
        await_active(both, "eth1", "eth2", within_s=SETTLE_S)
        assert place.internet.sees("gw") == INSIDE


@pytest.mark.parametrize("end", ["SIGTERM", "down", "next start"])
def test_nothing_is_left(place: Place, end: str) -> None:
    premises = place.premises
    before = settled_state(premises, "gw")
    tunnel = place.tunnel()
    with tunnel:
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        assert system_state(premises, "gw") != before
        if end == "SIGTERM":
            assert tunnel.stop("client") == 0
        else:
            tunnel.stop("client", with_signal=signal.SIGKILL)
            assert system_state(premises, "gw") != before
            if end == "down":
                done = tunnel.command("client", "down")
                assert (done.returncode, done.stderr) == (0, "")
            else:
                tunnel.start("client")
                await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
                assert tunnel.stop("client") == 0
        assert system_state(premises, "gw") == before
        assert place.internet.sees("gw") == "10.1.0.2"


def test_names_are_asked_for_before_and_until_they_are_known(place: Place) -> None:
    """A name server that only the lines, or the tunnel, reach: the default route waits for its answer."""
    premises = place.premises
    premises.resolve_by(HOST)
    tunnel = place.tunnel(endpoints=["root.example:1189"])
    with contextlib.ExitStack() as stack:
        stack.callback(tunnel.__exit__)
        for end in ("server", "client"):
            tunnel.start(end)
        eventually(lambda: "cannot resolve root.example" in tunnel.client_log, SETTLE_S, "nobody answers")
        machine = eventually(lambda: status(tunnel, "client"), SETTLE_S, "it has started")["machine"]
        assert machine["default_route_table"] is None
        assert place.internet.sees("gw") == "10.1.0.2"
        words = ["--keep-in-foreground", "--no-resolv", "--no-hosts", f"--listen-address={HOST}",
                 "--bind-interfaces", "--pid-file=", "--address=/root.example/198.51.100.1"]  # fmt: skip
        premises.popen("srv", ["dnsmasq", "--conf-file=/dev/null", *words])
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        eventually(lambda: place.internet.sees("gw") == INSIDE, SETTLE_S, "all goes through the tunnel")
        # Started again it has to ask first.
        assert tunnel.stop("client") == 0
        tunnel.start("client")
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        assert place.internet.sees("gw") == INSIDE


def test_a_second_one_is_refused(place: Place) -> None:
    tunnel = place.tunnel()
    with tunnel:
        text = (place.directory / "client.toml").read_text()
        second = place.directory / "second.toml"
        second.write_text(text.replace('"bond0"', '"bond1"'))
        refused = tunnel.command("client", "client", "--config", str(second))
        assert refused.returncode == 1
        assert refused.stderr == (
            "bond0 has the default route already, and there can be only one: end that one first\n"
        )
        tunnel.stop("client", with_signal=signal.SIGKILL)
        refused = tunnel.command("client", "client", "--config", str(second))
        assert "a killed process left it: bondvpn down" in refused.stderr
