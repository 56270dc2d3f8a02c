/*
 * One-threaded HTTP load over loopback: closed loop, or open loop at a fixed rate.
 *
 *   load --port P (--path /x | --paths FILE) [--connections N] (--seconds S | --requests N)
 *        [--rate R] [--tls] [--h2 --streams M] [--close] [--expect 200] [--hold]
 *
 * Prints one line of JSON. In open loop, request i is due at start + i / rate whatever the proxy does, and its latency
 * counts from then, so that a stall is paid by every request that it delays (no coordinated omission).
 * --hold asks once on each connection, prints, and keeps all of them open until its standard input ends.
 *
 * It checks status and length of every answer, and never looks at the body: bodies are dropped inside the kernel
 * (MSG_TRUNC) where they are plain. bench.py compares contents once, before the load.
 *
 * HTTP/2 is only what the bench needs: prior knowledge, one literal header block, status from the static table.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 16384, OUT_MAX = 8192, SLOTS_MAX = 128, READ_MAX = 262144, OPENING_MAX = 128 };

enum read_state { AT_HEAD, AT_LENGTH, AT_CHUNK_SIZE, AT_CHUNK_DATA, AT_TRAILER, AT_CLOSE };

struct slot {
    struct conn *conn;
    int busy;
    uint32_t stream; /* HTTP/2 only */
    uint64_t due;    /* when the request was to be sent, ns */
    int status;
};

struct conn {
    int fd; /* -1: not open */
    int connected, want_write;
    SSL *tls;
    char out[OUT_MAX];
    size_t out_at, out_end;
    char head[HEAD_MAX];
    size_t head_len;
    enum read_state state;
    uint64_t left;
    int last; /* the server says that it will close */
    /* HTTP/2 */
    uint32_t next_stream;
    unsigned char frame[9];
    size_t frame_len;
    uint32_t frame_left, unacknowledged;
    struct slot slots[SLOTS_MAX];
};

static struct {
    int port, connections, use_tls, h2, streams, close, expect, hold;
    double seconds, rate;
    uint64_t requests;
} opt = {.connections = 32, .streams = 8, .expect = 200};

static char **paths;
static size_t paths_count, paths_next;
static struct conn *conns;
static struct slot **idle;
static size_t idle_count;
static int poller, timer;
static SSL_CTX *tls_context;
static char chunk[READ_MAX];

static uint64_t started, ends, last_done;
static uint64_t issued, done, unexpected, errors, bytes, opened, in_flight, held;
static uint32_t *latencies; /* in 100 ns */
static size_t latencies_room;

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- connections ---- */

static void watch(struct conn *c, int writable) {
    if (c->want_write == writable) return;
    c->want_write = writable;
    struct epoll_event e = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e)) die("epoll_ctl");
}

static void put(struct conn *c, const void *data, size_t n) {
    if (c->out_at == c->out_end) c->out_at = c->out_end = 0;
    if (c->out_end + n > OUT_MAX) {
        memmove(c->out, c->out + c->out_at, c->out_end - c->out_at);
        c->out_end -= c->out_at;
        c->out_at = 0;
    }
    if (c->out_end + n > OUT_MAX) die("the output buffer is full");
    memcpy(c->out + c->out_end, data, n);
    c->out_end += n;
}

static void open_conn(struct conn *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    opened++;
    c->connected = 0;
    c->want_write = 1;
    c->out_at = c->out_end = c->head_len = c->frame_len = 0;
    c->frame_left = c->unacknowledged = 0;
    c->state = AT_HEAD;
    c->last = 0;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
    if (opt.use_tls) {
        c->tls = SSL_new(tls_context);
        SSL_set_fd(c->tls, c->fd);
        SSL_set_connect_state(c->tls);
    }
    if (opt.h2) {
        static const unsigned char hello[] =
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            "\0\0\x0c\x04\0\0\0\0\0"                                /* SETTINGS: no push, largest stream window */
            "\0\x02\0\0\0\0\0\x04\x7f\xff\xff\xff"
            "\0\0\x04\x08\0\0\0\0\0\x7f\xfe\0\0";                     /* WINDOW_UPDATE of the connection */
        put(c, hello, sizeof hello - 1);
        c->next_stream = 1;
    }
}

static void close_conn(struct conn *c) {
    if (c->tls) {
        SSL_set_quiet_shutdown(c->tls, 1);
        SSL_free(c->tls);
        c->tls = NULL;
    }
    close(c->fd);
    c->fd = -1;
}

