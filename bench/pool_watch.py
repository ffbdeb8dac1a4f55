"""What a server really uses while it is measured: memory, and processor time beside that of others.

Memory is that of its processes and the page cache of its model files:

anonymous: RssAnon + RssShmem of the process and all that it started (private memory: KV, scratch, repacked weights).
cached: pages of the model files in the page cache, by mincore; mapped or only kept by the kernel. A page that a process has
mapped is in the page cache too, so the sum of both counts every page once.

Processor time: its processes', the client's, and the rest of the machine's; a large rest means that the figures are no good.
"""

import ctypes
import mmap
import os
import pathlib
import threading
import time

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
LEAST_FILE = 1 << 20  # smaller files are no models


def tree(pid):
    """The process and everything below it."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                pass  # ended meanwhile
    found, added = {pid}, True
    while added:
        more = {child for child, parent in parents.items() if parent in found} - found
        found |= more
        added = bool(more)
    return found


def anonymous_bytes(pid):
    total = 0
    for process in tree(pid):
        try:
            for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
        except OSError:
            pass
    return total


def processor_seconds(pid):
    """Of the process and all below it, those that ended included."""
    total = 0
    for process in tree(pid):
        try:
            fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(map(int, fields[11:15]))  # utime, stime, and those of children it has waited for
        except OSError:
            pass
    return total / os.sysconf("SC_CLK_TCK")


def busy_seconds():
    """Of all processors together."""
    user, nice, system, _, _, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def cached_bytes(path):
    """Bytes of the file in the page cache."""
    size = os.path.getsize(path)
    if size == 0:
        return 0
    file = os.open(path, os.O_RDONLY)
    address = LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    os.close(file)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), f"mmap {path}")
    pages = ctypes.create_string_buffer((size + PAGE - 1) // PAGE)
    failed = LIBC.mincore(address, size, pages)
    LIBC.munmap(address, size)
    if failed:
        raise OSError(ctypes.get_errno(), f"mincore {path}")
    return len(pages.raw.translate(None, bytes(range(0, 256, 2)))) * PAGE  # the lowest bit says resident


def model_files(folders):
    """Every large file below the folders, each inode once."""
    found = {}
    for folder in folders:
        for path in pathlib.Path(folder).rglob("*"):
            try:
                status = path.stat()
            except OSError:
                continue
            if path.is_file() and status.st_size >= LEAST_FILE:
                found[status.st_dev, status.st_ino] = path
    return list(found.values())


def forget(folders):
    """Takes the files out of the page cache (as far as nobody has them mapped), so that runs begin alike."""
    for path in model_files(folders):
        file = os.open(path, os.O_RDONLY)
        os.fdatasync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


class Watch:
    """`with Watch(pid, folders) as watch:` samples until the end of the block; then watch.peak_bytes and its parts."""

    def __init__(self, pid, folders, every_s=2.0):
        self.pid, self.folders, self.every_s = pid, folders, every_s
        self.peak_bytes = self.peak_anonymous_bytes = self.peak_cached_bytes = 0
        self.begin = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self):
        while True:
            anonymous, cached = anonymous_bytes(self.pid), 0
            for path in model_files(self.folders):
                try:
                    cached += cached_bytes(path)
                except OSError:
                    pass  # gone meanwhile
            self.peak_bytes = max(self.peak_bytes, anonymous + cached)
            self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, anonymous)
            self.peak_cached_bytes = max(self.peak_cached_bytes, cached)
            if self._stop.wait(self.every_s):
                return

    def _now(self):
        return time.monotonic(), processor_seconds(self.pid), time.process_time(), busy_seconds()

    def __enter__(self):
        self.begin = self._now()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.end = self._now()

    def figures(self):
        passed, server, client, busy = (b - a for a, b in zip(self.begin, self.end))
        return {"processor_server": round(server / passed, 3), "processor_client": round(client / passed, 3),
                "processor_others": round(max(0.0, busy - server - client) / passed, 3),
                "memory_peak_bytes": self.peak_bytes,
                "memory_peak_anonymous_bytes": self.peak_anonymous_bytes, "memory_peak_cached_bytes": self.peak_cached_bytes}
