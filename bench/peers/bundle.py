"""Two OpenVPN tunnels over two lines, bundled packet by packet: what is nearest to eql where that is missing.

    flow to 172.21.7.1 --> nftables: mark 1, 2, 1, 2, ... (numgen) --> ip rule: table 1 or 2 --> ovb0 | ovb1

The other end does the same for what goes back. Nothing restores the order, just as with eql.
"""

from bench.peers.openvpn import OpenVpn, Tunnel
from bench.peers.peer import ENDS, Peer, program
from bondvpn.lab.topology import Lab

OCTETS_AND_PORTS = ((5, 1196), (6, 1197))
INSIDE = {"client": "172.21.7.2", "server": "172.21.7.1"}
MARK = 0x0B00  # plus the tunnel's number; also the number of its routing table
TABLE = 11_000
RULE_PRIORITY = 1_000

_NFT = """
table ip bench_bundle {{
    chain spread {{
        type route hook output priority mangle;
        ip daddr {other} meta mark set numgen inc mod {count} map {{ {marks} }}
    }}
}}
"""


class Bundle(Peer):
    """`lines` in turns by one packet each, over a tap tunnel per line."""

    name = "2 × OpenVPN"
    package = "openvpn nftables"

    def __init__(self, lab: Lab, *lines: str) -> None:
        super().__init__(lab)
        self._tunnels = [
            Tunnel(self, line, f"ovb{i}", "tap", *place)
            for i, (line, place) in enumerate(zip(lines, OCTETS_AND_PORTS, strict=True))
        ]

    @classmethod
    def version(cls) -> str | None:
        return OpenVpn.version() if program("nft") else None

    @property
    def address(self) -> str:
        return INSIDE["server"]

    @property
    def command(self) -> str:
        spread = f"meta mark set numgen inc mod {len(self._tunnels)}"
        return f"openvpn {' '.join(self._tunnels[0].options)}, and nft {spread} with a route per mark"

    def start(self) -> None:
        for i, tunnel in enumerate(self._tunnels):
            tunnel.start(f" {i + 1}")
        for end, own in INSIDE.items():
            self._bundle(end, own, INSIDE["server" if end == "client" else "client"])

    def _bundle(self, end: str, own: str, other: str) -> None:
        self.configure(end, "ip", "address", "add", f"{own}/32", "dev", "lo")
        for i, tunnel in enumerate(self._tunnels):
            hop = tunnel.address if end == "client" else tunnel.client_address
            # A lump of 64 KiB would go by one line as a whole: with one segment each, packets take turns.
            self.await_device(end, tunnel.device)
            self.configure(end, "ip", "link", "set", tunnel.device, "up", "gso_max_segs", "1")
            route = ["ip", "route", "replace", other, "via", hop, "dev", tunnel.device, "src", own, "onlink"]
            self.configure(end, *route, "table", str(TABLE + i))
            rule = ["fwmark", hex(MARK + i), "lookup", str(TABLE + i), "priority", str(RULE_PRIORITY + i)]
            self.configure(end, "ip", "rule", "add", *rule)
            if i == 0:  # what is looked up before there is a mark
                self.configure(end, *route)
        marks = ", ".join(f"{i} : {MARK + i:#x}" for i in range(len(self._tunnels)))
        rules = _NFT.format(other=other, count=len(self._tunnels), marks=marks)
        self.configure(end, program("nft") or "nft", "-f", "-", input=rules)

    def __exit__(self, *details: object) -> None:
        for end, own in INSIDE.items():
            for undo in (
                ["nft", "delete", "table", "ip", "bench_bundle"],
                ["ip", "address", "delete", f"{own}/32", "dev", "lo"],
                *[
                    ["ip", "rule", "delete", "priority", str(RULE_PRIORITY + i)]
                    for i in range(len(self._tunnels))
                ],
            ):
                self.lab.run(ENDS[end], undo, capture_output=True)
        super().__exit__(*details)