static void flush(struct conn *c) {
    while (c->out_at < c->out_end) {
        size_t n = c->out_end - c->out_at;
        ssize_t sent;
        if (c->tls) {
            sent = SSL_write(c->tls, c->out + c->out_at, (int)n);
            if (sent <= 0) {
                watch(c, SSL_get_error(c->tls, (int)sent) == SSL_ERROR_WANT_WRITE);
                return;
            }
        } else {
            sent = send(c->fd, c->out + c->out_at, n, MSG_NOSIGNAL);
            if (sent < 0) {
                if (errno == EAGAIN) watch(c, 1);
                return; /* anything else shows when reading */
            }
        }
        c->out_at += (size_t)sent;
    }
    watch(c, 0);
}

/* ---- requests ---- */

static size_t literal(unsigned char *to, unsigned name, const char *value) {
    size_t n = strlen(value), at = 0; /* without indexing, name of the static table (below 15), plain value */
    to[at++] = (unsigned char)name;
    if (n < 127) {
        to[at++] = (unsigned char)n;
    } else {
        to[at++] = 127;
        to[at++] = (unsigned char)(n - 127); /* paths here are below 254 bytes */
    }
    memcpy(to + at, value, n);
    return at + n;
}

static void send_request(struct slot *s, uint64_t due) {
    struct conn *c = s->conn;
    const char *path = paths[paths_next];
    paths_next = (paths_next + 1) % paths_count;
    if (c->fd < 0) open_conn(c);
    s->busy = 1;
    s->due = due;
    s->status = 0;
    issued++;
    in_flight++;
    if (opt.h2) {
        unsigned char f[600];
        size_t n = 9;
        f[n++] = 0x82; /* :method GET */
        f[n++] = opt.use_tls ? 0x87 : 0x86;
        n += literal(f + n, 4, path);
        n += literal(f + n, 1, "bench.example");
        f[n++] = 0x0f, f[n++] = 58 - 15; /* user-agent */
        f[n++] = 4, memcpy(f + n, "load", 4), n += 4;
        f[n++] = 0x0f, f[n++] = 19 - 15; /* accept */
        f[n++] = 3, memcpy(f + n, "*/*", 3), n += 3;
        s->stream = c->next_stream;
        c->next_stream += 2;
        uint32_t length = (uint32_t)n - 9, stream = htonl(s->stream);
        f[0] = (unsigned char)(length >> 16), f[1] = (unsigned char)(length >> 8), f[2] = (unsigned char)length;
        f[3] = 1, f[4] = 0x05; /* HEADERS, with END_STREAM and END_HEADERS */
        memcpy(f + 5, &stream, 4);
        put(c, f, n);
    } else {
        char r[600];
        int n = snprintf(r, sizeof r, "GET %s HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: load\r\nAccept: */*\r\n%s\r\n",
                         path, opt.close ? "Connection: close\r\n" : "");
        c->state = AT_HEAD;
        c->head_len = 0;
        put(c, r, (size_t)n);
    }
    if (c->connected) flush(c);
}

static void arm(void) {
    uint64_t due = started + (uint64_t)((double)issued * 1e9 / opt.rate);
    struct itimerspec t = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &t, NULL)) die("timerfd_settime");
}

static int may_issue(void) {
    if (opt.requests && issued >= opt.requests) return 0;
    return !ends || now_ns() < ends;
}

static void next_for(struct slot *s) {
    if (opt.hold) {
        held++;
        if (issued < (uint64_t)opt.connections) send_request(&conns[issued].slots[0], now_ns());
        return;
    }
    if (opt.rate == 0) {
        if (may_issue()) send_request(s, now_ns());
        return;
    }
    uint64_t due = started + (uint64_t)((double)issued * 1e9 / opt.rate);
    if (issued < opt.requests && due <= now_ns())
        send_request(s, due);
    else if (idle[idle_count++] = s, idle_count == 1)
        arm();
}

