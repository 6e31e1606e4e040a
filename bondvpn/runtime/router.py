"""A server's machine as its tunnels ask for it: forwarding and the packet filter, kept while the server runs.

In the process that has the journal, with an event loop (`followed`) or without one (`poll`).
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

from bondvpn.config import ServerConfig
from bondvpn.errors import SystemFault
from bondvpn.linux import policy
from bondvpn.linux.journal import Journal
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.policy import Plan
from bondvpn.linux.upkeep import Upkeep

log = logging.getLogger(__name__)

CHECK_S = 30.0  # a look without an event


class Router:
    """Of one server."""

    def __init__(self, config: ServerConfig, journal: Journal) -> None:
        self._config = config
        self._upkeep = Upkeep(journal)
        self._plan = Plan()
        self.lock = threading.RLock()
        """Of who changes the journal."""
        self._due = 0.0
        self._said: list[str] = []

    def install(self) -> list[str]:
        """Bring the machine there; what cannot be for now. Blocks; raises SystemFault."""
        with self.lock, Netlink() as netlink:
            tunnels = [client.tunnel for client in self._config.clients]
            self._plan = policy.plan_of_server(tunnels)
            return self._upkeep.install(self._plan, netlink)

    def reconfigure(self, config: ServerConfig) -> list[str]:
        """Go on with another configuration; what of it could not be done. Blocks."""
        self._config = config
        return self._attempt()

    def look(self) -> None:
        """See whether all is as it was made, and make it so. Blocks."""
        self._upkeep.doubt()
        waiting = self._attempt()
        for line in waiting:
            if line not in self._said:
                log.warning("%s", line)
        self._said = waiting

    def _attempt(self) -> list[str]:
        try:
            return self.install()
        except SystemFault as fault:
            return [str(fault)]

    def close(self) -> None:
        """Look no more."""
        self._upkeep.close()

    def status(self) -> dict[str, Any]:
        """What of the machine is as the tunnels ask for."""
        return self._plan.summary()

    # -- with an event loop ---------------------------------------------------------------------
    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Look whenever something of ours was changed, and every CHECK_S, while entered."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        def on_event() -> None:
            if self.touched():
                event.set()

        async def follow() -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_S):
                        await event.wait()
                event.clear()
                await asyncio.to_thread(self.look)

        changes = self._upkeep.changes
        if changes is not None:
            loop.add_reader(changes.fileno(), on_event)
        following = loop.create_task(follow())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            if changes is not None:
                loop.remove_reader(changes.fileno())

    # -- without one ----------------------------------------------------------------------------
    def fileno(self) -> int | None:
        """What to select on, before `touched`; None: nothing."""
        return None if self._upkeep.changes is None else self._upkeep.changes.fileno()

    def touched(self) -> bool:
        """Whether somebody changed what is ours since the last call."""
        return self._upkeep.changes is not None and self._upkeep.changes.changed()

    def poll(self, now: float) -> float:
        """Look, if CHECK_S have passed; when to call again. `now`: monotonic seconds. Blocks."""
        if not self._due:
            self._due = now + CHECK_S
        elif now >= self._due:
            self._due = now + CHECK_S
            self.look()
        return self._due
