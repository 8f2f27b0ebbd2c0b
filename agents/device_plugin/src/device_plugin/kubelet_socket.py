"""Which kubelet is there, by its socket alone; without grpc, which only who serves needs."""

import stat
from pathlib import Path

from device_plugin.plan import KubeletId


def find_kubelet(kubelet_socket: Path) -> KubeletId | None:
    """Who made the socket that is there now; None without one."""
    try:
        found = kubelet_socket.stat()
    except OSError:
        return None
    return KubeletId(found.st_dev, found.st_ino, found.st_mtime_ns) if stat.S_ISSOCK(found.st_mode) else None
