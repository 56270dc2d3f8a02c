"""The proxies side by side: hopfall and its peers, each with one thread on one core and the same upstreams.

For HTTP each has up to five doors:
  web    two nodes of equal weight, then S3
  first  the same with 255 : 1 for node a, which is so asked first by (almost) every request
  chain  web, where S3 must be reachable: HAProxy needs a detour for that
  tls    web over TLS 1.3
  h2     web over cleartext HTTP/2 with prior knowledge

For layer 4 another process has one, `tcp`: two nodes of equal weight, and each client's bytes to one of them.

Keep-alive limits are out of the way everywhere, access logs off unless asked for. What else is tuned, and why, stands
beside it; the rest is each program's default.
"""

import os
import re
import shutil
import subprocess

from nodes import BUCKET, nginx_version
from processes import Server, free_port

CLIENTS = 10_900  # connections that each must take: 10,000 idle ones and some more


class Proxy(Server):
    NAME = ""
    CANNOT = {}  # scenario: why it is left out
    ONLY = ()  # scenarios that it is for, if not for all

    def __init__(self, world, scenario):
        self.access_log, self.tcp = scenario.access_log, scenario.door == "tcp"
        self.work = world.work / f"{self.NAME}{'-log' if self.access_log else ''}{'-tcp' if self.tcp else ''}"
        self.work.mkdir(exist_ok=True)
        self.doors = {door: free_port() for door in (("tcp",) if self.tcp else self.DOORS)}
        super().__init__(
            self.NAME, self.build(world), self.work / "output", list(self.doors.values()), world.proxy_core, self.ENV
        )

    DOORS = ("web", "first", "tls", "h2")
    ENV = {}
    CONFIG = ""
    TCP = ""  # the configuration for layer 4

    @classmethod
    def takes_part(cls, scenario):
        return scenario.name not in cls.CANNOT and scenario.name in (cls.ONLY or (scenario.name,))

    def door(self, name):
        return self.doors.get(name) or self.doors["web"]

    def build(self, world):
        """Writes the configuration; the command line that runs it."""
        raise NotImplementedError

    @staticmethod
    def version(world):
        raise NotImplementedError


class Hopfall(Proxy):
    NAME = "hopfall"
    DOORS = ("web", "first", "tls")
    LOCATION = ""
    DISK = ""
    ENV = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}

    # from_nodes: trust, because clients and nodes share 127.0.0.1 here (conf/full.yaml).
    CONFIG = """\
threads: 1
shutdown_timeout: 1s
{location}
log:
  level: error
  access: {access}
listeners:
  - {{ name: web, address: "127.0.0.1:{web}", route: even, {limits} }}
  - {{ name: first, address: "127.0.0.1:{first}", route: first, {limits} }}
  - name: tls
    address: "127.0.0.1:{tls}"
    protocol: https
    route: even
    tls: {{ certificate: "{certificate}", key: "{key}" }}
    requests_per_connection: 100000000
pools:
  even:
    from_nodes: trust
    nodes:
      - {{ name: a, address: "127.0.0.1:{a}" }}
      - {{ name: b, address: "127.0.0.1:{b}" }}
  first:
    from_nodes: trust
    nodes:
      - {{ name: a, address: "127.0.0.1:{a}", weight: 255 }}
      - {{ name: b, address: "127.0.0.1:{b}", weight: 1 }}
stores:
  s3:
    kind: s3
    bucket: {bucket}
    region: us-east-1
    endpoint: "http://127.0.0.1:{s3}"
    addressing: path
    credentials: env
    on_403: not_found
{disk}
routes:
  even: {{ chain: [even, s3] }}
  first: {{ chain: [first, s3] }}
"""

    # max_in_flight: as many connections as clients open.
    TCP = """\
threads: 1
shutdown_timeout: 1s
log: {{ level: error, access: {{ format: off }} }}
listeners:
  - {{ name: tcp, address: "127.0.0.1:{tcp}", protocol: tcp, pool: even, {limits} }}
pools:
  even:
    max_in_flight: {connections}
    nodes:
      - {{ name: a, address: "127.0.0.1:{a}" }}
      - {{ name: b, address: "127.0.0.1:{b}" }}
"""

    def build(self, world):
        access = f'{{ format: combined, path: "{self.work}/access.log" }}' if self.access_log else "{ format: off }"
        config = self.work / "hopfall.yaml"
        config.write_text(
            (self.TCP if self.tcp else self.CONFIG).format(
                **self.doors, **world.upstreams, access=access, bucket=BUCKET, location=self.LOCATION,
                disk=self.DISK.format(folder=self.folder()),
                certificate=world.certificate, key=world.key, connections=CLIENTS,
                limits=f"max_connections: {CLIENTS}" + ("" if self.tcp else ", requests_per_connection: 100000000"),
            )
        )  # fmt: skip
        return [str(world.hopfall), "run", "-c", str(config)]

    def folder(self):
        return self.work / "disk"

    def start(self):
        shutil.rmtree(self.folder(), ignore_errors=True)
        super().start()

    @staticmethod
    def version(world):
        said = subprocess.run([world.hopfall, "--version"], capture_output=True, text=True, check=True).stdout
        return f"{said.split()[1]} ({world.hopfall.parent.name} profile)"


