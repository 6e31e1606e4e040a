"""What `plan` asks for, uplink by uplink; the kernel's side is in netns-tests/test_policy.py."""

from ipaddress import ip_address
from pathlib import Path
from typing import cast

import msgspec

from bondvpn.config import Uplink
from bondvpn.errors import SystemFault
from bondvpn.linux import policy
from bondvpn.linux.journal import Journal
from bondvpn.linux.netlink import TABLE_MAIN, Netlink, Route, Rule
from bondvpn.linux.policy import Binding, Place

ETH = Place("eth1")
PPP = Place("ppp0", point_to_point=True)


def test_a_gateway_gets_a_table_and_rules_by_mark_and_source() -> None:
    uplink = Uplink(name="a", interface="eth1", source=ip_address("10.0.0.2"), gateway=ip_address("10.0.0.1"))
    made = policy.plan([uplink], {"a": ETH})
    assert made.bindings == (Binding("a", "eth1", "10.0.0.2", 4489),)
    assert made.routes == (
        Route(version=4, table=4489, interface="eth1", gateway="10.0.0.1", source="10.0.0.2"),
    )
    assert made.rules == (
        Rule(version=4, priority=11890, table=4489, mark=4489),
        Rule(version=4, priority=11891, table=TABLE_MAIN, source="10.0.0.2", suppress_prefixlength=0),
        Rule(version=4, priority=11892, table=4489, source="10.0.0.2"),
    )
    assert made.loose_interfaces == ("eth1",)


def test_an_ethernet_without_gateway_is_left_to_the_main_table() -> None:
    made = policy.plan([Uplink(name="a", interface="eth1")], {"a": ETH})
    assert made.bindings == (Binding("a", "eth1", None, None),)
    assert (made.routes, made.rules) == ((), ())
    assert made.loose_interfaces == ("eth1",)


def test_point_to_point_gets_a_default_on_the_interface_in_both_families() -> None:
    made = policy.plan([Uplink(name="a", interface="ppp0")], {"a": PPP})
    assert made.bindings == (Binding("a", "ppp0", None, 4489),)
    assert made.routes == tuple(Route(version=v, table=4489, interface="ppp0") for v in (4, 6))
    assert made.rules == tuple(Rule(version=v, priority=11890, table=4489, mark=4489) for v in (4, 6))


def test_a_configured_table_without_gateway_is_the_administrators() -> None:
    made = policy.plan([Uplink(name="a", interface="eth1", table=189, mark=7)], {"a": ETH})
    assert made.routes == ()
    assert made.rules == tuple(Rule(version=v, priority=11890, table=189, mark=7) for v in (4, 6))
    assert made.bindings[0].mark == 7


def test_ipv6_gateways_get_ipv6_rules_only() -> None:
    uplink = Uplink(name="a", interface="eth1", gateway=ip_address("fe80::1"))
    made = policy.plan([uplink], {"a": ETH})
    assert {entry.version for entry in (*made.routes, *made.rules)} == {6}


def test_numbers_are_allocated_around_what_is_taken() -> None:
    gateway = ip_address("10.0.0.1")
    uplinks = [
        Uplink(name="a", interface="eth1", gateway=gateway),
        Uplink(name="b", interface="eth1", gateway=gateway, table=4490),
        Uplink(name="c", interface="eth1", gateway=gateway, mark=4491),
    ]
    made = policy.plan(uplinks, dict.fromkeys("abc", ETH), tables_taken={4489, 4492})
    tables = [route.table for route in made.routes]
    marks = [binding.mark for binding in made.bindings]
    assert len({*tables}) == len({*marks}) == 3
    assert not {4489, 4492} & {*tables, *marks}
    assert (tables[1], marks[2]) == (4490, 4491)


class Kernel:
    """Stands in for `Netlink`: checks that what it is given is in the journal; takes no route by eth2."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self.given: list[Route | Rule] = []

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
        self.given.append(entry)


def test_the_journal_is_on_disk_before_the_kernel_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "bond0.journal.json"
    kernel = Kernel(path)
    gateway = ip_address("10.0.0.1")
    uplinks = [Uplink(name=name, interface=name, gateway=gateway) for name in ("eth1", "eth2")]
    uplinks.append(Uplink(name="eth3", interface="eth3", gateway=gateway, table=189))
    made = policy.plan(uplinks, {name: Place(name) for name in ("eth1", "eth2", "eth3")})
    netlink = cast(Netlink, kernel)
    waiting = policy.install(made, netlink, Journal.begin(path, netlink))
    assert waiting == ["there is no interface eth2"]
    assert kernel.given == [*made.rules, made.routes[0]]  # and nothing over the route that was there
