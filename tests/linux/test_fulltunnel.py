"""What the full tunnel and its kill switch ask for; at work in netns-tests/test_kill_switch.py."""

import os
from contextlib import nullcontext
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, cast

import pytest

from bondvpn.config import Tunnel, Uplink
from bondvpn.errors import SystemFault
from bondvpn.linux import fulltunnel, journal, nftables, policy
from bondvpn.linux.journal import Journal, Owner
from bondvpn.linux.netlink import TABLE_MAIN, Netlink, Route, Rule
from bondvpn.linux.network import DefaultRoute, Interface, Network
from bondvpn.linux.nftables import NftTable, Table

TUNNEL = Tunnel(interface="bond0", address=(ip_interface("172.21.1.2/30"),), default_route=True)
BOTH = replace(TUNNEL, address=(ip_interface("172.21.1.2/30"), ip_interface("fd21::2/127")))
DSL = Uplink(name="dsl", interface="eth1", gateway=ip_address("10.1.0.1"))
PLAIN = Uplink(name="plain", interface="eth2")
NETWORK = Network(
    {
        name: Interface(name, index, addresses=tuple(map(ip_interface, addresses)))
        for index, (name, addresses) in enumerate(
            {
                "lo": ("127.0.0.1/8",),
                "eth1": ("10.1.0.2/24", "198.51.100.7/24", "2001:db8:1::2/64"),
                "eth2": ("10.2.0.2/24",),
                "lan0": ("192.168.7.1/24", "192.0.2.1/24", "2001:db8:7::1/64"),
                "bond0": ("172.21.1.2/30",),
            }.items()
        )
    }
)


def plan(tunnel: Tunnel, *uplinks: Uplink, network: Network = NETWORK, **more: Any) -> policy.Plan:
    return policy.plan(uplinks or (DSL, PLAIN), network, tunnel=tunnel, **more)


def test_rules_behind_those_of_the_uplinks() -> None:
    made = plan(TUNNEL)
    table = 4491  # behind the two uplinks'
    assert made.numbers[fulltunnel.NUMBER] == table
    assert made.routes[-1] == Route(version=4, table=table, interface="bond0", gateway="172.21.1.1")
    assert made.rules[-4:] == (
        Rule(version=4, priority=11893, table=TABLE_MAIN, mark=4489),
        Rule(version=4, priority=11893, table=TABLE_MAIN, mark=4490),
        Rule(version=4, priority=11894, table=TABLE_MAIN, suppress_prefixlength=0),
        Rule(version=4, priority=11895, table=table),
    )
    assert max(rule.priority for rule in plan(replace(TUNNEL, default_route=False)).rules) == 11892


def test_every_socket_is_marked_under_it() -> None:
    assert [one.mark for one in plan(TUNNEL).bindings] == [4489, 4490]
    assert [one.mark for one in plan(replace(TUNNEL, default_route=False)).bindings] == [4489, None]


def test_families_are_those_of_the_tunnel() -> None:
    assert {entry.version for entry in plan(TUNNEL).rules if entry.priority > 11892} == {4}
    assert {entry.version for entry in plan(BOTH).rules if entry.priority > 11892} == {4, 6}
    gateways = [route.gateway for route in plan(BOTH).routes if route.interface == "bond0"]
    assert gateways == ["172.21.1.1", "fd21::3"]


def test_its_table_stays_whoever_comes_and_goes() -> None:
    first = plan(TUNNEL, DSL)
    assert first.numbers[fulltunnel.NUMBER] == 4490
    assert plan(TUNNEL, numbers=first.numbers).numbers == {"dsl": 4489, "": 4490, "plain": 4491}


def test_its_own_default_route_makes_no_uplink() -> None:
    auto = replace(Uplink(name="auto", auto=True), exclude=("bond0",))
    found = Network(
        NETWORK.interfaces,
        (DefaultRoute(4, "eth1", ip_address("10.1.0.1")), DefaultRoute(4, "bond0", None)),
    )
    assert [one.interface for one in plan(TUNNEL, auto, network=found).bindings] == ["eth1"]


# -- the kill switch ----------------------------------------------------------------------------------
def switch(made: policy.Plan) -> Table:
    (table,) = (one for one in made.tables if one.name == fulltunnel.KILL_SWITCH)
    return table


def test_it_is_there_if_asked_for_and_before_anything_else() -> None:
    assert plan(TUNNEL).tables == ()
    made = plan(replace(TUNNEL, kill_switch=True, masquerade=True))
    assert [one.name for one in made.tables] == [fulltunnel.KILL_SWITCH, "bondvpn_bond0"]
    assert [chain.hook for chain in switch(made).chains] == ["output", "forward"]