static void finish(struct slot *s, int failed) {
    last_done = now_ns();
    s->busy = 0;
    in_flight--;
    if (failed) {
        errors++;
        if (errors > 1000) die("more than 1000 requests failed");
    } else {
        if (s->status != opt.expect) unexpected++;
        if (done == latencies_room) {
            latencies_room = latencies_room ? latencies_room * 2 : 1 << 16;
            latencies = realloc(latencies, latencies_room * sizeof *latencies);
            if (!latencies) die("realloc");
        }
        uint64_t took = (last_done - s->due) / 100;
        latencies[done++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    }
}

static void drop(struct conn *c) {
    close_conn(c);
    for (int i = 0; i < opt.streams; i++)
        if (c->slots[i].busy) {
            finish(&c->slots[i], 1);
            next_for(&c->slots[i]);
        }
}

/* ---- HTTP/1.1 answers ---- */

static void answered(struct conn *c) {
    struct slot *s = &c->slots[0];
    finish(s, 0);
    if (c->last || opt.close) close_conn(c);
    next_for(s);
}

/* Takes n bytes of an answer; false when the connection is gone or starts anew. */
static int take_h1(struct conn *c, const char *p, size_t n) {
    while (n) {
        if (!c->slots[0].busy) return drop(c), 0; /* bytes that nobody asked for */
        if (c->state == AT_HEAD) {
            size_t before = c->head_len, room = HEAD_MAX - 1 - before, add = n < room ? n : room;
            memcpy(c->head + before, p, add);
            c->head_len += add;
            c->head[c->head_len] = 0;
            char *end = memmem(c->head, c->head_len, "\r\n\r\n", 4);
            if (!end) {
                if (add == room) return drop(c), 0;
                return 1;
            }
            size_t used = (size_t)(end + 4 - c->head) - before;
            p += used, n -= used;
            end[2] = 0;
            c->slots[0].status = atoi(c->head + 9);
            c->state = AT_CLOSE;
            for (char *line = strstr(c->head, "\r\n"); line && line[2]; line = strstr(line + 2, "\r\n")) {
                char *field = line + 2;
                if (!strncasecmp(field, "content-length:", 15)) {
                    c->state = AT_LENGTH;
                    c->left = strtoull(field + 15, NULL, 10);
                } else if (!strncasecmp(field, "transfer-encoding: chunked", 26)) {
                    c->state = AT_CHUNK_SIZE;
                    c->left = 0;
                } else if (!strncasecmp(field, "connection: close", 17)) {
                    c->last = 1;
                }
            }
            if (c->state == AT_LENGTH && !c->left) {
                answered(c);
                return n == 0 && c->fd >= 0;
            }
        } else if (c->state == AT_LENGTH || c->state == AT_CHUNK_DATA) {
            size_t used = n < c->left ? n : (size_t)c->left;
            p += used, n -= used, c->left -= used;
            if (c->left) return 1;
            if (c->state == AT_LENGTH) {
                answered(c);
                return n == 0 && c->fd >= 0;
            }
            c->state = AT_CHUNK_SIZE;
        } else if (c->state == AT_CHUNK_SIZE) { /* digits, CR, LF; extensions do not come */
            char b = *p++;
            n--;
            if (b >= '0' && b <= '9') c->left = c->left * 16 + (uint64_t)(b - '0');
            if ((b | 32) >= 'a' && (b | 32) <= 'f') c->left = c->left * 16 + (uint64_t)((b | 32) - 'a' + 10);
            if (b == '\n') {
                c->state = c->left ? AT_CHUNK_DATA : AT_TRAILER;
                c->left = c->left ? c->left + 2 : 2;
            }
        } else if (c->state == AT_TRAILER) { /* the last CR LF */
            p++, n--;
            if (--c->left == 0) {
                answered(c);
                return n == 0 && c->fd >= 0;
            }
        } else {
            return 1; /* AT_CLOSE: ends when the connection does */
        }
    }
    return 1;
}

/* ---- HTTP/2 answers ---- */

static int h2_status(const unsigned char *p, size_t n, int flags) {
    size_t skip = (flags & 0x08 ? 1u : 0u) + (flags & 0x20 ? 5u : 0u);
    while (skip < n && (p[skip] & 0xe0) == 0x20) skip++; /* a new table size below 31 */
    static const int table[] = {200, 204, 206, 304, 400, 404, 500};
    return skip < n && p[skip] >= 0x88 && p[skip] <= 0x8e ? table[p[skip] - 0x88] : 0;
}

static int take_h2(struct conn *c, const unsigned char *p, size_t n) {
    while (n) {
        if (c->frame_len < 9) {
            c->frame[c->frame_len++] = *p++;
            n--;
            if (c->frame_len < 9) continue;
            c->frame_left = (uint32_t)c->frame[0] << 16 | (uint32_t)c->frame[1] << 8 | c->frame[2];
            c->head_len = 0;
            if (c->frame[3] == 0) c->unacknowledged += c->frame_left;
        }
        int type = c->frame[3], flags = c->frame[4];
        size_t used = n < c->frame_left ? n : c->frame_left;
        if (type != 0) {
            if (c->head_len + used > HEAD_MAX) return drop(c), 0;
            memcpy(c->head + c->head_len, p, used);
            c->head_len += used;
        }
        p += used, n -= used, c->frame_left -= (uint32_t)used;
        if (c->frame_left) return 1;
        c->frame_len = 0;

        uint32_t stream = ((uint32_t)c->frame[5] << 24 | (uint32_t)c->frame[6] << 16 | (uint32_t)c->frame[7] << 8 | c->frame[8]) & 0x7fffffff;
        struct slot *s = NULL;
        for (int i = 0; stream && i < opt.streams; i++)
            if (c->slots[i].busy && c->slots[i].stream == stream) s = &c->slots[i];
        if (type == 4 && !(flags & 1)) {
            put(c, "\0\0\0\x04\x01\0\0\0\0", 9);
        } else if (type == 6 && !(flags & 1)) {
            put(c, "\0\0\x08\x06\x01\0\0\0\0", 9);
            put(c, c->head, 8);
        } else if (type == 7 || (type == 3 && s)) {
            return drop(c), 0;
        } else if (type == 1 && s && !s->status) {
            s->status = h2_status((unsigned char *)c->head, c->head_len, flags);
        }
        if (c->unacknowledged > 1u << 30) {
            uint32_t more = htonl(c->unacknowledged);
            put(c, "\0\0\x04\x08\0\0\0\0\0", 9);
            put(c, &more, 4);
            c->unacknowledged = 0;
        }
        if ((type == 0 || type == 1) && (flags & 1) && s) {
            finish(s, 0);
            next_for(s);
        }
    }
    flush(c);
    return 1;
}

/* ---- events ---- */

static void on_readable(struct conn *c) {
    for (;;) {
        ssize_t n;
        int dropped = !c->tls && !opt.h2 && c->state == AT_LENGTH && c->left > 4096;
        if (c->tls) {
            n = SSL_read(c->tls, chunk, READ_MAX);
            if (n <= 0) {
                int why = SSL_get_error(c->tls, (int)n);
                if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return;
                n = 0;
            }
        } else if (dropped) {
            n = recv(c->fd, NULL, c->left, MSG_TRUNC);
        } else {
            n = recv(c->fd, chunk, READ_MAX, 0);
        }
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            if (n == 0 && c->state == AT_CLOSE && c->slots[0].busy) {
                c->last = 1;
                answered(c);
            } else {
                drop(c);
            }
            return;
        }
        bytes += (uint64_t)n;
        int goes_on = dropped ? take_h1(c, NULL, (size_t)n) : opt.h2 ? take_h2(c, (unsigned char *)chunk, (size_t)n) : take_h1(c, chunk, (size_t)n);
        if (!goes_on || c->fd < 0) return;
        if (!c->tls && (size_t)n < READ_MAX && !dropped) return; /* level-triggered: the rest wakes us again */
    }
}

