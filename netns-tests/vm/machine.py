"""Run a command in a virtual machine that has Debian's kernel and this machine's files.

    python netns-tests/vm/machine.py [--timeout S] [--results DIR] -- COMMAND [ARGUMENT ...]

The namespace tests run on whatever kernel is there; this one has PPP, VLAN, netem and eql for certain. No
image has to be made or kept: the machine's root is this machine's own, read-only by 9p under a layer in its
memory, so the repository with its .venv and Debian's programs are where they are here, and what it writes is
gone with it.

    this machine                               the virtual machine
    /                      --9p, read-only-->  /              under a tmpfs that takes what is written
    .cache/vm/linux/       --9p, read-only-->  Debian's kernel, modules, ifupdown, resolved; not installed
    DIR, or a new one      <------- 9p ----->  /run/results   what COMMAND leaves, its exit status
    standard output        <-----serial------  what COMMAND prints

QEMU interprets the machine's code (TCG), so no KVM is needed. The machine's clock counts its instructions: it
is right when it boots, and then goes slower than the host's while there is work, so that what is measured
depends neither on how fast nor on how busy the host is.

Exit status: the command's; 124 after the timeout, 125 when the machine failed. The machine dies with this
process.
"""

import argparse
import contextlib
import fcntl
import lzma
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = REPOSITORY / ".cache" / "vm"
COMPILED = CACHE / "compiled"
FETCHED = "fetched"  # in there: the names of OTHERS
EMULATOR = "qemu-system-x86_64"
KERNEL = "linux-image-amd64"  # depends on the present one
# Not to be installed: ifupdown would configure this machine, and resolved take over its names.
OTHERS = ("busybox-static", "ifupdown", "systemd-resolved")
IMPORTED = (
    "pytest, bondvpn.cli, bondvpn.doctor, bondvpn.migration, "
    "bondvpn.runtime.client, bondvpn.runtime.server, bondvpn.ui"
)
ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")  # what it takes to mount the root
# Page tables apart for the kernel and checked branches cost an interpreter most; nothing secret is in here.
FASTER = ("mitigations=off", "tsc=reliable")
MEMORY_MB = 2048
# A nanosecond of the machine's time for each of its instructions, and waiting takes as long as it says: to
# itself it is a machine of one core and 1,000 MIPS, whatever else this one does meanwhile.
CLOCK = ("-icount", "shift=0,sleep=on", "-rtc", "clock=vm")
TIMEOUT_S = 1800.0
TIMED_OUT, FAILED = 124, 125  # as timeout(1) and docker-run(1) have them


class Failure(Exception):
    """The machine could not be made or did not come up."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="machine.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="in seconds (default: %(default)g)")
    parser.add_argument("--results", type=Path, help="a directory, /run/results in the machine")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))
    try:
        prepare()
        with tempfile.TemporaryDirectory(prefix="bondvpn-vm-") as directory:
            results = (arguments.results or Path(directory)).resolve()
            results.mkdir(parents=True, exist_ok=True)
            return run(arguments.command, results, arguments.timeout)
    except (Failure, OSError, subprocess.CalledProcessError) as error:
        print(f"test machine: {error}", file=sys.stderr)
        return FAILED


# -- what it boots ------------------------------------------------------------------------------
def prepare() -> None:
    """Kernel, modules and initramfs in the cache, if they are not there yet. Raises Failure."""
    if shutil.which(EMULATOR) is None:
        raise Failure(f"{EMULATOR} is not there")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fetched = CACHE / "linux" / FETCHED
        if not fetched.exists() or fetched.read_text() != " ".join(OTHERS):
            _fetch_linux()
        _pack_initramfs()
        _compile()


def _fetch_linux() -> None:
    """Unpack the packages; the directory gets its name when it is complete."""
    unpacked = CACHE / "linux.new"
    shutil.rmtree(unpacked, ignore_errors=True)
    packages = unpacked / "packages"
    packages.mkdir(parents=True)
    _output(["apt-get", "-q", "update"])
    depends = _output(["apt-cache", "depends", KERNEL])
    if (present := re.search(r"Depends: (linux-image-\S+)", depends)) is None:
        raise Failure(f"apt-cache names no kernel that {KERNEL} depends on")
    wanted = [present[1], *OTHERS]
    print(f"test machine: fetching {', '.join(wanted)}", file=sys.stderr)
    # As root apt would download as _apt, which must not write here.
    _output(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *wanted], packages)
    for package in packages.iterdir():
        _output(["dpkg-deb", "--extract", str(package), str(unpacked)])
    shutil.rmtree(packages)
    _output(["depmod", "--basedir", str(unpacked), _version(unpacked)])
    (unpacked / FETCHED).write_text(" ".join(OTHERS))
    shutil.rmtree(CACHE / "linux", ignore_errors=True)
    unpacked.rename(CACHE / "linux")


def _version(linux: Path) -> str:
    """Of the kernel that is unpacked there."""
    (modules,) = (linux / "lib" / "modules").iterdir()
    return modules.name


def _pack_initramfs() -> None:
    """Busybox, the modules that the root needs, and `initramfs.sh` as /init; anew each time, it is quick."""
    linux = CACHE / "linux"
    find = ["modprobe", "--dirname", str(linux), "--set-version", _version(linux), "--show-depends"]
    root = CACHE / "initramfs.root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    shutil.copy(linux / "bin" / "busybox", root / "busybox")
    shutil.copy(HERE / "initramfs.sh", root / "init")
    (root / "init").chmod(0o755)
    order: list[str] = []
    for name in ROOT_MODULES:
        for row in _output([*find, name]).splitlines():
            kind, place = row.split()[:2]
            if kind == "insmod" and place not in order:
                order.append(place)
    for number, place in enumerate(order):
        module = Path(place).read_bytes()
        (root / f"{number:02}.ko").write_bytes(lzma.decompress(module) if place.endswith(".xz") else module)
    names = "\n".join(path.name for path in root.iterdir())
    packed = subprocess.run(
        ["cpio", "--create", "--format=newc", "--quiet"],
        input=names.encode(),
        capture_output=True,
        check=True,
        cwd=root,
    )
    shutil.rmtree(root)
    (CACHE / "initramfs.new").write_bytes(packed.stdout)
    (CACHE / "initramfs.new").rename(CACHE / "initramfs")  # another machine may be reading the old one


def _compile() -> None:
    """What is imported in the machine, compiled here, where it takes a second."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(COMPILED), "PYTHONDONTWRITEBYTECODE": ""}
    _output([sys.executable, "-c", f"import {IMPORTED}"], REPOSITORY, environment)