def test_what_passes_it() -> None:
    local4 = (
        "ip daddr { 10.1.0.0/24, 10.2.0.0/24, 127.0.0.0/8, 169.254.0.0/16, 192.0.2.0/24, 192.168.7.0/24, "
        "224.0.0.0/24, 255.255.255.255/32 } accept"
    )
    local6 = "ip6 daddr { 2001:db8:7::/64, fe80::/10, ff02::/16 } accept"
    rules = [
        line.split(f"add rule inet {fulltunnel.KILL_SWITCH} ")[1].rstrip("'")
        for line in nftables.commands(switch(plan(replace(TUNNEL, kill_switch=True))))
        if "add rule" in line
    ]
    assert rules == [
        "output meta oifname { lo, bond0 } accept",
        "output meta mark 4489 accept",
        "output meta mark 4490 accept",
        f"output {local4}",
        f"output {local6}",
        "output udp sport 68 udp dport 67 accept",
        "output udp sport 546 udp dport 547 accept",
        "output icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
        "output reject with icmpx type admin-prohibited",
        "forward meta oifname { lo, bond0 } accept",
        f"forward {local4}",
        f"forward {local6}",
        "forward reject with icmpx type admin-prohibited",
    ]


def test_local_is_what_nobody_on_a_line_can_claim() -> None:
    networks = [str(one) for one in fulltunnel.local_networks("bond0", {"eth1", "eth2"}, NETWORK)]
    assert networks == [
        "10.1.0.0/24", "10.2.0.0/24", "127.0.0.0/8", "169.254.0.0/16", "192.0.2.0/24", "192.168.7.0/24",
        "224.0.0.0/24", "255.255.255.255/32", "2001:db8:7::/64", "fe80::/10", "ff02::/16",
    ]  # fmt: skip


@pytest.mark.parametrize("address", ["0.0.0.1/1", "128.0.0.1/1", "10.0.0.1/7", "::1/1", "fc00::1/6"])
def test_half_the_internet_is_not_local(address: str) -> None:
    line = Network({"eth1": Interface("eth1", 1, addresses=(ip_interface(address),))})
    claimed = ip_interface(address).network
    assert claimed not in fulltunnel.local_networks("bond0", {"eth1"}, line)
    assert claimed in fulltunnel.local_networks("bond0", set(), line)  # a LAN's own is the administrator's


# -- several processes --------------------------------------------------------------------------------
class Kernel:
    """Stands in for `Netlink`: has nothing to undo."""


def other(*entries: Any, name: str = "bond1", alive: bool = True) -> None:
    path = journal.journal_path(name)
    Journal.begin(path, cast(Netlink, Kernel())).record(entries)
    if not alive:
        owner = Owner.of(os.getpid())
        assert owner is not None
        path.write_text(path.read_text().replace(str(owner.start_ticks), str(owner.start_ticks + 1)))


FULL = Rule(version=4, priority=11895, table=4489)
MARK = Rule(version=4, priority=11890, table=4489, mark=4489)
SWITCH = NftTable(name=fulltunnel.KILL_SWITCH)
WITH_SWITCH = replace(TUNNEL, kill_switch=True)


@pytest.mark.parametrize(
    ("tunnel", "entry", "alive", "why"),
    [
        (TUNNEL, FULL, True, "bond1 has the default route already.*end that one first"),
        (TUNNEL, FULL, False, "bond1 has the default route already.*bondvpn down"),
        (replace(TUNNEL, default_route=False), SWITCH, True, "kill switch of bond1.*end that one first"),
        (TUNNEL, SWITCH, False, "kill switch of bond1.*bondvpn down"),
        (WITH_SWITCH, MARK, True, "would cut off bond1"),
        (replace(TUNNEL, default_route=False), FULL, True, None),
        (TUNNEL, MARK, True, None),
        (WITH_SWITCH, MARK, False, None),
    ],
)
def test_conflicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tunnel: Tunnel, entry: Any, alive: bool, why: str | None
) -> None:
    monkeypatch.setenv("BONDVPN_RUNTIME_DIR", str(tmp_path))
    other(entry, alive=alive)
    other(FULL, SWITCH, name="bond0")  # our own is none
    with_it = pytest.raises(SystemFault, match="kill switch of bond") if entry == SWITCH else nullcontext()
    with with_it:
        fulltunnel.refuse_conflicts("bond0")  # as a server would
    if why is None:
        fulltunnel.refuse_conflicts("bond0", tunnel)
    else:
        with pytest.raises(SystemFault, match=why):
            fulltunnel.refuse_conflicts("bond0", tunnel)
