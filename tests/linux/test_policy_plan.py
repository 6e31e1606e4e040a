"""What `plan` asks for, uplink by uplink; the kernel's side is in netns-tests/test_policy.py."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from bondvpn.config import MAX_UPLINKS, Uplink
from bondvpn.errors import SystemFault
from bondvpn.linux import policy
from bondvpn.linux.journal import Journal
from bondvpn.linux.netlink import TABLE_MAIN, Netlink, Route, Rule
from bondvpn.linux.network import DefaultRoute, Interface, Network
from bondvpn.linux.policy import Binding, Leg, Plan


def interface(name: str, *addresses: str, **changes: Any) -> Interface:
    own = tuple(ip_interface(address) for address in addresses)
    return Interface(name, changes.pop("index", 7), addresses=own, **changes)


def network(*interfaces: Interface, defaults: Sequence[DefaultRoute] = (), **changes: Any) -> Network:
    return Network({one.name: one for one in interfaces}, tuple(defaults), **changes)


def default(name: str, gateway: str | None, metric: int = 0) -> DefaultRoute:
    version = 4 if gateway is None else ip_address(gateway).version
    return DefaultRoute(version, name, None if gateway is None else ip_address(gateway), metric)


ETH1 = interface("eth1", "10.0.0.2/24")
DUAL = interface("eth1", "10.0.0.2/24", "2001:db8::2/64")
PPP0 = interface("ppp0", "192.0.2.7/32", point_to_point=True)
GATEWAY = ip_address("10.0.0.1")


def only(made: Plan) -> Binding:
    (binding,) = made.bindings
    return binding


def test_a_gateway_gets_a_table_and_rules_by_mark_and_source() -> None:
    uplink = Uplink(name="a", interface="eth1", source=ip_address("10.0.0.2"), gateway=GATEWAY)
    made = policy.plan([uplink], network(ETH1))
    leg = Leg(ip_address("10.0.0.2"), GATEWAY, route=True)
    assert made.bindings == (Binding(uplink, "eth1", 7, 1500, mark=4489, table=4489, legs=(leg,)),)
    assert made.routes == (
        Route(version=4, table=4489, interface="eth1", gateway="10.0.0.1", source="10.0.0.2"),
    )
    assert made.rules == (
        Rule(version=4, priority=11890, table=4489, mark=4489),
        Rule(version=4, priority=11891, table=TABLE_MAIN, source="10.0.0.2", suppress_prefixlength=0),
        Rule(version=4, priority=11892, table=4489, source="10.0.0.2"),
    )
    assert made.loose_interfaces == ("eth1",)


def test_an_ethernet_without_any_gateway_is_left_to_the_main_table() -> None:
    made = policy.plan([Uplink(name="a", interface="eth1", mark=7)], network(ETH1))
    assert (made.routes, made.rules) == ((), ())
    assert made.loose_interfaces == ("eth1",)
    binding = only(made)
    assert (binding.mark, binding.table, binding.waiting) == (7, None, "")
    assert binding.legs == (Leg(ip_address("10.0.0.2")),)


def test_the_gateway_of_dhcp_is_taken_from_the_main_table() -> None:
    """The best of those by this interface, in each family; another interface's says nothing."""
    found = network(
        DUAL,
        interface("eth2", "10.2.0.2/24"),
        defaults=[
            default("eth2", "10.2.0.1"),
            default("eth1", "10.0.0.9", metric=100),
            default("eth1", "10.0.0.8", metric=200),
            default("eth1", "fe80::1", metric=1024),
        ],
    )
    made = policy.plan([Uplink(name="a", interface="eth1")], found)
    assert made.routes == (
        Route(version=4, table=4489, interface="eth1", gateway="10.0.0.9"),
        Route(version=6, table=4489, interface="eth1", gateway="fe80::1"),
    )
    assert [leg.version for leg in only(made).legs] == [4, 6]
    assert {rule.source for rule in made.rules} == {None, "10.0.0.2", "2001:db8::2"}


