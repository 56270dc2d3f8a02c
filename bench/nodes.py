"""The servers behind the proxies: two storage nodes and a stand-in for S3, all nginx, and the files that they hold.

The stand-in answers anonymous GETs, because none of the peers can sign. hopfall signs to it all the same.
Objects of one size are hard links to one file, so that disk and page cache stay out of what is measured.
"""

import hashlib
import math
import os
import random
import subprocess
import urllib.request
from pathlib import Path

from processes import Server, free_port

KIB, MIB = 1024, 1024 * 1024
BUCKET = "bench"
FILES_PER_KIND = 100
STREAM = "/stream/64m"
MIX_OBJECTS = 20_000
MIX_LARGEST_KIB = 200
MIX_ON_EACH_NODE = 0.6

NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {dir}/pid;
error_log stderr crit;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    log_not_found off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    open_file_cache max=50000 inactive=600s;
    open_file_cache_valid 600s;
    open_file_cache_errors on;
    default_type image/jpeg;
    client_body_temp_path {dir}/tmp; proxy_temp_path {dir}/tmp; fastcgi_temp_path {dir}/tmp;
    uwsgi_temp_path {dir}/tmp; scgi_temp_path {dir}/tmp;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {root};
        location = /stub_status {{ stub_status; }}
        location /{bucket}/ {{ alias {root}/; }}
    }}
}}
"""


class Node(Server):
    """One nginx with files. `counts` says how many connections and requests it has had."""

    def __init__(self, name, root, work):
        self.port = free_port()
        self.reads = 0
        directory = work / f"node-{name}"
        (directory / "tmp").mkdir(parents=True)
        conf = directory / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(NGINX.format(dir=directory, user=user, port=self.port, root=root, bucket=BUCKET))
        super().__init__(name, ["nginx", "-c", str(conf), "-e", "stderr"], directory / "log", [self.port])

    def counts(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stub_status", timeout=5) as answer:
            accepts, _, requests = answer.read().split(b"\n")[2].split()
        self.reads += 1  # each reading is a connection and a request too
        return int(accepts) - self.probes - self.reads, int(requests) - self.reads


class Nodes:
    def __init__(self, work):
        self.mix = [f"/mix/{i % 100:02}/{i:05}.jpg" for i in range(MIX_OBJECTS)]
        roots = {name: work / "files" / name for name in ("a", "b", "s3")}
        write_files(work / "files" / "contents", roots, self.mix)
        self.a, self.b, self.s3 = (Node(name, root, work) for name, root in roots.items())
        self.roots = roots

    def start(self):
        for node in (self.a, self.b, self.s3):
            node.start()

    def stop(self):
        for node in (self.a, self.b, self.s3):
            node.stop()

    def counts(self):
        """(requests to nodes, requests to S3, connections to all of them) since the start."""
        (ca, ra), (cb, rb), (cs, rs) = self.a.counts(), self.b.counts(), self.s3.counts()
        return ra + rb, rs, ca + cb + cs

    def content(self, path):
        """What a proxy must answer for this path, or None if nobody has it."""
        for root in self.roots.values():
            if (root / path[1:]).exists():
                return (root / path[1:]).read_bytes()
        return None

    def zipf(self, draws, seed=1):
        """Paths of the mix in the order of requests: rank r with weight 1/r."""
        chosen = random.Random(seed)
        ranked = self.mix[:]
        chosen.shuffle(ranked)
        return chosen.choices(ranked, weights=[1 / rank for rank in range(1, len(ranked) + 1)], k=draws)


def paths(kind):
    return [f"/{kind}/{i:02}.jpg" for i in range(FILES_PER_KIND)]


def write_files(contents, roots, mix):
    """Who holds what. `nowhere` is the kind that nobody holds."""
    contents.mkdir(parents=True)

    def of_size(size):
        file = contents / str(size)
        if not file.exists():
            file.write_bytes(random.Random(size).randbytes(size))
        return file

    def place(size, path, *names):
        for name in names:
            target = roots[name] / path[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(of_size(size), target)

    for path in paths("hit-1k"):
        place(KIB, path, "a", "b")
    for path in paths("hit-40k"):
        place(40 * KIB, path, "a", "b")
    for path in paths("fallback"):
        place(KIB, path, "b")
    for path in paths("s3-tail"):
        place(KIB, path, "s3")
    place(64 * MIB, STREAM, "a", "b")
    for path in mix:
        digest = hashlib.sha256(path.encode()).digest()
        on_a, on_b, large = (int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8, 16))
        size = KIB * round(math.exp(large * math.log(MIX_LARGEST_KIB)))  # as many of 1-2 KiB as of 100-200 KiB
        holders = [n for n, on in (("a", on_a), ("b", on_b)) if on < MIX_ON_EACH_NODE]
        place(size, path, *holders or ["s3"])


def nginx_version():
    said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return said.rsplit("/", 1)[1].split()[0]


def self_signed(work):
    """A certificate for the TLS scenario: (certificate, key, both in one file)."""
    certificate, key, both = work / "cert.pem", work / "key.pem", work / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=bench.example", "-addext", "subjectAltName=DNS:bench.example",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_bytes(Path(certificate).read_bytes() + Path(key).read_bytes())
    return certificate, key, both
