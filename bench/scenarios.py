"""What is asked, and how it is measured."""

import json
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import nodes
from processes import Failed


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    rate: int  # of the open loop, requests/s
    door: str = "web"
    kind: str = ""  # the paths asked for
    expect: int = 200
    connections: int = 32
    options: tuple = ()
    access_log: bool = False
    idle: bool = False  # memory of connections that wait, instead of CPU
    note: str = ""


ALL = (
    Scenario("hit-1k", "hit, 1 KiB", 4000, kind="hit-1k"),
    Scenario("hit-40k", "hit, 40 KiB", 3000, kind="hit-40k"),
    Scenario("fallback", "fallback, 1 KiB", 3000, door="first", kind="fallback",
             note="The first node says 404, the second has it. nginx and Varnish close the connection that said 404 and open "
                  "another; in a long run at full speed the local ports run short, which makes nginx dearer."),
    Scenario("s3-tail", "S3 tail, 1 KiB", 2000, door="chain", kind="s3-tail",
             note="Both nodes say 404, S3 has it. HAProxy needs a detour through itself to have S3 last."),
    Scenario("nowhere", "nowhere", 2000, door="chain", kind="nowhere", expect=404,
             note="Both nodes and S3 say 404."),
    Scenario("stream", "64 MiB stream", 8, kind="stream", connections=4),
    Scenario("churn", "new connection per request, 1 KiB", 2000, kind="hit-1k", options=("--close",)),
    Scenario("tls", "TLS 1.3 keep-alive, 40 KiB", 2000, door="tls", kind="hit-40k", options=("--tls",),
             note="TLS_AES_128_GCM_SHA256 for all. The 32 handshakes of each measurement are in it."),
    Scenario("h2", "HTTP/2 (cleartext), 1 KiB", 3000, door="h2", kind="hit-1k", connections=4,
             options=("--h2", "--streams", "8"), note="4 connections of 8 streams."),
    Scenario("idle", "10,000 idle connections", 0, kind="hit-1k", idle=True, connections=10_000,
             note="Each has had one answer of 1 KiB and stays open. KiB each: how much the proxy's resident memory grew."),
    Scenario("mix", "lean-disk mix", 1500, door="chain", kind="mix",
             note="20,000 objects of 1-200 KiB (log-uniform), asked by Zipf (exponent 1); each is on node a with 60 % and "
                  "on node b with 60 %, independently, and the 16 % that neither got only on S3. Each proxy starts anew; "
                  "the halves are the first and the second half of the requests."),
    Scenario("mix-warm", "lean-disk mix, warm", 1500, door="chain", kind="mix",
             note="The same requests once more, by the same processes: every path has been asked for before."),
    Scenario("access-log", "hit, 1 KiB, access log to a file", 4000, kind="hit-1k", access_log=True),
    Scenario("tcp-stream", "layer 4: 64 MiB stream", 8, door="tcp", kind="stream", connections=4,
             note="16 requests are a GiB. HAProxy with `option splice-auto`; `haproxy+splice` always splices."),
    Scenario("tcp-small", "layer 4: 1 KiB", 4000, door="tcp", kind="hit-1k",
             note="Connections that stay open, each to one node."),
    Scenario("tcp-churn", "layer 4: new connection per request, 1 KiB", 2000, door="tcp", kind="hit-1k", options=("--close",),
             note="A connection from the client and one to a node for each."),
    Scenario("tcp-idle", "layer 4: 5,000 idle connections", 0, door="tcp", kind="hit-1k", idle=True, connections=5_000,
             note="Each has had one answer of 1 KiB, and has a connection to a node, which stays open, too."),
)  # fmt: skip


@dataclass
class Sample:
    """One proxy in one round of one scenario; what does not apply stays None."""

    cpu_us: float = None  # proxy CPU per request, closed loop
    rate: float = None  # requests/s, closed loop
    busy: float = None  # share of its core that the proxy used in the closed loop
    open_cpu_us: float = None
    p50_us: float = None
    p99_us: float = None
    node_requests: float = None  # per client request
    s3_requests: float = None
    connections: float = None  # opened to upstreams per 1,000 client requests
    rss_mib: float = None
    idle_kib: float = None
    halves: list = field(default=None)  # mix: (node requests, S3 requests) per client request, in each half

    @staticmethod
    def median(samples):
        def of(name):
            values = [v for s in samples if (v := getattr(s, name)) is not None]
            if not values:
                return None
            if isinstance(values[0], list):
                return [tuple(map(statistics.median, zip(*half))) for half in zip(*values)]
            return statistics.median(values)

        return Sample(**{name: of(name) for name in Sample.__dataclass_fields__})