def test_a_family_without_a_way_out_is_not_used_beside_one_that_has() -> None:
    found = network(DUAL, defaults=[default("eth1", "10.0.0.1")])
    made = policy.plan([Uplink(name="a", interface="eth1")], found)
    assert [leg.version for leg in only(made).legs] == [4]
    assert {entry.version for entry in (*made.routes, *made.rules)} == {4}


def test_point_to_point_gets_a_default_on_the_interface_in_the_families_it_has() -> None:
    made = policy.plan([Uplink(name="a", interface="ppp0")], network(PPP0))
    assert made.routes == (Route(version=4, table=4489, interface="ppp0"),)
    assert [rule.source for rule in made.rules] == [None, "192.0.2.7", "192.0.2.7"]
    both = interface("ppp0", "192.0.2.7/32", "2001:db8::7/64", point_to_point=True)
    made = policy.plan([Uplink(name="a", interface="ppp0")], network(both))
    assert made.routes == tuple(Route(version=v, table=4489, interface="ppp0") for v in (4, 6))


def test_a_table_of_its_own_is_filled_unless_an_administrator_did() -> None:
    uplink = Uplink(name="a", interface="eth1", table=189, mark=7)
    unknown = policy.plan([uplink], network(ETH1))
    dhcp = policy.plan([uplink], network(ETH1, defaults=[default("eth1", "10.0.0.1")]))
    theirs = policy.plan(
        [uplink], network(ETH1, defaults=[default("eth1", "10.0.0.1")], filled=frozenset({(4, 189)}))
    )
    assert dhcp.routes == (Route(version=4, table=189, interface="eth1", gateway="10.0.0.1"),)
    assert unknown.routes == theirs.routes == ()
    for made in (unknown, dhcp, theirs):
        assert made.rules[0] == Rule(version=4, priority=11890, table=189, mark=7)
        assert made.rules[2] == Rule(version=4, priority=11892, table=189, source="10.0.0.2")
        assert only(made).mark == 7


def test_a_gateway_decides_the_family() -> None:
    uplink = Uplink(name="a", interface="eth1", gateway=ip_address("fe80::1"))
    made = policy.plan([uplink], network(DUAL))
    assert {entry.version for entry in (*made.routes, *made.rules)} == {6}
    assert only(policy.plan([uplink], network(ETH1))).waiting == "eth1 has no IPv6 address"


def test_the_address_in_the_gateways_network_is_the_source() -> None:
    two = interface("eth1", "10.9.0.2/24", "10.0.0.2/24")
    made = policy.plan([Uplink(name="a", interface="eth1", gateway=GATEWAY)], network(two))
    assert only(made).legs[0].source == ip_address("10.0.0.2")
    assert [rule.source for rule in made.rules if rule.priority == 11892] == ["10.9.0.2", "10.0.0.2"]


def test_two_routers_on_one_ethernet_are_told_apart_by_the_mark_alone() -> None:
    uplinks = [
        Uplink(name="a", interface="eth1", gateway=GATEWAY),
        Uplink(name="b", interface="eth1", gateway=ip_address("10.0.0.254")),
    ]
    made = policy.plan(uplinks, network(ETH1))
    assert [(rule.mark, rule.source, rule.table) for rule in made.rules if rule.table != TABLE_MAIN] == [
        (4489, None, 4489),
        (None, "10.0.0.2", 4489),
        (4490, None, 4490),
    ]
    assert made.loose_interfaces == ("eth1",)


@pytest.mark.parametrize(
    ("uplink", "found", "why"),
    [
        (Uplink(name="a", interface="ppp0"), network(ETH1), "there is no interface ppp0"),
        (Uplink(name="a", source=ip_address("10.0.0.9")), network(ETH1), "no interface has the address"),
        (
            Uplink(name="a", interface="eth1", source=ip_address("10.0.0.9")),
            network(ETH1),
            "eth1 does not have the address 10.0.0.9",
        ),
        (
            Uplink(name="a", interface="eth1"),
            network(interface("eth1", "10.0.0.2/24", up=False, running=False)),
            "eth1 is down",
        ),
        (
            Uplink(name="a", interface="eth1"),
            network(interface("eth1", "10.0.0.2/24", running=False)),
            "eth1 has no carrier",
        ),
        (Uplink(name="a", interface="eth1", table=9), network(interface("eth1")), "eth1 has no address"),
    ],
)
def test_what_is_not_there_waits_and_asks_for_nothing(uplink: Uplink, found: Network, why: str) -> None:
    made = policy.plan([uplink], found)
    assert only(made).waiting.startswith(why)
    assert (made.routes, made.rules, made.loose_interfaces) == ((), (), ())


