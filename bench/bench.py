"""Runs hopfall and its peers side by side in interleaved rounds. Started by bench/run, which prepares what it needs."""

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import proxies
import report
import scenarios
from nodes import Nodes, self_signed
from processes import TICKS, Failed


class World:
    """What all proxies share."""

    def __init__(self, work, hopfall, proxy_core, storage):
        self.work, self.hopfall, self.proxy_core = work, hopfall, proxy_core
        self.upstreams = {"a": storage.a.port, "b": storage.b.port, "s3": storage.s3.port}
        self.certificate, self.key, self.both = self_signed(work)


def machine_busy():
    """CPU seconds that the whole machine has spent so far, but not waiting, idle or taken away by its host."""
    with open("/proc/stat", encoding="utf-8") as f:
        user, nice, system, _, _, irq, softirq = map(int, f.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def own_busy():
    """CPU seconds of this process and of all that it started and that have ended."""
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def check_answers(proxy, scenario, meter):
    """Whether the proxy answers what the nodes hold, before it is measured. TLS and HTTP/2 share this path."""
    if scenario.door in ("tls", "h2"):
        return
    for path in meter.paths(scenario.kind)[:50]:
        expected = meter.nodes.content(path)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{proxy.door(scenario.door)}{path}", timeout=10) as answer:
                same = answer.read() == expected
        except urllib.error.HTTPError as refusal:
            same = expected is None and refusal.code == 404
        if not same:
            raise Failed(f"{proxy.name} answers {path} wrongly in {scenario.name}\n{proxy.said()}")


def run_scenario(scenario, chosen, world, meter, rounds, running):
    """Samples by proxy: rounds go A B C D A B C D, so that a drift of the machine hits all alike."""
    crowd = [p(world, scenario) for p in chosen if p.takes_part(scenario)]
    running += crowd
    restarted = scenario.idle or scenario.kind == "mix"
    for proxy in crowd:
        proxy.start()
        check_answers(proxy, scenario, meter)
        if restarted:
            proxy.stop()
    samples = {proxy.name: [] for proxy in crowd}
    for _ in range(rounds):
        for proxy in crowd:
            samples[proxy.name].append(meter.measure(proxy, scenario))
    for proxy in crowd:
        proxy.stop()
        running.remove(proxy)
    return {name: scenarios.Sample.median(several) for name, several in samples.items()}


def options():
    names = [s.name for s in scenarios.ALL]
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all works; about 2 minutes")
    parser.add_argument("--rounds", type=int, help="interleaved rounds, of which the median counts (3)")
    parser.add_argument("--seconds", type=float, help="length of each measurement (2)")
    parser.add_argument("--proxies", default="hopfall,hopfall+map,hopfall+disk,nginx,haproxy,varnish", help="comma-separated (%(default)s)")
    parser.add_argument("--hopfall", type=Path, help="the binary (default: built with the dist profile)")
    parser.add_argument("--out", type=Path, help="default: bench/results.md for a full run, else only standard output")
    parser.add_argument("--load", type=Path, required=True, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.said = ["--quick"] * chosen.quick
    for name in ("rounds", "seconds"):
        if (value := getattr(chosen, name)) is not None:
            chosen.said += [f"--{name}", f"{value:g}"]
    if chosen.proxies != parser.get_default("proxies"):
        chosen.said += ["--proxies", chosen.proxies]
    unknown = set(chosen.scenario) - set(names)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; they are: {', '.join(names)}")
    known = {p.NAME: p for p in proxies.ALL}
    try:
        chosen.proxies = [known[name] for name in chosen.proxies.split(",")]
    except KeyError as name:
        parser.error(f"no proxy {name}; they are: {', '.join(known)}")
    return chosen


def main():
    chosen = options()
    rounds = chosen.rounds or (1 if chosen.quick else 3)
    seconds = chosen.seconds or (0.7 if chosen.quick else 2.0)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise Failed("two cores are needed: one for the proxies, one for the load")
    os.sched_setaffinity(0, cores[:1])  # inherited by nodes and load

    work = Path(tempfile.mkdtemp(prefix="hopfall-bench-"))
    work.chmod(0o755)
    storage, running, results, left_out, began = None, [], {}, {}, time.monotonic()
    busy = machine_busy() - own_busy()
    try:
        storage = Nodes(work)
        storage.start()
        world = World(work, chosen.hopfall.resolve(), cores[-1], storage)
        meter = scenarios.Meter(chosen.load, storage, work, seconds, 6_000 if chosen.quick else 30_000)
        for scenario in scenarios.ALL:
            if chosen.scenario and scenario.name not in chosen.scenario:
                continue
            print(f"[{time.monotonic() - began:4.0f} s] {scenario.name}: {scenario.title}", file=sys.stderr, flush=True)
            results[scenario.name] = run_scenario(scenario, chosen.proxies, world, meter, rounds, running)
            left_out[scenario.name] = [(p.NAME, p.CANNOT[scenario.name]) for p in chosen.proxies if scenario.name in p.CANNOT]
        versions = {p.NAME: p.version(world) for p in chosen.proxies}
    finally:
        for server in [*running, *([storage] if storage else [])]:
            server.stop()
        shutil.rmtree(work, ignore_errors=True)

    took = time.monotonic() - began
    others = max(0.0, machine_busy() - own_busy() - busy) / took
    command = " ".join(["bench/run", *chosen.said, *chosen.scenario])
    setup = {"command": command, "rounds": rounds, "seconds": seconds, "cores": len(cores), "others": others}
    text = report.document(results, left_out, versions, setup)
    print(text)
    out = chosen.out
    if out is None and not (chosen.quick or chosen.scenario):
        out = Path(__file__).parent / "results.md"
    if out:
        out.write_text(text, encoding="utf-8")
    print(f"[{took:4.0f} s] done{f': {out}' if out else ''}", file=sys.stderr)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` runs
    try:
        main()
    except Failed as problem:
        sys.exit(f"bench/run: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
