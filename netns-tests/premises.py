"""A gateway with whatever lines a test gives it: routers, dial-up lines, a server. Plumbed by `ip`.

gw  ---- what the test plumbs ----  r1, r2, ...  ----  srv   lo 198.51.100.1, 2001:db8::1
"""

import contextlib
import fcntl
import os
import select
import shutil
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from observe import eventually, ip, links

from bondvpn.lab import namespace
from bondvpn.lab.pipe import Pipe
from bondvpn.lab.shape import Shape
from bondvpn.lab.topology import SERVER_ADDRESS, Lab
from bondvpn.lab.tunnel import Configs, Tunnel, write_configs

SERVER_ADDRESS6 = "2001:db8::1"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
ETHERNET_HEADER = bytes(14)  # what a pipe counts, and a TUN device does not have
SETTLE_S = 10.0


class Premises(Lab):
    """A lab without lines but with routers, which forward; their names are r1, r2 and so on."""

    def __init__(self, routers: int, prefix: str) -> None:
        super().__init__((), prefix)
        self.routers = [f"r{i}" for i in range(1, routers + 1)]

    def namespace(self, where: str) -> str:
        return f"{self.prefix}-{where}" if where in self.routers else super().namespace(where)

    def _clear(self) -> None:
        super()._clear()
        for router in self.routers:
            namespace.remove(self.namespace(router))
        shutil.rmtree(self._etc, ignore_errors=True)

    def _build(self) -> None:
        super()._build()
        self.ip("srv", "address add 2001:db8::1/128 dev lo nodad")
        for router in self.routers:
            namespace.create(self.namespace(router))
            namespace.sysctl(
                self.namespace(router), {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
            )
            self.ip(router, "link set lo up")

    @property
    def _etc(self) -> Path:
        """What `ip netns exec` lays over /etc in gw."""
        return Path("/etc/netns") / self.namespace("gw")

    def ip(self, where: str, *commands: str) -> str:
        """What `ip COMMAND` says there, or several of them one after the other."""
        if len(commands) == 1:
            return ip(self, where, *commands[0].split())
        self.run(where, ["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
        return ""

    def name(self, host: str, *addresses: str) -> None:
        """From now on gw resolves the name to these."""
        self._etc.mkdir(parents=True, exist_ok=True)
        hosts = ["127.0.0.1 localhost", *(f"{address} {host}" for address in addresses)]
        (self._etc / "hosts").write_text("\n".join(hosts) + "\n")
        (self._etc / "host.conf").write_text("multi on\n")

    def resolve_by(self, server: str) -> None:
        """From now on gw asks this name server, and gives up soon."""
        self._etc.mkdir(parents=True, exist_ok=True)
        (self._etc / "resolv.conf").write_text(f"nameserver {server}\noptions timeout:1 attempts:1\n")
        (self._etc / "nsswitch.conf").write_text("hosts: files dns\n")

    def join(self, where: str, interface: str, other: str, peer: str, *addresses: str) -> None:
        """A cable between two machines; `addresses` are `ADDRESS/BITS`, in turn of `where` and of `other`."""
        self.ip(where, f"link add {interface} type veth peer name {peer} netns {self.namespace(other)}")
        for at, name, own in ((where, interface, addresses[::2]), (other, peer, addresses[1::2])):
            self.ip(at, *(_address(address, name) for address in own), f"link set {name} up")

    def provider(self, number: int, customers: str | None = None) -> None:
        """Router r<number> reaches the server, and the server `customers` by it. r1 is 203.0.113.10 to it,
        r2 203.0.113.18, and so on."""
        router = f"r{number}"
        near, far = (f"203.0.113.{number * 8 + host}" for host in (1, 2))
        near6, far6 = (f"2001:db8:ffff:{number}::{host}" for host in (1, 2))
        self.join("srv", router, router, "wan", f"{near}/29", f"{far}/29", f"{near6}/64", f"{far6}/64")
        self.ip(router, f"route add default via {near}", f"route add default via {near6}")
        if customers is not None:
            self.ip("srv", f"route add {customers} via {far6 if ':' in customers else far}")

    def nft(self, where: str, ruleset: str) -> None:
        """Add to a machine's packet filter."""
        self.run(where, ["nft", "-f", "-"], input=ruleset, text=True, check=True)


def _address(address: str, interface: str) -> str:
    """The command; IPv6's duplicate detection would take a second."""
    return f"address add {address} dev {interface}" + (" nodad" if ":" in address else "")


@contextlib.contextmanager
def tunnel(
    premises: Premises,
    directory: Path,
    uplinks: str,
    *,
    endpoints: Sequence[str] = (),
    start: bool = True,
    wait_s: float = SETTLE_S,
    **settings: Any,
) -> Iterator[Tunnel]:
    """bondvpn at both ends; `uplinks` are client.toml's tables of that name."""
    configs = configure(premises, directory, uplinks, endpoints=endpoints, **settings)
    running = Tunnel(premises, configs, wait_s=wait_s)
    with contextlib.ExitStack() as stack:
        stack.callback(running.__exit__)
        stack.callback(
            lambda: print(f"--- client ---\n{running.client_log}\n--- server ---\n{running.server_log}")
        )
        if start:
            running.__enter__()
        yield running


def configure(
    premises: Premises, directory: Path, uplinks: str, *, endpoints: Sequence[str] = (), **settings: Any
) -> Configs:
    """Both ends' files."""
    configs = write_configs(premises, directory, **{"scheduler": "adaptive", "speeds": False} | settings)
    text = configs.client.read_text() + uplinks
    if endpoints:
        text = text.replace(f'["{SERVER_ADDRESS}:1189"]', str(list(endpoints)).replace("'", '"'))
    configs.client.write_text(text)
    configs.server.write_text(
        configs.server.read_text().replace('"0.0.0.0:1189"', '"0.0.0.0:1189", "[::]:1189"')
    )
    return configs


def await_active(running: Tunnel, *names: str, only: bool = True, within_s: float = SETTLE_S) -> None:
    """Until these uplinks, and `only` these, are there, and both ends use them."""

    def used() -> bool:
        ends = (links(running, "client"), links(running, "server"))
        return (not only or set(ends[0]) == set(names)) and all(
            end.get(name, {}).get("state") == "active" for end in ends for name in names
        )

    eventually(used, within_s, f"{', '.join(names)} are used")


class Dialup:
    """A point-to-point line from gw to srv, as pppd or an LTE stick makes it: the interface comes with its
    address when it is dialled and goes when it is hung up. A context manager; at first hung up.

    Shaped in both directions as `shape` says.
    """

    def __init__(self, premises: Premises, interface: str, shape: Shape | None = None) -> None:
        self.interface = interface
        self._premises = premises
        self._pipes = [Pipe(shape or Shape(mtu=1500)) for _ in range(2)]
        self._devices: list[int] = []
        self._lock = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(5)
        self.hang_up()

    def dial(self, *addresses: str, mtu: int = 1492) -> None:
        """Both ends come up; gw has the addresses."""
        devices = [self._open(where) for where in ("gw", "srv")]
        up = f"link set {self.interface} mtu {mtu} up"
        routes = [f"route add {address.split('/')[0]} dev {self.interface}" for address in addresses]
        self._premises.ip("gw", *(_address(address, self.interface) for address in addresses), up)
        self._premises.ip("srv", up, *routes)
        with self._lock:
            self._devices = devices

    def hang_up(self) -> None:
        """Both ends' interfaces are gone, with what was under way."""
        with self._lock:
            for device in self._devices:
                os.close(device)
            self._devices = []
            for pipe in self._pipes:
                pipe.cut()
                pipe.restore()

    def _open(self, where: str) -> int:
        with namespace.entered(self._premises.namespace(where)):
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            request = struct.pack("16sH22x", self.interface.encode(), IFF_TUN | IFF_NO_PI)
            fcntl.ioctl(device, TUNSETIFF, request)
        self._premises.ip(where, f"link set {self.interface} addrgenmode none")
        return device

    def _carry(self) -> None:
        while not self._stopping:
            with self._lock:
                for pipe, source, sink in zip(self._pipes, self._devices, self._devices[::-1], strict=False):
                    self._move(pipe, source, sink)
                due = [at for pipe in self._pipes if (at := pipe.next_deadline()) is not None]
                devices = list(self._devices)
            wait_s = min((at - time.monotonic() for at in due), default=0.02)
            with contextlib.suppress(OSError, ValueError):  # hung up meanwhile
                select.select(devices, [], [], min(max(wait_s, 0.0005), 0.02))

    @staticmethod
    def _move(pipe: Pipe, source: int, sink: int) -> None:
        with contextlib.suppress(OSError):  # nothing there, or not up yet
            for _ in range(64):
                packet = os.read(source, 2048)
                pipe.offer(ETHERNET_HEADER + packet, time.monotonic())
        for frame in pipe.due(time.monotonic() + 0.0003):
            with contextlib.suppress(OSError):
                os.write(sink, frame[len(ETHERNET_HEADER) :])
