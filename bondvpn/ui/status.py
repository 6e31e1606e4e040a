"""What `bondvpn status` shows: the running processes' own account, as JSON or as tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bondvpn.ui import control

Status = Mapping[str, Any]

_WIDTH_OF_A_FILE = 150  # columns where there is no terminal to ask
_STATE_STYLES = {
    "active": "green",
    "up": "green",
    "joining": "yellow",
    "connecting": "yellow",
    "stalled": "yellow",
}
_RATE_STEPS = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s"))
_BYTE_STEPS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_MISSING = "-"


def collect(interface: str | None = None) -> list[dict[str, Any]]:
    """Every running process's status, or the one of `interface` ("server": the server's).

    Raises SystemFault when none runs.
    """
    return list(control.ask_all("status", interface).values())


def as_json(found: Sequence[Status]) -> str:
    """One process: its object. Several: a list of them."""
    shown: Any = found[0] if len(found) == 1 else found
    return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()


def show(found: Sequence[Status]) -> None:
    """Draw the tables on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_OF_A_FILE)
    console.print(render(found))


def render(found: Iterable[Status]) -> RenderableType:
    """The tables; keys that a process does not send are shown as "-"."""
    parts: list[RenderableType] = []
    for status in found:
        parts.append(_headline(status))
        parts += _machine(status)
        sends = "down" if status.get("role") == "server" else "up"
        parts += [part for tunnel in status.get("tunnels") or () for part in _tunnel(tunnel, sends)]
        parts += _drops(status)
    return Group(*parts)


def _headline(status: Status) -> Text:
    text = Text.assemble(
        ("bondvpn ", "bold"),
        (str(status.get("role", "?")), "bold"),
        f" {status.get('interface', '')}",
        f"  version {status.get('version', _MISSING)}",
        f"  up {span(status.get('uptime_s'))}",
    )
    workers = status.get("workers") or ()
    if workers:
        text.append(f"  {len(workers)} workers")
    for worker in workers:
        if not worker.get("answers"):
            text.append(f"  worker {worker.get('number')} does not answer", "red")
    if not status.get("tunnels"):
        text.append("  no tunnels", "yellow")
    return text


def _machine(status: Status) -> list[RenderableType]:
    """What of the machine is as the tunnels ask for; nothing where they ask for nothing."""
    machine = status.get("machine") or {}
    facts = []
    if machine.get("default_route_table"):
        facts.append(f"default route through the tunnel (table {machine['default_route_table']})")
    if machine.get("kill_switch"):
        facts.append("kill switch on")
    if machine.get("forward"):
        facts.append("forwards " + " and ".join(f"IPv{version}" for version in machine["forward"]))
    if machine.get("nftables"):
        facts.append("nftables " + ", ".join(machine["nftables"]))
    if machine.get("dns"):
        facts.append("DNS " + ", ".join(machine["dns"]))
    return [Text("  ·  ".join(facts))] if facts else []


def _tunnel(tunnel: Status, sends: str) -> list[RenderableType]:
    """`sends`: "up" or "down", the direction of which this end has learned."""
    facts = [
        f"{tunnel.get('name', _MISSING)} on {tunnel.get('interface', _MISSING)}",
        f"{tunnel.get('state', _MISSING)} for {span(tunnel.get('since_s'))}",
        str(tunnel.get("cipher") or "no cipher yet"),
        str(tunnel.get("scheduler", _MISSING)),
        f"last handshake {span(tunnel.get('handshake_age_s'))} ago",
    ]
    if "worker" in tunnel:
        facts.append(f"worker {tunnel['worker']}")
    table = Table(title=Text("  ·  ".join(facts), _style(tunnel.get("state"))), title_justify="left")
    for heading in ("link", "state"):
        table.add_column(heading)
    for heading in ("RTT", "queue", "MTU", "up", "down", "sending", "receiving", "sent", "received", "lost"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    for link in tunnel.get("links") or ():
        table.add_row(
            Text(str(link.get("name", _MISSING))),
            Text(str(link.get("state", _MISSING)), _style(link.get("state"))),
            _number(link.get("rtt_ms"), "{:.1f} ms"),
            _number(link.get("queue_ms"), "{:.0f} ms"),
            _number(link.get("path_mtu"), "{:.0f}"),
            *(_speed(link, way, learned=way == sends) for way in ("up", "down")),
            _scaled(link.get("tx_bps"), _RATE_STEPS),
            _scaled(link.get("rx_bps"), _RATE_STEPS),
            _scaled(link.get("tx_bytes"), _BYTE_STEPS),
            _scaled(link.get("rx_bytes"), _BYTE_STEPS),
            _number(link.get("rx_lost"), "{:.0f}"),
            Text(str(link.get("reason") or "")),
        )
    return [Text(), table, *_drops(tunnel)]


def _speed(link: Status, way: str, *, learned: bool) -> str:
    """As configured; else, where this end knows, what the line was found to carry."""
    found = _scaled(link.get("learned_bps"), _RATE_STEPS, absent="") if learned else ""
    return _scaled(link.get(f"{way}_bps"), _RATE_STEPS, absent=f"≈ {found}" if found else "learned")


def _drops(counted: Status) -> list[RenderableType]:
    drops = counted.get("drops")
    if not isinstance(drops, Mapping) or not any(drops.values()):
        return []
    return [Text("dropped: " + ", ".join(f"{reason} {n}" for reason, n in drops.items() if n), "dim")]


def _style(state: object) -> str:
    return _STATE_STYLES.get(str(state), "red" if state in ("dead", "down") else "")


def _number(value: object, pattern: str) -> str:
    return pattern.format(value) if isinstance(value, int | float) else _MISSING


def _scaled(value: object, steps: Sequence[tuple[float, str]], absent: str = _MISSING) -> str:
    if not isinstance(value, int | float):
        return absent
    for size, unit in steps:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"0 {steps[-1][1]}"


def span(seconds: object) -> str:
    """A duration in words: "3.2 s", "4 min 10 s", "2 h 5 min", "3 d 4 h"."""
    if not isinstance(seconds, int | float):
        return _MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
