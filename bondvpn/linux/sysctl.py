"""Kernel settings below /proc/sys/net: what a plan needs changed, and changing it.

rp_filter      loose on the lines where it is strict (RFC 3704): the main table may prefer another way back
forwarding     on where asked; this sets other settings too, both when it is switched on and off again
               (linux ip-sysctl.rst, inet_forward_change, addrconf_fixup_forwarding): those that would come
               back changed are noted with it
accept_ra      with forwarding on, 1 means no: who listens to router advertisements goes on to
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bondvpn.errors import SystemFault
from bondvpn.linux.journal import Sysctl

NET = Path("/proc/sys/net")
FORWARDING = {4: NET / "ipv4/ip_forward", 6: NET / "ipv6/conf/all/forwarding"}
# linux ip-sysctl.rst; the larger of `all` and the interface's counts
RP_FILTER_STRICT = 1
RP_FILTER_LOOSE = 2
ACCEPT_RA, ACCEPT_RA_AS_ROUTER = "1", "2"
OFF, ON = "0", "1"

Earlier = Mapping[str, Sysctl]
"""What the journal holds, by its path."""


def has_ipv6(interface: str | None = None) -> bool:
    """Whether the kernel has IPv6, not switched off on the interface if one is named."""
    conf = NET / "ipv6/conf"
    if interface is None or not (conf / interface).exists():
        return conf.exists()
    return (conf / interface / "disable_ipv6").read_text().strip() == "0"


def loose(interfaces: Iterable[str], earlier: Earlier) -> Iterator[Sysctl]:
    """What makes rp_filter loose there, where it is strict or was before we came."""
    for name in interfaces:
        path = _rp_filter(name)
        change = earlier.get(str(path)) or _loosening(path)
        if change is not None:
            yield change


def forwarding(versions: Sequence[int], earlier: Earlier) -> Iterator[Sysctl]:
    """What switches forwarding on in these families, where it is off or was before we came; in this order."""
    for version in versions:
        path = FORWARDING[version]
        if not path.exists():
            continue
        if version == 6:
            yield from _listeners(earlier, known=str(path) in earlier)
        yield from _followers(version, earlier, known=str(path) in earlier)
        yield from _change(path, OFF, ON, earlier)


def is_off(version: int) -> bool:
    """Whether nothing is forwarded in that family."""
    return _read(FORWARDING[version]) == OFF


def apply(setting: Sysctl) -> None:
    """Set it where it is not: at first, on an interface that has come back, or when somebody reset it.
    Raises SystemFault."""
    path = Path(setting.path)
    if setting.follows:
        return
    is_so = _read(path) in {None, setting.new}
    if path.name == "rp_filter":
        is_so = _loosening(path) is None  # another interface's of this name may have another value
    try:
        if not is_so:
            path.write_text(setting.new)
    except FileNotFoundError:
        return  # its interface has just gone
    except OSError as fault:
        raise SystemFault(
            f"cannot set {setting.path} to {setting.new}: {fault.strerror}: run as root"
        ) from None


def _rp_filter(interface: str) -> Path:
    return NET / "ipv4/conf" / interface / "rp_filter"


def _loosening(own: Path) -> Sysctl | None:
    """The change that makes an interface's rp_filter loose; None where it is not strict."""
    old, of_all = _read(own), _read(_rp_filter("all"))
    if old is None or of_all is None or max(int(of_all), int(old)) != RP_FILTER_STRICT:
        return None  # or it has gone
    return Sysctl(path=str(own), old=old, new=str(RP_FILTER_LOOSE))


def _change(path: Path, old: str, new: str, earlier: Earlier) -> Iterator[Sysctl]:
    """From just that value."""
    if (known := earlier.get(str(path))) is not None:
        yield known
    elif _read(path) == old:
        yield Sysctl(path=str(path), old=old, new=new)


def _listeners(earlier: Earlier, *, known: bool) -> Iterator[Sysctl]:
    """What has those go on that take advertisements now, and interfaces to come; as noted if `known`."""
    for conf in sorted((NET / "ipv6/conf").iterdir()):
        path = conf / "accept_ra"
        if known:
            yield from filter(None, [earlier.get(str(path))])
        elif conf.name != "all" and _read(conf / "forwarding") == OFF:
            yield from _change(path, ACCEPT_RA, ACCEPT_RA_AS_ROUTER, earlier)


def _followers(version: int, earlier: Earlier, *, known: bool) -> Iterator[Sysctl]:
    """What would not be as it is now once forwarding was switched on and off again; as noted if `known`."""
    conf = NET / f"ipv{version}/conf"
    becomes = {path / "forwarding": OFF for path in sorted(conf.iterdir()) if path.name != "all"}
    if version == 4:
        becomes[conf / "all/accept_redirects"] = ON
    if not known and not is_off(version):
        return
    for path, then in becomes.items():
        now = _read(path)
        if known:
            yield from filter(None, [earlier.get(str(path))])
        elif now is not None and now != then:
            yield Sysctl(path=str(path), old=now, new=then, follows=True)


def _read(path: Path) -> str | None:
    """None where it is not there."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None
