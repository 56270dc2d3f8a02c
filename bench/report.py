"""The results as Markdown."""

import scenarios


def number(value, digits=0):
    if value is None:
        return "–"
    return f"{value:,.{digits}f}"


def micro(value):
    return number(value, 1 if value is not None and value < 100 else 0)


def cost(sample):
    """What a scenario's ratio compares: CPU per request, or KiB per idle connection."""
    return sample.cpu_us if sample.idle_kib is None else sample.idle_kib


def best_peer(by_proxy):
    return min((cost(sample) for name, sample in by_proxy.items() if not name.startswith("hopfall")), default=None)


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def ratio(by_proxy, name):
    best = best_peer(by_proxy)
    return f"**{cost(by_proxy[name]) / best:.2f}**" if name in by_proxy and best else "–"


def summary(results, proxies):
    ours = [name for name in proxies if name.startswith("hopfall")]
    head = ["CPU µs per request", *proxies, *(f"{name} : best peer" for name in ours)]
    rows = []
    for scenario in scenarios.ALL:
        if by_proxy := results.get(scenario.name):
            unit = " (KiB each)" if scenario.idle else ""
            cells = [micro(cost(by_proxy[p])) if p in by_proxy else "–" for p in proxies]
            rows.append([scenario.title + unit, *cells, *(ratio(by_proxy, name) for name in ours)])
    return table(head, rows)


def detail(scenario, by_proxy, left_out):
    best = best_peer(by_proxy)
    lines = ["", f"### {scenario.name}: {scenario.title}", ""]
    if scenario.note:
        lines += [scenario.note, ""]
    if scenario.idle:
        head = ["proxy", "KiB each", ": best peer", "RSS MiB"]
        rows = [
            [name, number(s.idle_kib, 1), f"{s.idle_kib / best:.2f}" if best else "–", number(s.rss_mib)]
            for name, s in by_proxy.items()
        ]
    else:
        head = [
            "proxy", "CPU µs/request", ": best peer", "requests/s", "its core busy", f"CPU µs at {scenario.rate:,}/s",
            "p50 µs", "p99 µs", "node requests", "S3 requests", "connects/1,000", "RSS MiB",
        ]  # fmt: skip
        rows = [
            [
                name, micro(s.cpu_us), f"{s.cpu_us / best:.2f}" if best else "–", number(s.rate), f"{s.busy:.0%}",
                micro(s.open_cpu_us), number(s.p50_us), number(s.p99_us), number(s.node_requests, 2),
                number(s.s3_requests, 2), number(s.connections, 1), number(s.rss_mib),
            ]
            for name, s in by_proxy.items()
        ]  # fmt: skip
    lines += table(head, rows)
    if scenario.kind == "mix":
        head = ["proxy", "first half: nodes", "S3", "second half: nodes", "S3", "all, second half"]
        rows = [
            [name, *(number(v, 3) for half in s.halves for v in half), number(sum(s.halves[1]), 3)]
            for name, s in by_proxy.items()
        ]
        lines += ["", "Upstream requests per request:", "", *table(head, rows)]
    if left_out:
        lines += ["", "Left out: " + "; ".join(f"{name} {why}" for name, why in left_out) + "."]
    return lines


def document(results, left_out, versions, setup):
    lines = [
        "# hopfall beside nginx, HAProxy and Varnish",
        "",
        f"Written by `{setup['command']}`: medians of {setup['rounds']} interleaved "
        f"{'round' if setup['rounds'] == 1 else 'rounds'} of {setup['seconds']:g} s closed and {setup['seconds']:g} s "
        f"open loop, on {setup['cores']} cores, of which other programs meanwhile used {setup['others']:.2f}.",
        ", ".join(f"{name} {version}" for name, version in versions.items() if "+" not in name) + ".",
        "",
        "One proxy thread on one core; load program, two nginx nodes and an nginx in S3's place together on another. "
        "Loopback, warm page cache, access logs off, upstream keep-alive, no caching. 32 connections unless said "
        "otherwise. hopfall signs its S3 requests (SigV4), the others cannot. `hopfall+map` is hopfall with `location: {}`: "
        "it remembers who had a path and asks that one first, and what nobody had is 404 for 30 s without asking. "
        "`hopfall+disk` also keeps what S3 answered, in 1 GiB of disk and 64 MiB of memory.",
        "",
        "- **CPU**: user and system time of the proxy's processes alone, per request, in closed loop. It is what the "
        "ratios compare, and lower is better.",
        "- **requests/s**: closed loop. Where *its core busy* is below 100 %, load and nodes were the limit, not the "
        "proxy; it could do more.",
        "- **p50, p99**: open loop at the fixed rate of the column before, from when a request was due.",
        "- **node requests, S3 requests**: per client request; **connects**: opened upstream, per 1,000 client "
        "requests. Both are counted by the nodes (`stub_status`), in closed loop, after a warm-up.",
        "- **RSS**: at the end, all processes of the proxy added.",
        "",
        "## CPU at a glance",
        "",
        *summary(results, list(versions)),
        "",
        "## By scenario",
    ]
    for scenario in scenarios.ALL:
        if scenario.name in results:
            lines += detail(scenario, results[scenario.name], left_out.get(scenario.name, []))
    return "\n".join(lines) + "\n"
