"""Other people's tunnels in a lab, to compare with: each a context manager with an address and processes."""

from bench.peers.bundle import Bundle
from bench.peers.openvpn import OpenVpn
from bench.peers.peer import Peer
from bench.peers.relay import Relay
from bench.peers.wireguard import WireGuardGo

__all__ = ["Bundle", "OpenVpn", "Peer", "Relay", "WireGuardGo"]
