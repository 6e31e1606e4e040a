"""Packet filter tables of our own, through `nft -j` (libnftables-json(5)): JSON in, one transaction each.

A table is replaced as a whole or not at all, and goes with the process that made it. What hooks of other
tables decide stands beside it: an `accept` here overrides no `drop` there (nft(8), "verdict statements").
"""

import json
import re
import shlex
import shutil
import struct
import subprocess
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from pyroute2.netlink import NETLINK_NETFILTER

from bondvpn.errors import SystemFault
from bondvpn.linux.multicast import Multicast, messages

FAMILY = "inet"
TIMEOUT_S = 10.0  # it takes milliseconds; a lock held by a broken ruleset manager must not hold us for ever
_NO_SUCH = "No such file or directory"  # strerror(ENOENT): there is no such table

# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NFNLGRP_NFTABLES = 7
_NFGENMSG_BYTES = 4
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE: in all of them the table's name

Expression = dict[str, Any]
"""One match or statement as libnftables-json(5) has it."""


class NftTable(msgspec.Struct, frozen=True, kw_only=True, tag="nft"):
    """A table of the family inet that we made, whatever is in it."""

    name: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain; what passes all its rules is accepted."""

    name: str
    kind: str
    """filter or nat."""
    hook: str
    priority: int
    rules: tuple[tuple[Expression, ...], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """What is to be in one table."""

    name: str
    chains: tuple[Chain, ...]
    optional: bool = False
    """Nobody asked for it by name: without nft there is none, and that is a warning."""

    @property
    def entry(self) -> NftTable:
        return NftTable(name=self.name)


def table_name(process: str) -> str:
    """The table of the process called so; every interface has a name of its own that nft reads back."""
    return "bondvpn_" + re.sub(r"[^A-Za-z0-9_.-]", lambda match: f"_{ord(match[0]):02x}", process)


# -- expressions ------------------------------------------------------------------------------------
ACCEPT: Expression = {"accept": None}
COUNTER: Expression = {"counter": None}
MASQUERADE: Expression = {"masquerade": None}
REJECT: Expression = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
CLAMP_TO_PATH_MTU: Expression = {
    "mangle": {
        "key": {"tcp option": {"name": "maxseg", "field": "size"}},
        "value": {"rt": {"key": "mtu"}},  # of both ways, and never upwards (nft_rt.c, nft_exthdr.c)
    }
}


def meta(key: str, *values: str | int, but: bool = False) -> Expression:
    """`meta KEY` is one of the values, or with `but` none of them."""
    return _match({"meta": {"key": key}}, values, "!=" if but else "==")


def field(protocol: str, name: str, *values: Any, op: str = "==") -> Expression:
    """A header field is one of the values."""
    return _match({"payload": {"protocol": protocol, "field": name}}, values, op)


def prefix(network: Any) -> Expression:
    """A value for `field`: an IPNetwork."""
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def _match(left: Expression, values: Sequence[Any], op: str) -> Expression:
    right = values[0] if len(values) == 1 else {"set": list(values)}
    return {"match": {"op": op, "left": left, "right": right}}


# -- the kernel -------------------------------------------------------------------------------------
def put(table: Table) -> None:
    """Make the table, in place of what it is now, in one transaction. Raises SystemFault."""
    _run({"nftables": [*_gone(table.name), *_additions(table)]}, f"make the table {FAMILY} {table.name}")


def delete(name: str) -> None:
    """Delete the table; one that is gone is no error. Raises SystemFault."""
    _run({"nftables": list(_gone(name))}, f"delete the table {FAMILY} {name}")


def listing(name: str) -> Any:
    """What the kernel has under that name, without handles and counts; None where there is no such table.

    To be compared with another listing only: nft words what it lists in its own way. Raises SystemFault.
    """
    done = _nft("-j", "list", "table", FAMILY, name)
    if done.returncode and _NO_SUCH in done.stderr:
        return None
    if done.returncode:
        raise SystemFault(f"cannot list the table {FAMILY} {name}: {_first_line(done.stderr)}")
    return _steady(json.loads(done.stdout)["nftables"])


def rules_in(listed: Any) -> int:
    """How many rules a listing has."""
    return sum("rule" in one for one in listed or ())


def missing() -> str:
    """Why nft cannot be used; empty if it can."""
    return "" if shutil.which("nft") else "there is no nft (apt-get install nftables)"


def _steady(value: Any) -> Any:
    """Without what changes by itself."""
    if isinstance(value, dict):
        changing = {"handle", "packets", "bytes", "metainfo"}
        return {key: _steady(one) for key, one in value.items() if key not in changing}
    return [_steady(one) for one in value] if isinstance(value, list) else value


def _gone(name: str) -> Iterator[Expression]:
    """That there be no such table, whether or not there is one."""
    for verb in ("add", "delete"):
        yield {verb: {"table": {"family": FAMILY, "name": name}}}


def _additions(table: Table) -> Iterator[Expression]:
    yield {"add": {"table": {"family": FAMILY, "name": table.name}}}
    for chain in table.chains:
        place = {"family": FAMILY, "table": table.name}
        hook = {"type": chain.kind, "hook": chain.hook, "prio": chain.priority, "policy": "accept"}
        yield {"add": {"chain": {**place, "name": chain.name, **hook}}}
        for rule in chain.rules:
            yield {"add": {"rule": {**place, "chain": chain.name, "expr": list(rule)}}}


def _run(commands: Expression, doing: str) -> None:
    done = _nft("-j", "-f", "-", text=json.dumps(commands))
    if done.returncode:
        raise SystemFault(f"cannot {doing}: {_first_line(done.stderr)}")


def _nft(*arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    if why := missing():
        raise SystemFault(why)
    try:
        return subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise SystemFault(f"cannot run nft: {fault}") from None


def _first_line(stderr: str) -> str:
    return stderr.strip().partition("\n")[0] or "nft says nothing"


class Changes(Multicast):
    """Hears that somebody deleted something of our tables."""

    def __init__(self) -> None:
        """Raises SystemFault."""
        self.names: Collection[str] = ()
        """The tables that are ours."""
        super().__init__(NETLINK_NETFILTER, 1 << _NFNLGRP_NFTABLES - 1, "the packet filter")

    def _matters(self, datagram: bytes) -> bool:
        return any(name in self.names for name in _tables_in(datagram))


def _tables_in(datagram: bytes) -> Iterator[str]:
    """The tables that the messages are of."""
    for _, body, end in messages(datagram):
        first = body + _NFGENMSG_BYTES
        if first + _ATTRIBUTE.size <= end:
            size, kind = _ATTRIBUTE.unpack_from(datagram, first)
            if kind == _TABLE:
                name = datagram[first + _ATTRIBUTE.size : first + size].rstrip(b"\0")
                yield name.decode("ascii", "replace")


# -- as an administrator would type it ----------------------------------------------------------------
def commands(table: Table) -> Iterator[str]:
    """The table as nft's own commands, line by line."""
    yield f"nft add table {FAMILY} {table.name}"
    for chain in table.chains:
        hook = f"{{ type {chain.kind} hook {chain.hook} priority {chain.priority}; policy accept; }}"
        yield f"nft {shlex.quote(f'add chain {FAMILY} {table.name} {chain.name} {hook}')}"
        for rule in chain.rules:
            words = " ".join(_words(rule))
            yield f"nft {shlex.quote(f'add rule {FAMILY} {table.name} {chain.name} {words}')}"


def _words(rule: Iterable[Expression]) -> Iterator[str]:
    for expression in rule:
        match expression:
            case {"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}}:
                yield f"meta {key} {_operator(op)}{_value(right)}"
            case {"match": {"op": op, "left": {"payload": payload}, "right": right}}:
                yield f"{payload['protocol']} {payload['field']} {_operator(op)}{_value(right)}"
            case {"reject": {"type": kind, "expr": code}}:
                yield f"reject with {kind} type {code}"
            case {"mangle": _}:
                yield "tcp option maxseg size set rt mtu"
            case _:
                yield from expression


def _operator(op: str) -> str:
    return "!= " if op == "!=" else ""


def _value(value: Any) -> str:
    match value:
        case {"set": values}:
            return f"{{ {', '.join(map(_value, values))} }}"
        case {"prefix": {"addr": address, "len": bits}}:
            return f"{address}/{bits}"
        case _:
            return str(value)