def test_numbers_are_allocated_around_what_is_taken() -> None:
    uplinks = [
        Uplink(name="a", interface="eth1", gateway=GATEWAY),
        Uplink(name="b", interface="eth1", gateway=GATEWAY, table=4490),
        Uplink(name="c", interface="eth1", gateway=GATEWAY, mark=4491),
    ]
    made = policy.plan(uplinks, network(ETH1), tables_taken={4489, 4492})
    tables = [route.table for route in made.routes]
    marks = [binding.mark for binding in made.bindings]
    assert len({*tables}) == len({*marks}) == 3
    assert not {4489, 4492} & {*tables, *marks}
    assert (tables[1], marks[2]) == (4490, 4491)


# -- automatic uplinks --------------------------------------------------------------------------
AUTO = Uplink(name="auto", auto=True, tier=2, up_bps=5_000_000)
MANY = network(
    *(interface(name, f"10.{i}.0.2/24", index=i) for i, name in enumerate(("eth0", "eth1", "wlan0", "wg0"))),
    PPP0,
    interface("lan0", "192.168.1.1/24"),
    defaults=[default(name, f"10.{i}.0.1") for i, name in enumerate(("eth0", "eth1", "wlan0", "wg0"))]
    + [default("ppp0", None)],
)


def taken(*uplinks: Uplink, found: Network = MANY) -> dict[str, str | None]:
    return {binding.uplink.name: binding.interface for binding in policy.plan(uplinks, found).bindings}


def test_auto_takes_every_interface_with_a_default_route() -> None:
    made = policy.plan([AUTO], MANY)
    names = [binding.uplink.name for binding in made.bindings]
    assert names == ["eth0", "eth1", "ppp0", "wg0", "wlan0"]
    assert all((binding.uplink.tier, binding.uplink.up_bps) == (2, 5_000_000) for binding in made.bindings)
    assert len(made.routes) == 5
    assert len({route.table for route in made.routes}) == 5


def test_patterns_include_and_exclude() -> None:
    assert set(taken(Uplink(name="auto", auto=True, include=("eth*", "p?p0")))) == {"eth0", "eth1", "ppp0"}
    assert set(taken(Uplink(name="auto", auto=True, exclude=("w*", "eth[1-9]")))) == {"eth0", "ppp0"}
    assert set(taken(Uplink(name="auto", auto=True, include=("eth*",), exclude=("eth0",)))) == {"eth1"}
    assert taken(Uplink(name="auto", auto=True, include=("none*",))) == {}


def test_the_first_that_wants_an_interface_has_it() -> None:
    wires = Uplink(name="wires", auto=True, include=("eth*",))
    rest = Uplink(name="rest", auto=True, tier=3)
    tiers = {b.uplink.name: b.uplink.tier for b in policy.plan([wires, rest], MANY).bindings}
    assert tiers == {"eth0": 0, "eth1": 0, "ppp0": 3, "wg0": 3, "wlan0": 3}


def test_auto_leaves_configured_interfaces_alone() -> None:
    """Whether they are configured by name or by an address, and whatever they are called."""
    named = Uplink(name="wlan0", interface="eth0", gateway=GATEWAY)
    by_address = Uplink(name="b", source=ip_address("10.1.0.2"))
    assert taken(AUTO, named, by_address) == {
        "wlan0": "eth0",
        "b": "eth1",
        "ppp0": "ppp0",
        "wg0": "wg0",
        "wlan0 (auto)": "wlan0",
    }