static void on_event(struct conn *c, uint32_t events) {
    if (c->fd < 0) return;
    if (!c->connected && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            drop(c);
            return;
        }
        c->connected = 1;
    }
    if (c->connected && c->out_at < c->out_end) flush(c);
    else if (events & EPOLLOUT) watch(c, 0);
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) on_readable(c);
    if (c->fd >= 0 && c->tls && c->out_at < c->out_end) flush(c); /* the handshake went on */
}

static void issue_due(void) {
    uint64_t now = now_ns();
    while (idle_count && issued < opt.requests) {
        uint64_t due = started + (uint64_t)((double)issued * 1e9 / opt.rate);
        if (due > now) break;
        send_request(idle[--idle_count], due);
    }
    if (idle_count && issued < opt.requests) arm();
}

/* ---- the run ---- */

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double p) {
    if (!done) return 0;
    size_t at = (size_t)(p * (double)done);
    return (double)latencies[at < done ? at : done - 1] / 10.0;
}

static void report(void) {
    qsort(latencies, done, sizeof *latencies, by_size);
    printf("{\"requests\":%llu,\"seconds\":%.6f,\"bytes\":%llu,\"unexpected\":%llu,\"errors\":%llu,\"connections\":%llu,"
           "\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}\n",
           (unsigned long long)done, (double)(last_done - started) / 1e9, (unsigned long long)bytes,
           (unsigned long long)unexpected, (unsigned long long)errors, (unsigned long long)opened,
           percentile(0.5), percentile(0.99), percentile(1));
    fflush(stdout);
}

static void add_path(const char *path, size_t n) {
    static size_t room;
    if (paths_count == room) {
        room = room ? room * 2 : 1024;
        paths = realloc(paths, room * sizeof *paths);
        if (!paths) die("realloc");
    }
    paths[paths_count++] = strndup(path, n);
}

