"""Brings a machine to a plan and keeps it there: routes, rules and settings, packet filter, name servers.

    tables of the packet filter, the kill switch first --> routes, rules, settings --> name servers

What of a table was deleted is heard of (`changes`); what else became of it is found at the next look without
an event. Asking nft takes a process, so it is asked only then.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from bondvpn.errors import SystemFault
from bondvpn.linux import nftables, policy, resolver
from bondvpn.linux.journal import Journal
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.nftables import Changes, NftTable, Table
from bondvpn.linux.policy import Plan
from bondvpn.linux.resolver import Resolver

log = logging.getLogger(__name__)


class Upkeep:
    """Of one process, with its journal. Not for two threads at a time, but for `doubt`."""

    def __init__(self, journal: Journal) -> None:
        self.changes: Changes | None = None
        """To be watched, and `doubt` called when they tell of one; None: the kernel has no such thing."""
        with contextlib.suppress(SystemFault):
            self.changes = Changes()
        self._journal = journal
        self._made: dict[str, tuple[Table, Any]] = {}  # tables as asked for and as nft lists them
        self._doubted = False
        self._told: Resolver | None = None
        self._warned: set[str] = set()
        self._started = False

    def close(self) -> None:
        """Watch no more; what is there stays, for the journal to undo."""
        if self.changes is not None:
            self.changes.close()

    def doubt(self) -> None:
        """See at the next `install` whether the tables are as they were made. Any thread."""
        self._doubted = True

    def install(self, wanted: Plan, netlink: Netlink) -> list[str]:
        """Bring the machine to the plan from wherever it is.

        Returns one line for each thing that cannot be there for now; the others are. Raises SystemFault as
        `policy.install` does, and at first also for the packet filter's.
        """
        waiting = list(self._attempt(lambda: self._put_tables(wanted.tables)))
        waiting += policy.install(wanted, netlink, self._journal)
        waiting += self._attempt(lambda: self._drop_tables(wanted.tables, netlink))
        self._started = True  # nobody stays without a tunnel for want of a name server
        waiting += self._attempt(lambda: self._resolve(wanted.resolver, netlink))
        return waiting

    def _attempt(self, step: Callable[[], None]) -> Iterator[str]:
        try:
            step()
        except SystemFault as fault:
            if not self._started:
                raise
            yield str(fault)

    # -- the packet filter ----------------------------------------------------------------------
    def _put_tables(self, wanted: tuple[Table, ...]) -> None:
        doubted, self._doubted = self._doubted, False
        if self.changes is not None:
            self.changes.names = {table.name for table in wanted}
        for table in wanted:
            made, listed = self._made.get(table.name, (None, None))
            if made == table and not (doubted and nftables.listing(table.name) != listed):
                continue
            if made == table:
                log.warning("%s %s was changed by somebody: made anew", nftables.FAMILY, table.name)
            try:
                self._put_table(table)
            except SystemFault as fault:
                if not table.optional:
                    raise
                self._warn(f"{fault}: TCP is not told how narrow the tunnel is")

    def _put_table(self, table: Table) -> None:
        self._made.pop(table.name, None)
        if why := nftables.missing():
            raise SystemFault(why)
        self._journal.record([table.entry])
        nftables.put(table)
        self._made[table.name] = table, nftables.listing(table.name)

    def _drop_tables(self, wanted: tuple[Table, ...], netlink: Netlink) -> None:
        kept = {table.name for table in wanted}
        gone = [one for one in self._journal.entries if isinstance(one, NftTable) and one.name not in kept]
        self._journal.take_back(gone, netlink)
        for entry in gone:
            self._made.pop(entry.name, None)

    # -- name servers ---------------------------------------------------------------------------
    def _resolve(self, wanted: Resolver | None, netlink: Netlink) -> None:
        old = [one for one in self._journal.entries if isinstance(one, Resolver) and one != wanted]
        if old:
            self._journal.take_back(old, netlink)
            self._told = None
        if wanted is None:
            return
        if why := resolver.missing():
            self._warn(why)
            return
        if wanted != self._told and netlink.link_index(wanted.interface) is not None:
            self._journal.record([wanted])
            resolver.put(wanted)
            self._told = wanted

    def _warn(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            log.warning("%s", line)