def _output(
    argv: Sequence[str], directory: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a command prints; raises Failure with what it says when it fails."""
    try:
        done = subprocess.run(
            argv, cwd=directory, env=environment, capture_output=True, text=True, check=True
        )
    except FileNotFoundError as error:
        raise Failure(f"{argv[0]} is not there") from error
    except subprocess.CalledProcessError as error:
        raise Failure(f"{shlex.join(argv)}: {error.stderr.strip() or error.returncode}") from error
    return done.stdout


# -- running it ---------------------------------------------------------------------------------
def run(command: Sequence[str], results: Path, timeout_s: float) -> int:
    """Boot, run the command, show what it prints; its exit status."""
    status = results / "status"
    status.unlink(missing_ok=True)
    # The machine reads it there: a kernel's command line is no place for quotes.
    (results / "command").write_text(shlex.join(command) + "\n")
    timed_out = threading.Event()
    with _machine(results) as machine:

        def give_up() -> None:
            timed_out.set()
            machine.kill()

        timer = threading.Timer(timeout_s, give_up)
        timer.start()
        try:
            assert machine.stdout is not None
            for line in machine.stdout:
                sys.stdout.write(line.rstrip("\r\n") + "\n")
                sys.stdout.flush()
        finally:
            timer.cancel()
    if timed_out.is_set():
        print(f"test machine: not done after {timeout_s:g} s", file=sys.stderr)
        return TIMED_OUT
    if not status.exists():
        raise Failure("it ended before the command did")
    return int(status.read_text())


@contextlib.contextmanager
def _machine(results: Path) -> Iterator[subprocess.Popen[str]]:
    """QEMU, killed at the end, and by the kernel when this process dies."""
    linux = CACHE / "linux"
    version = _version(linux)
    append = ["console=ttyS0", "quiet", "panic=-1", *FASTER]  # a kernel that panics restarts, which ends QEMU
    append += ["--", str(HERE / "guest.sh"), str(linux), str(COMPILED), str(REPOSITORY)]
    argv = ["setpriv", "--pdeathsig", "KILL", EMULATOR, "-accel", "tcg", *CLOCK]
    argv += ["-cpu", "max", "-m", str(MEMORY_MB), "-nodefaults", "-no-reboot"]
    argv += ["-display", "none", "-serial", "stdio", "-nic", "none"]
    argv += ["-kernel", str(linux / "boot" / f"vmlinuz-{version}"), "-initrd", str(CACHE / "initramfs")]
    argv += ["-append", " ".join(append)]
    for tag, share in (("host", "path=/,readonly=on,multidevs=remap"), ("results", f"path={results}")):
        argv += ["-fsdev", f"local,id={tag},security_model=none,{share}"]
        argv += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    machine = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        yield machine
    finally:
        machine.kill()
        machine.wait()


if __name__ == "__main__":
    sys.exit(main())