class Meter:
    """Measures proxies under the load program."""

    def __init__(self, load, storage, work, seconds, mix_requests):
        self.load, self.nodes, self.work = load, storage, work
        self.seconds, self.mix_requests = seconds, mix_requests
        self.files = {}

    def measure(self, proxy, scenario):
        if scenario.idle:
            return self.idle(proxy, scenario)
        if scenario.kind == "mix":
            return self.mix(proxy, scenario)
        self.run(proxy, scenario, "--seconds", min(0.4, self.seconds))  # warm
        sample = Sample()
        self.closed(sample, proxy, scenario, "--seconds", self.seconds)
        self.open(sample, proxy, scenario)
        return sample

    def mix(self, proxy, scenario):
        proxy.start()
        try:
            sample, halves = Sample(halves=[]), []
            half = self.mix_requests // 2
            if scenario.name == "mix-warm":
                self.run(proxy, scenario, "--requests", self.mix_requests)
                time.sleep(1)  # what was asked for last gets onto the disk after its client has it
            for start in (0, half):
                part = Sample()
                self.closed(part, proxy, scenario, "--requests", half, "--from", start)
                sample.halves.append((part.node_requests, part.s3_requests))
                halves.append(part)
            sample.cpu_us, sample.node_requests, sample.s3_requests, sample.connections = (
                statistics.mean(getattr(h, name) for h in halves)
                for name in ("cpu_us", "node_requests", "s3_requests", "connections")
            )
            sample.rate, sample.busy = halves[1].rate, halves[1].busy
            self.open(sample, proxy, scenario)
            return sample
        finally:
            proxy.stop()

    def idle(self, proxy, scenario):
        proxy.start()
        try:
            self.run(proxy, scenario, "--seconds", 0.4, "--connections", 32)
            before = proxy.rss_kib()
            command = self.command(proxy, scenario, "--hold")
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holding:
                checked(scenario, proxy, holding.stdout.readline())
                time.sleep(0.5)
                after, files = proxy.rss_kib(), proxy.open_files()
                holding.stdin.close()
                holding.wait(10)
            count = scenario.connections
            if files < count:
                raise Failed(f"{proxy.name} keeps only {files} of {count} connections open")
            return Sample(idle_kib=(after - before) / count, rss_mib=after / 1024)
        finally:
            proxy.stop()

    def closed(self, sample, proxy, scenario, *options):
        """Every connection asks again as soon as it is answered."""
        counts, cpu = self.nodes.counts(), proxy.cpu_seconds()
        got = self.run(proxy, scenario, *options)
        cpu = proxy.cpu_seconds() - cpu
        at_nodes, at_s3, opened = (after - before for before, after in zip(counts, self.nodes.counts()))
        requests = got["requests"]
        sample.cpu_us, sample.rate = cpu / requests * 1e6, requests / got["seconds"]
        sample.busy = cpu / got["seconds"]
        sample.node_requests, sample.s3_requests = at_nodes / requests, at_s3 / requests
        sample.connections = opened / requests * 1000
        sample.rss_mib = proxy.rss_kib() / 1024

    def open(self, sample, proxy, scenario):
        """Requests at a fixed rate, whatever the proxy does."""
        cpu = proxy.cpu_seconds()
        got = self.run(proxy, scenario, "--seconds", self.seconds, "--rate", scenario.rate)
        sample.open_cpu_us = (proxy.cpu_seconds() - cpu) / got["requests"] * 1e6
        sample.p50_us, sample.p99_us = got["p50_us"], got["p99_us"]
        sample.rss_mib = proxy.rss_kib() / 1024

    def run(self, proxy, scenario, *options):
        done = subprocess.run(
            self.command(proxy, scenario, *options), capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise Failed(f"{scenario.name}, {proxy.name}: {done.stderr.strip()}\n{proxy.said()}")
        return checked(scenario, proxy, done.stdout)

    def command(self, proxy, scenario, *options):
        words = [
            self.load, "--port", proxy.door(scenario.door), "--paths", self.paths_file(scenario.kind),
            "--expect", scenario.expect, "--connections", scenario.connections, *scenario.options, *options,
        ]  # fmt: skip
        return [str(word) for word in words]

    def paths(self, kind):
        if kind == "mix":
            return self.nodes.zipf(self.mix_requests)
        return [nodes.STREAM] if kind == "stream" else nodes.paths(kind)

    def paths_file(self, kind):
        if kind not in self.files:
            self.files[kind] = Path(self.work) / f"paths-{kind}"
            self.files[kind].write_text("\n".join(self.paths(kind)) + "\n")
        return self.files[kind]


def checked(scenario, proxy, line):
    """The load program's result, if all went as it should."""
    got = json.loads(line or "{}")
    if not got.get("requests") or got["errors"] or got["unexpected"]:
        raise Failed(
            f"{scenario.name}, {proxy.name}: {got.get('errors')} requests failed and {got.get('unexpected')} of "
            f"{got.get('requests')} had not status {scenario.expect}\n{proxy.said()}"
        )
    return got