class HopfallWithMap(Hopfall):
    """hopfall that remembers who has what; where every node has everything there is nothing to remember."""

    NAME = "hopfall+map"
    ONLY = ("fallback", "s3-tail", "nowhere", "mix", "mix-warm")
    LOCATION = "location: {}"


class HopfallWithDisk(HopfallWithMap):
    """And keeps what S3 answered."""

    NAME = "hopfall+disk"
    ONLY = ("s3-tail", "mix", "mix-warm")
    DISK = '    disk: {{ path: "{folder}", bytes: 1GiB }}'


class Nginx(Proxy):
    NAME = "nginx"
    HEAD = """\
daemon off;
{user}
worker_processes 1;
pid {dir}/pid;
error_log stderr crit;
events {{ worker_connections {connections}; }}
"""
    CONFIG = HEAD + """\
http {{
    access_log {access};
    log_not_found off;
    tcp_nodelay on;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    client_body_temp_path {dir}/tmp; proxy_temp_path {dir}/tmp; fastcgi_temp_path {dir}/tmp;
    uwsgi_temp_path {dir}/tmp; scgi_temp_path {dir}/tmp;

    upstream even {{
        server 127.0.0.1:{a} max_fails=0;
        server 127.0.0.1:{b} max_fails=0;
        keepalive 128; keepalive_requests 100000000;
    }}
    upstream first {{
        server 127.0.0.1:{a} max_fails=0 weight=255;
        server 127.0.0.1:{b} max_fails=0 weight=1;
        keepalive 128; keepalive_requests 100000000;
    }}
    upstream s3 {{ server 127.0.0.1:{s3} max_fails=0; keepalive 128; keepalive_requests 100000000; }}

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_next_upstream error timeout http_404;
    proxy_next_upstream_tries 2;
    proxy_max_temp_file_size 0; # a slow client must not make it write 64 MiB to disk
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;

    server {{
        listen 127.0.0.1:{web} backlog=4096;
        listen 127.0.0.1:{h2} http2 backlog=4096;
        listen 127.0.0.1:{tls} ssl backlog=4096;
        location / {{ proxy_pass http://even; proxy_intercept_errors on; error_page 404 = @s3; }}
        location @s3 {{ proxy_pass http://s3; }}
    }}
    server {{
        listen 127.0.0.1:{first} backlog=4096;
        location / {{ proxy_pass http://first; proxy_intercept_errors on; error_page 404 = @s3; }}
        location @s3 {{ proxy_pass http://s3; }}
    }}
}}
"""

    TCP = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n" + HEAD + """\
stream {{
    access_log off;
    upstream even {{
        server 127.0.0.1:{a} max_fails=0;
        server 127.0.0.1:{b} max_fails=0;
    }}
    server {{ listen 127.0.0.1:{tcp} backlog=4096; proxy_pass even; }}
}}
"""

    def build(self, world):
        (self.work / "tmp").mkdir(exist_ok=True)
        config = self.work / "nginx.conf"
        config.write_text(
            (self.TCP if self.tcp else self.CONFIG).format(
                **self.doors, **world.upstreams, dir=self.work,
                connections=(2 if self.tcp else 1) * CLIENTS + 512,  # at layer 4 each client has a connection to a node
                user="user root;" if os.geteuid() == 0 else "",
                access=f"{self.work}/access.log combined" if self.access_log else "off",
                certificate=world.certificate, key=world.key,
            )
        )  # fmt: skip
        return ["nginx", "-c", str(config), "-e", "stderr"]

    @staticmethod
    def version(world):
        return nginx_version()


class Haproxy(Proxy):
    NAME = "haproxy"
    DOORS = ("web", "first", "chain", "tls", "h2")

    # A retry goes to any other server, so S3 cannot be "the last one" of a backend. The door `chain` therefore has
    # two levels: its first server is HAProxy itself, in front of both nodes, and its second is S3.
    CONFIG = """\
global
    nbthread 1
    maxconn {connections}
    no strict-limits
    {log}
defaults
    mode http
    {option_log}
    option forwardfor
    option redispatch 1
    retries 1
    retry-on 404 conn-failure empty-response
    http-reuse always
    timeout connect 2s
    timeout client 300s
    timeout server 30s
    timeout http-keep-alive 300s
frontend web
    bind 127.0.0.1:{web} backlog 4096
    default_backend even
frontend first
    bind 127.0.0.1:{first} backlog 4096
    default_backend first
frontend tls
    bind 127.0.0.1:{tls} ssl crt {both} ssl-min-ver TLSv1.3 backlog 4096
    default_backend even
frontend h2
    bind 127.0.0.1:{h2} proto h2 backlog 4096
    default_backend even
