"""WireGuard in userspace: wireguard-go, one tunnel over one line."""

import subprocess

from bench.peers.peer import ENDS, PointToPoint, first_line, program
from bondvpn.lab.topology import Lab

PORT = 51820


class WireGuardGo(PointToPoint):
    """As it comes, MTU 1420 and one queue."""

    name = "wireguard-go"
    package = "wireguard-go wireguard-tools"
    octet = 4

    def __init__(self, lab: Lab, line: str) -> None:
        super().__init__(lab, line)
        # Its control socket is named after the interface and lies in one directory for all namespaces.
        self._names = {end: f"{lab.prefix[:8]}wg{where[0]}" for end, where in ENDS.items()}

    @classmethod
    def version(cls) -> str | None:
        found = program("wireguard-go")
        if not found or not program("wg"):
            return None
        packaged = first_line("dpkg-query", "--show", "--showformat", "${Version}", "wireguard-go")
        return f"{first_line(found, '--version')} (package {packaged})"

    @property
    def command(self) -> str:
        return "wireguard-go"

    def start(self) -> None:
        keys = {end: self._key(end) for end in ENDS}
        for end, name in self._names.items():
            self.spawn(end, end, [program("wireguard-go") or "wireguard-go", "--foreground", name])
            self.await_device(end, name)
        for end, other in (("server", "client"), ("client", "server")):
            name = self._names[end]
            words = ["private-key", str(self.directory / f"{end}.key"), "peer", keys[other]]
            words += ["allowed-ips", f"{self.addresses[other]}/32"]
            if end == "client":
                words += ["endpoint", f"{self.lab.gateway(self.line)}:{PORT}"]
            else:
                words = ["listen-port", str(PORT), *words]
            self.configure(end, program("wg") or "wg", "set", name, *words)
            self.bring_up(end, name, "mtu", "1420")

    def _key(self, end: str) -> str:
        """Write a new private key; its public key."""
        path = self.directory / f"{end}.key"
        path.touch(mode=0o600)
        path.write_text(self._wg("genkey"))
        return self._wg("pubkey", path.read_text())

    @staticmethod
    def _wg(word: str, text: str = "") -> str:
        done = subprocess.run(
            [program("wg") or "wg", word], input=text, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