static void read_paths(const char *file) {
    FILE *f = fopen(file, "r");
    char line[512];
    if (!f) die(file);
    while (fgets(line, sizeof line, f)) add_path(line, strcspn(line, "\r\n"));
    fclose(f);
}

static void read_options(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (!strcmp(name, "--tls")) { opt.use_tls = 1; continue; }
        if (!strcmp(name, "--h2")) { opt.h2 = 1; continue; }
        if (!strcmp(name, "--close")) { opt.close = 1; continue; }
        if (!strcmp(name, "--hold")) { opt.hold = 1; continue; }
        const char *value = ++i < argc ? argv[i] : "";
        if (!strcmp(name, "--port")) opt.port = atoi(value);
        else if (!strcmp(name, "--path")) add_path(value, strlen(value));
        else if (!strcmp(name, "--paths")) read_paths(value);
        else if (!strcmp(name, "--from")) paths_next = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--connections")) opt.connections = atoi(value);
        else if (!strcmp(name, "--streams")) opt.streams = atoi(value);
        else if (!strcmp(name, "--expect")) opt.expect = atoi(value);
        else if (!strcmp(name, "--seconds")) opt.seconds = atof(value);
        else if (!strcmp(name, "--requests")) opt.requests = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--rate")) opt.rate = atof(value);
        else { fprintf(stderr, "load: unknown option %s\n", name); exit(2); }
    }
    if (!opt.h2) opt.streams = 1;
    if (!opt.port || !paths_count || opt.connections < 1 || opt.streams < 1 || opt.streams > SLOTS_MAX ||
        (opt.seconds <= 0 && !opt.requests && !opt.hold)) {
        fprintf(stderr, "load: see the head of load.c for the options\n");
        exit(2);
    }
    paths_next %= paths_count;
    if (opt.rate > 0 && !opt.requests) opt.requests = (uint64_t)(opt.rate * opt.seconds);
}

static void wait_for_events(int timeout) {
    struct epoll_event events[256];
    int n = epoll_wait(poller, events, 256, timeout);
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr == &timer) {
            uint64_t ticks;
            if (read(timer, &ticks, sizeof ticks) > 0) issue_due();
        } else {
            on_event(events[i].data.ptr, events[i].events);
        }
    }
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &timer};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e)) die("epoll_ctl");
    if (opt.use_tls) { /* one version, cipher and curve, so that every proxy does the same work */
        tls_context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_min_proto_version(tls_context, TLS1_3_VERSION);
        SSL_CTX_set_ciphersuites(tls_context, "TLS_AES_128_GCM_SHA256");
        SSL_CTX_set1_groups_list(tls_context, "X25519");
        SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }

    size_t all = (size_t)opt.connections * (size_t)opt.streams;
    conns = calloc((size_t)opt.connections, sizeof *conns);
    idle = calloc(all, sizeof *idle);
    if (!conns || !idle) die("calloc");
    for (int i = 0; i < opt.connections; i++) {
        conns[i].fd = -1;
        for (int j = 0; j < opt.streams; j++) conns[i].slots[j].conn = &conns[i];
    }

    started = last_done = now_ns();
    if (opt.seconds > 0 && opt.rate == 0) ends = started + (uint64_t)(opt.seconds * 1e9);
    if (opt.hold) {
        for (int i = 0; i < opt.connections && i < OPENING_MAX; i++) send_request(&conns[i].slots[0], now_ns());
    } else {
        for (int j = 0; j < opt.streams; j++)
            for (int i = 0; i < opt.connections; i++) {
                struct slot *s = &conns[i].slots[j];
                if (opt.rate > 0) idle[idle_count++] = s;
                else if (may_issue()) send_request(s, now_ns());
            }
        if (opt.rate > 0) issue_due();
    }

    /* Bounded: 30 seconds past the last request that was to be sent. */
    uint64_t limit = started + (uint64_t)((opt.seconds + (opt.rate > 0 ? (double)opt.requests / opt.rate : 0)) * 1e9) + 30000000000u;
    if (opt.requests && opt.rate == 0) limit += 60000000000u;
    while (in_flight || (opt.rate > 0 && issued < opt.requests)) {
        wait_for_events(100);
        if (now_ns() > limit) {
            fprintf(stderr, "load: out of time with %llu requests in flight\n", (unsigned long long)in_flight);
            errors += in_flight + (opt.rate > 0 ? opt.requests - issued : 0);
            break;
        }
    }
    report();
    if (opt.hold) {
        char c;
        while (read(0, &c, 1) > 0) {}
    }
    return 0;
}
