"""A TAP device with virtio headers: one read or write carries up to 64 KiB of one TCP flow."""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Sequence

from bondvpn.errors import SystemFault

Buffer = bytes | bytearray | memoryview

# linux/if_tun.h
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETLE = 0x400454DC
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_USO4 = 0x20  # Linux 6.2
TUN_F_USO6 = 0x40

_FLAGS = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
_TCP_OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
_USO = TUN_F_USO4 | TUN_F_USO6
_DEVICE = "/dev/net/tun"

# The frame goes no further, and the device is fine: not up (EIO), no memory, header refused (EINVAL).
_REFUSED = {errno.EIO, errno.EINVAL, errno.ENOBUFS, errno.ENOMEM, errno.EFBIG}


def _open_by_ioctl(name: str) -> int:
    """The fallback where python-pytun has no wheel (ARM gateways)."""
    fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), _FLAGS))
    except OSError:
        os.close(fd)
        raise
    return fd


def _open(name: str) -> int:
    try:
        import pytun  # noqa: PLC0415 - absent where no wheel exists
    except ImportError:
        return _open_by_ioctl(name)
    try:
        device = pytun.TunTapDevice(name=name, flags=_FLAGS)
    except pytun.Error as error:  # its own class, with errno first
        raise OSError(*error.args) from None
    fd = os.dup(device.fileno())  # the object closes its descriptor when collected; ours stays
    device.close()
    return fd


class Tap:
    """An open TAP device, non-blocking. It disappears when closed.

    The kernel takes super-frames of TCP always, of UDP (`uso`) from Linux 6.2.
    """

    def __init__(self, name: str) -> None:
        """Make the device `name`. Raises SystemFault."""
        self.name = name
        try:
            self._fd = _open(name)
        except OSError as error:
            raise SystemFault(_explain(name, error)) from None
        os.set_blocking(self._fd, False)
        os.set_inheritable(self._fd, False)
        with contextlib.suppress(OSError):  # little-endian hosts need no telling
            fcntl.ioctl(self._fd, TUNSETVNETLE, struct.pack("i", 1))
        self.uso = self._set_offloads(_TCP_OFFLOADS | _USO)
        if not self.uso and not self._set_offloads(_TCP_OFFLOADS):
            raise SystemFault(
                f"{name}: the kernel refuses TSO on a TAP device; Linux 2.6.27 or later is needed"
            )

    def _set_offloads(self, offloads: int) -> bool:
        try:
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, offloads)
        except OSError:
            return False
        return True

    def emit_uso(self, wanted: bool) -> None:
        """Whether super-frames of UDP may be read from it: only if the peer's kernel takes them."""
        self._set_offloads(_TCP_OFFLOADS | (_USO if wanted and self.uso else 0))

    def fileno(self) -> int:
        return self._fd

    def read_into(self, buffers: Sequence[Buffer]) -> int:
        """One frame, virtio header first, scattered over `buffers`; its bytes, 0 when none waits."""
        try:
            return os.readv(self._fd, buffers)
        except BlockingIOError:
            return 0

    def write(self, parts: Sequence[Buffer]) -> bool:
        """One frame, virtio header first, gathered from `parts`; False if the kernel refused it."""
        try:
            os.writev(self._fd, parts)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _REFUSED:
                return False
            raise
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _explain(name: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENXIO | errno.ENODEV:
            return f"{_DEVICE}: {error.strerror}; load it with: modprobe tun"
        case errno.EPERM | errno.EACCES:
            return f"{name}: {error.strerror}; making a TAP device needs root or CAP_NET_ADMIN"
        case errno.EBUSY:
            return f"{name}: in use by another process; is bondvpn already running? see: bondvpn status"
        case errno.EINVAL:
            return f"{name}: exists and is no TAP device with virtio headers; remove it with: bondvpn down"
    return f"{name}: {error.strerror}"
