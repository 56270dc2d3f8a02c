"""Servers as processes: started in a session of their own, pinned, measured from /proc, and always ended."""

import os
import random
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_given = set()


class Failed(Exception):
    """Something that the bench needs did not work; the message is for the user."""


def free_port():
    """A free loopback port below the range that outgoing connections take theirs from."""
    while True:
        port = random.randrange(11000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port


class Server:
    """A server program and its children."""

    def __init__(self, name, command, log, ports, core=None, env=None):
        self.name, self.log, self.ports = name, log, ports
        self.command = (["taskset", "-c", str(core)] if core is not None else []) + command
        self.env = {**os.environ, **(env or {})}
        self.process = None
        self.probes = 0

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, start_new_session=True
            )
        deadline = time.monotonic() + 20
        for port in self.ports:
            while not self._accepts(port):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise Failed(f"{self.name} did not start:\n{self.said()}")
                time.sleep(0.05)

    def _accepts(self, port):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        self.probes += 1
        return True

    def said(self):
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self):
        if self.process is None:
            return
        family = self.pids()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid in family:  # children that outlived their parent
            try:
                if pid != self.process.pid and os.getsid(pid) == self.process.pid:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process = None

    def pids(self):
        """The process and all that descend from it."""
        children = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (fields := _stat(entry)):
                children.setdefault(int(fields[1]), []).append(int(entry))
        family, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            family.append(pid)
            todo += children.get(pid, [])
        return family

    def cpu_seconds(self):
        """utime + stime of the whole family."""
        return sum((int(f[11]) + int(f[12])) / TICKS for pid in self.pids() if (f := _stat(pid)))

    def rss_kib(self):
        return sum(int(f[21]) * PAGE_KIB for pid in self.pids() if (f := _stat(pid)))

    def open_files(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())


def _stat(pid):
    """Fields of /proc/PID/stat from the third on (proc(5)), or None if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            return f.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
