"""One picture of the old setup: which tunnel leaves by which line, at what speed, to which server."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bondvpn.migration import facts, interfaces, openvpn, walk
from bondvpn.migration.facts import Address, Facts, Speed, TableRoute, Unused
from bondvpn.migration.interfaces import Stanza
from bondvpn.migration.openvpn import Profile
from bondvpn.migration.sources import Place, Said, Source, Sources
from bondvpn.migration.waysout import KERNEL_TABLES, Line, WaysOut
from bondvpn.values import IPAddress, IPInterface, IPNetwork

_DOWN = re.compile(r"down|stop|shutdown")
_PPP = re.compile(r"\bppp[0-9]{1,3}\b")
_SHEBANG = re.compile(r"#!\s*\S*(sh|bash|dash)\b")


@dataclass(slots=True)
class Setup:
    """Everything that was found."""

    lines: list[Line] = field(default_factory=list)
    lost: list[Profile] = field(default_factory=list)
    """Tunnels whose line is not known."""
    profiles: list[Profile] = field(default_factory=list)
    address: Said[IPInterface] | None = None
    peer: Said[IPAddress] | None = None
    routes: list[Said[IPNetwork]] = field(default_factory=list)
    lans: list[Said[IPNetwork]] = field(default_factory=list)
    default_route: Place | None = None
    """Where it says that everything goes through the tunnel."""
    interfaces: set[str] = field(default_factory=set)
    """Names that are in use."""
    not_taken: list[Said[str]] = field(default_factory=list)


def read(sources: Sources) -> Setup:
    """The setup that the files describe; with no profiles there is none."""
    return _Reader(sources).read()


class _Reader:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._setup = Setup()
        self._facts = Facts()
        self._unused: dict[tuple[str, Place], Said[str]] = {}
        self._speeds: dict[str, Speed] = {}  # by profile, from its own up script
        self._tables: dict[str, Said[int]] = {}
        self._stanzas: list[Stanza] = []
        self._followed: set[str] = set()

    def read(self) -> Setup:
        setup = self._setup
        for source in self._sources:
            if openvpn.looks_like_profile(source):
                setup.profiles.append(openvpn.read(source, self._sources))
                self._followed.add(source.file)
            elif interfaces.is_interfaces(source):
                self._stanzas += interfaces.read(source)
                self._followed.add(source.file)
            elif source.name == "rt_tables" or "rt_tables.d" in source.directories:
                self._tables |= _tables(source)
                self._followed.add(source.file)
        self._follow_scripts()
        ways_out = WaysOut(self._facts, self._tables, self._stanzas)
        for profile in setup.profiles:
            setup.not_taken += profile.not_taken
            self._place(profile, ways_out.of(profile))
        self._tunnel()
        setup.not_taken += self._unused.values()
        setup.interfaces |= {stanza.interface for stanza in self._stanzas}
        return setup

    # -- scripts --------------------------------------------------------------------------------
    def _follow_scripts(self) -> None:
        for profile in self._setup.profiles:
            self._follow_up(profile)
        for stanza in self._stanzas:
            for command in stanza.commands:
                one = Source(command.place.file, command.value)
                self._follow(one, {"IFACE": stanza.interface}, (), stanza.interface, command.place.line)
        points = list(_ppp_interfaces(self._sources))
        names = [stanza.interface for stanza in self._stanzas]
        for source in self._sources:
            if source.file in self._followed or _DOWN.search(source.file) or not _is_script(source):
                continue
            if "ip-up.d" in source.directories or source.name in {"ip-up", "ip-up.local"}:
                for interface, parameter in points or [("$PPP_IFACE", "$PPP_IPPARAM")]:
                    environment = {"PPP_IFACE": interface, "PPP_IPPARAM": parameter}
                    arguments = (interface, "$2", "$3", "$4", "$5", parameter)
                    self._follow(source, environment, arguments, interface)
            elif {"if-up.d", "if-pre-up.d"} & set(source.directories):
                for interface in names:
                    self._follow(source, {"IFACE": interface}, (), interface)
            else:
                self._follow(source, {}, (), None)

    def _follow_up(self, profile: Profile) -> None:
        """openvpn(8): the command's own arguments, then device, MTUs, addresses, "init"."""
        if profile.up is None or not profile.up.value:
            return
        script = self._sources.find(profile.up.value[0], profile.source.file)
        if script is None:
            why = f"up {profile.up.value[0]}: the script is not there, and with it the line's speed"
            self._setup.not_taken.append(Said(why, profile.up.place))
            return
        self._followed.add(script.file)
        device = profile.device.value if profile.device else "$dev"
        first = profile.remotes[0] if profile.remotes else None
        environment = {"dev": device, "config": profile.source.name}
        if first is not None:
            environment |= {"remote_1": first.host, "remote_port_1": str(first.port)}
        arguments = (*profile.up.value[1:], device, "1500", "1500", "$4", "$5", "init")
        for speed in self._follow(script, environment, arguments, None):
            if isinstance(speed, Speed) and speed.device == device:
                self._speeds.setdefault(profile.source.file, speed)

    def _follow(
        self,
        source: Source,
        environment: dict[str, str],
        arguments: Sequence[str],
        interface: str | None,
        line: int = 1,
    ) -> list[facts.Fact]:
        """What a script says. One that says nothing to us is somebody else's: no word about it."""
        commands, trouble = walk.commands(source, self._sources, environment, arguments, line)
        said = [one for command in commands for one in facts.of(command, interface)]
        found = [one for one in said if not isinstance(one, Unused)]
        for fact in found:
            self._facts.add(fact)
        if found:
            for unused in said:
                if isinstance(unused, Unused):
                    self._unused.setdefault((unused.why, unused.place), Said(unused.why, unused.place))
            for wrong in trouble:
                self._unused.setdefault((wrong.value, wrong.place), wrong)
        return found

    # -- lines ----------------------------------------------------------------------------------
    def _place(self, profile: Profile, line: Line) -> None:
        """The tunnel leaves by that line."""
        line.speed = self._speed(profile)
        if not line.known:
            self._setup.lost.append(profile)
            return
        for known in self._setup.lines:
            if known.key == line.key:
                known.profiles.append(profile)
                known.speed = known.speed or line.speed
                known.mark = known.mark or line.mark
                known.table = known.table or line.table
                return
        line.profiles.append(profile)
        self._setup.lines.append(line)

    def _speed(self, profile: Profile) -> Said[int] | None:
        speed = self._speeds.get(profile.source.file)
        if speed is None and profile.device is not None:
            device = profile.device.value
            speed = next((one for one in self._facts.of_kind(Speed) if one.device == device), None)
        if speed is not None and speed.speed is not None:
            return Said(speed.speed, speed.place)
        return profile.shaper_bps

    # -- the tunnel -----------------------------------------------------------------------------
    def _tunnel(self) -> None:
        setup = self._setup
        names = {speed.eql for speed in self._facts.of_kind(Speed)} | {"eql"}
        stanza = next((one for one in self._stanzas if one.interface in names), None)
        if stanza is not None:
            setup.address, setup.peer = stanza.address, stanza.peer or stanza.gateway
            if stanza.mtu is not None:
                why = f"mtu {stanza.mtu.value}: the tunnel's MTU is 1500 whatever the lines' MTU is"
                setup.not_taken.append(Said(why, stanza.mtu.place))
            if stanza.gateway is not None:
                setup.default_route = stanza.gateway.place
        if setup.address is None:
            given = next((one for one in self._facts.of_kind(Address) if one.interface in names), None)
            setup.address = None if given is None else Said(given.address, given.place)
        for route in self._facts.of_kind(TableRoute):
            if route.table in {facts.MAIN, "254"} and self._enters(route, names):
                self._take_inner_route(route)
        for profile in setup.profiles:
            setup.routes += profile.routes
            setup.default_route = setup.default_route or profile.default_route
        setup.lans += self._lans(names)

    def _take_inner_route(self, route: TableRoute) -> None:
        if self._setup.peer is None and route.gateway is not None:
            self._setup.peer = Said(route.gateway, route.place)
        if route.destination is None:
            self._setup.default_route = route.place
        else:
            self._setup.routes.append(Said(route.destination, route.place))

    def _lans(self, tunnels: set[str]) -> Iterator[Said[IPNetwork]]:
        """Private networks on interfaces that are no lines."""
        others = {line.interface.value for line in self._setup.lines if line.interface} | tunnels | {"lo"}
        for stanza in self._stanzas:
            own = stanza.address
            if own is None or stanza.gateway is not None or stanza.interface in others:
                continue
            if own.value.is_private:
                yield Said(own.value.network, own.place)

    def _enters(self, route: TableRoute, names: set[str]) -> bool:
        own = self._setup.address
        inside = own is not None and route.gateway is not None and route.gateway in own.value.network
        return route.interface in names or inside


