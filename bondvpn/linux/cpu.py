"""What the processor can do."""

from pathlib import Path


def has_aes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether it has AES instructions (x86 `flags`, ARM `Features`)."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    return any("aes" in line.split() for line in lines if line.startswith(("flags", "Features")))
