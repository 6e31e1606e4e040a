"""What an interface's driver is set to do, by ethtool's ioctl (linux/ethtool.h)."""

import array
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946  # linux/sockios.h
_GET_GSO, _GET_GRO = 0x23, 0x2B  # ETHTOOL_GGSO, ETHTOOL_GGRO


def generic_offloads(interface: str) -> dict[str, bool]:
    """Whether `gso` and `gro` are on, as far as the kernel tells; nothing of one that is absent."""
    found: dict[str, bool] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for name, command in (("gso", _GET_GSO), ("gro", _GET_GRO)):
            value = array.array("I", [command, 0])  # struct ethtool_value
            request = struct.pack("16sP", interface.encode()[:15], value.buffer_info()[0])
            try:
                fcntl.ioctl(any_socket, SIOCETHTOOL, request.ljust(40, b"\0"))
            except OSError:
                continue
            found[name] = bool(value[1])
    return found