def _tables(source: Source) -> dict[str, Said[int]]:
    """iproute2's rt_tables: a number and a name a line."""
    found: dict[str, Said[int]] = {}
    for number, line in enumerate(source.text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            table = int(words[0], 0)
        except ValueError:
            continue
        if words[1] not in {*KERNEL_TABLES, "unspec"}:
            found.setdefault(words[1], Said(table, Place(source.file, number)))
    return found


def _ppp_interfaces(sources: Sources) -> Iterator[tuple[str, str]]:
    """PPP interfaces and their `ipparam`: of /etc/ppp/peers, and those that any file names."""
    seen: set[str] = set()
    for source in sources:
        if "peers" not in source.directories:
            continue
        lines = map(openvpn.words_of, source.text.split("\n"))
        options = {words[0]: words[1] if len(words) > 1 else "" for words in lines if words}
        unit = options.get("unit", "")
        interface = options.get("ifname") or (f"ppp{unit}" if unit.isdigit() and len(unit) < 4 else "")
        if interface and interface not in seen:
            seen.add(interface)
            yield interface, options.get("ipparam", "")
    for source in sources:
        for line in source.text.split("\n"):
            for interface in _PPP.findall(line.partition("#")[0]):
                if interface not in seen:
                    seen.add(interface)
                    yield interface, "$PPP_IPPARAM"


def _is_script(source: Source) -> bool:
    return (
        bool(_SHEBANG.match(source.text))
        or source.name.endswith(".sh")
        or source.name in {"rc.local", "ip-up", "ip-up.local"}
        or bool({"ip-up.d", "if-up.d", "if-pre-up.d"} & set(source.directories))
    )