def test_who_comes_and_goes_changes_nobody_elses_numbers() -> None:
    first = policy.plan([AUTO], MANY)
    fewer = network(*MANY.interfaces.values(), defaults=MANY.defaults[1:])
    second = policy.plan([AUTO], fewer, (), first.numbers)
    third = policy.plan([AUTO], MANY, (), second.numbers)
    assert second.routes == first.routes[1:]
    assert set(third.routes) == set(first.routes)


def test_there_are_never_more_than_the_session_has_room_for() -> None:
    names = [f"ppp{i}" for i in range(MAX_UPLINKS + 5)]
    many = network(
        *(interface(name, "192.0.2.7/32", point_to_point=True) for name in names),
        defaults=[default(name, None) for name in names],
    )
    assert len(taken(AUTO, found=many)) == MAX_UPLINKS


# -- the kernel ---------------------------------------------------------------------------------
class Kernel:
    """Stands in for `Netlink`: checks that what it is given is in the journal; takes no route by eth2."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.has: list[Route | Rule] = []

    def own_routes(self) -> set[Route]:
        return {entry for entry in self.has if isinstance(entry, Route)}

    def own_rules(self) -> set[Rule]:
        return {entry for entry in self.has if isinstance(entry, Rule)}

    def others_route(self, route: Route) -> bool:
        return route.table == 189

    def put_route(self, route: Route) -> None:
        if route.interface == "eth2":
            raise SystemFault("there is no interface eth2")
        self._put(route)

    def put_rule(self, rule: Rule) -> None:
        self._put(rule)

    def _put(self, entry: Route | Rule) -> None:
        assert msgspec.to_builtins(entry) in msgspec.json.decode(self._journal.read_bytes())["entries"]
        assert entry not in self.has
        self.has.append(entry)

    def _drop(self, entry: Route | Rule) -> None:
        self.has.remove(entry)

    drop_route = drop_rule = _drop


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "bond0.journal.json")


@pytest.fixture
def kept(tmp_path: Path, kernel: Kernel) -> Journal:
    return Journal.begin(tmp_path / "bond0.journal.json", cast(Netlink, kernel))


def ethernets(*names: str) -> Network:
    return network(*(interface(name, f"10.{i}.0.2/24") for i, name in enumerate(names)))


def test_the_journal_is_on_disk_before_the_kernel_is_asked(kernel: Kernel, kept: Journal) -> None:
    uplinks = [Uplink(name=name, interface=name, gateway=GATEWAY) for name in ("eth1", "eth2")]
    uplinks.append(Uplink(name="eth3", interface="eth3", gateway=GATEWAY, table=189))
    made = policy.plan(uplinks, ethernets("eth1", "eth2", "eth3"))
    waiting = policy.install(made, cast(Netlink, kernel), kept)
    assert waiting == ["there is no interface eth2"]
    assert kernel.has == [*made.rules, made.routes[0]]  # and nothing over the route that was there


def test_what_an_earlier_plan_had_goes_and_what_is_there_is_not_touched(
    kernel: Kernel, kept: Journal
) -> None:
    uplinks = [Uplink(name=name, interface=name, gateway=GATEWAY) for name in ("eth1", "eth4")]
    netlink = cast(Netlink, kernel)
    both = policy.plan(uplinks, ethernets("eth1", "eth4"))
    policy.install(both, netlink, kept)
    gone = next(rule for rule in both.rules if rule.mark == 4489)
    kernel.has.remove(gone)  # somebody else did it
    alone = policy.plan(uplinks, ethernets("eth1"), (), both.numbers)
    assert policy.install(alone, netlink, kept) == []
    assert set(kernel.has) == {*alone.routes, *alone.rules}
    assert gone in kernel.has
    assert set(kept.entries) == set(kernel.has)
    assert policy.install(both, netlink, kept) == []
    assert set(kernel.has) == {*both.routes, *both.rules}


def test_the_tunnels_own_entries_are_no_plans(kernel: Kernel, kept: Journal) -> None:
    route = Route(version=4, table=TABLE_MAIN, destination="192.168.1.0/24", interface="bond0")
    kept.record([route])
    policy.install(Plan(), cast(Netlink, kernel), kept)
    assert kept.entries == (route,)