frontend chain
    bind 127.0.0.1:{chain} backlog 4096
    default_backend chain
frontend inner
    bind {dir}/inner.sock
    default_backend even
backend even
    balance roundrobin
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
backend first
    balance roundrobin
    server a 127.0.0.1:{a} weight 255
    server b 127.0.0.1:{b} weight 1
backend chain
    balance first
    server inner {dir}/inner.sock
    server s3 127.0.0.1:{s3}
"""

    TCP = """\
global
    nbthread 1
    maxconn {connections}
    no strict-limits
defaults
    mode tcp
    {splice}
    timeout connect 2s
    timeout client 300s
    timeout server 300s
listen tcp
    bind 127.0.0.1:{tcp} backlog 4096
    balance roundrobin
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""
    SPLICE = "option splice-auto"  # where it thinks that it pays

    def build(self, world):
        config = self.work / "haproxy.cfg"
        config.write_text(
            (self.TCP if self.tcp else self.CONFIG).format(
                **self.doors, **world.upstreams, splice=self.SPLICE, both=world.both, dir=self.work, connections=CLIENTS,
                log="log stdout format raw local0 info" if self.access_log else "",
                option_log="log global\n    option httplog" if self.access_log else "",
            )
        )  # fmt: skip
        return ["haproxy", "-db", "-f", str(config)]

    @staticmethod
    def version(world):
        return _first_number(["haproxy", "-v"])


class HaproxyThatSplices(Haproxy):
    """Always, at layer 4."""

    NAME = "haproxy+splice"
    ONLY = ("tcp-stream", "tcp-small", "tcp-churn", "tcp-idle")
    SPLICE = "option splice-request\n    option splice-response"


class Varnish(Proxy):
    NAME = "varnish"
    DOORS = ("web", "first")
    CANNOT = {
        **dict.fromkeys(("tcp-stream", "tcp-small", "tcp-churn", "tcp-idle"), "speaks HTTP only"),
        "tls": "speaks no TLS",
        "access-log": "logs in a second process (varnishncsa)",
    }

    # What Varnish logs for each request unless told otherwise.
    LOGGED = (
        "Begin End Link SessOpen SessClose Timestamp VCL_call VCL_return VCL_use Fetch_Body Storage Filters TTL Length "
        "ReqStart ReqMethod ReqURL ReqProtocol ReqHeader ReqUnset ReqAcct RespProtocol RespStatus RespReason RespHeader "
        "RespUnset BereqMethod BereqURL BereqProtocol BereqHeader BereqUnset BereqAcct BerespProtocol BerespStatus "
        "BerespReason BerespHeader BerespUnset BackendOpen BackendReuse BackendClose"
    ).split()

    # return (pass): the bench compares the hop, not the cache.
    VCL = """\
vcl 4.1;
import directors;
backend a {{ .host = "127.0.0.1"; .port = "{a}"; }}
backend b {{ .host = "127.0.0.1"; .port = "{b}"; }}
backend s3 {{ .host = "127.0.0.1"; .port = "{s3}"; }}
sub vcl_init {{
    new even = directors.round_robin();
    even.add_backend(a);
    even.add_backend(b);
}}
sub vcl_recv {{ return (pass); }}
sub vcl_backend_fetch {{
    if (bereq.retries == 0) {{
        if (local.socket == "first") {{ set bereq.backend = a; }} else {{ set bereq.backend = even.backend(); }}
    }}
}}
sub vcl_backend_response {{
    if (beresp.status == 404 && bereq.retries < 2) {{
        if (bereq.retries == 1) {{ set bereq.backend = s3; }}
        elsif (beresp.backend == a) {{ set bereq.backend = b; }}
        else {{ set bereq.backend = a; }}
        return (retry);
    }}
    return (deliver);
}}
"""

    def build(self, world):
        vcl = self.work / "bench.vcl"
        vcl.write_text(self.VCL.format(**world.upstreams))
        listen = [word for door, port in self.doors.items() for word in ("-a", f"{door}=127.0.0.1:{port},HTTP")]
        parameters = {
            "thread_pools": 1,
            "thread_pool_min": 100,  # so that no thread is created while measuring
            "thread_pool_max": 1000,
            "listen_depth": 4096,
            "feature": "+http2",
            "vsl_mask": ",".join(f"-{tag}" for tag in self.LOGGED),  # its log in shared memory is its access log
            "timeout_idle": 300,
        }
        return [
            "varnishd", "-F", "-j", "none", "-n", str(self.work / "state"), "-f", str(vcl),
            "-s", "malloc,256m", "-T", "none", *listen,
            *(word for name, value in parameters.items() for word in ("-p", f"{name}={value}")),
        ]  # fmt: skip

    @staticmethod
    def version(world):
        return _first_number(["varnishd", "-V"])


def _first_number(command):
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)[0]


ALL = (Hopfall, HopfallWithMap, HopfallWithDisk, Nginx, Haproxy, HaproxyThatSplices, Varnish)
