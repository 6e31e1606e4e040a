"""An interface as raw frames: a packet socket with a receive ring (TPACKET_V2, packet_mmap.rst).

The ring costs no system call per frame and stamps each at its arrival, so that the reader may come late,
take many at once, and still know when each was due.
"""

import mmap
import socket
import struct

ETH_P_ALL = 0x0003

# linux/if_packet.h
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
PACKET_MR_PROMISC = 1
TPACKET_V2 = 1
TP_STATUS_KERNEL = 0
TP_STATUS_USER = 1

# struct tpacket2_hdr: status, len, snaplen, mac, net, sec, nsec (the VLAN words that follow are not needed)
HEADER = struct.Struct("=IIIHHII")
STATISTICS = struct.Struct("=II")  # packets, drops

# A slot takes the 68 bytes of header and address and a full frame; the kernel wants slots to fill a block.
SLOT_BYTES = 2048
BLOCK_BYTES = 65536
# 1,024 full frames: 10 ms at 1.2 Gbit/s, more than the emulator ever sleeps while frames come.
RING_BYTES = 2 << 20


class Ring:
    """Raw frames in and out of one interface. Frames that this machine sends are not read back."""

    def __init__(self, interface: str) -> None:
        """Raises OSError when the interface is missing or the caller is not root."""
        # Protocol 0 until the ring stands: nothing arrives before there is a place for it.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.interface = interface
        index = socket.if_nametoindex(interface)
        self._socket.setblocking(False)
        self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        slots = RING_BYTES // SLOT_BYTES
        request = struct.pack("=IIII", BLOCK_BYTES, RING_BYTES // BLOCK_BYTES, SLOT_BYTES, slots)
        self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        self._ring = mmap.mmap(self._socket.fileno(), RING_BYTES)
        self._status = memoryview(self._ring).cast("I")
        self._at = 0
        self._socket.bind((interface, ETH_P_ALL))
        promiscuous = struct.pack("=iHH8x", index, PACKET_MR_PROMISC, 0)
        self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous)
        self.send = self._socket.send
        self._ring_drops = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, limit: int) -> list[tuple[int, bytes]]:
        """At most `limit` frames that have arrived, each with its arrival in ns of CLOCK_REALTIME."""
        frames: list[tuple[int, bytes]] = []
        ring, status, at, unpack = self._ring, self._status, self._at, HEADER.unpack_from
        while len(frames) < limit and status[at // 4] & TP_STATUS_USER:
            _, _, captured, mac, _, seconds, nanoseconds = unpack(ring, at)
            frames.append((seconds * 1_000_000_000 + nanoseconds, ring[at + mac : at + mac + captured]))
            status[at // 4] = TP_STATUS_KERNEL
            at = (at + SLOT_BYTES) % RING_BYTES
        self._at = at
        return frames

    def drops(self) -> int:
        """Frames that found the ring full, since the start."""
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, STATISTICS.size)
        self._ring_drops += STATISTICS.unpack(statistics)[1]
        return self._ring_drops

    def close(self) -> None:
        self._status.release()
        self._ring.close()
        self._socket.close()
