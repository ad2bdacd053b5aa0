/* The load generator of bench.fanout: one thread, one epoll, thousands of sockets, every message counted.

   It connects SUBSCRIBERS WebSockets to a server on this machine and publishes through one connection more, at a set pace
   or with a set number unanswered. In each message of 200 bytes stand the time it was sent and its number, so that every
   socket is held against the same rule whatever the server is: number after number, none missing, none twice. Seriatim's
   serials are checked besides, and its messages acknowledged at the cadence that it asks for.

   The server's CPU is read from its process clocks between phases, when nothing is on the way any more: what is counted
   is the whole of what the deliveries cost, acks among it. Results are lines of JSON on standard output.

   Built and called by bench/fanout/load.py. Linux only. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ULL
#define DATA_BYTES 198          /* a JSON string of 200 bytes with its quotes */
#define MARK "~T"               /* then 16 hexadecimal digits of nanoseconds and 8 of the message's number */
#define MARK_BYTES 26
#define READ_BYTES (1 << 20)    /* more than a socket holds, so that a short read means: drained */
#define EVENTS 1024
#define NAP_NS 100000          /* a tenth of a millisecond, which latencies are longer by at most */
#define RING 4096               /* publications that may be unanswered */
#define SHAKING 64              /* connections that are being opened at the same time */
#define CONNECT_LIMIT_S 120
#define SETTLE_MS 30            /* after the last delivery: acks that are on the way */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="           /* of RFC 6455 §1.3, */
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="    /* which also says what it is answered with */

enum dialect { FLOOR, NCHAN, SERIATIM, WS, SOCKETIO, CHANNELS };
static const char *const DIALECTS[] = {"floor", "nchan", "seriatim", "ws", "socketio", "channels"};
static const char *const PATHS[] = {"/", "/sub", "/ws", "/", "/socket.io/?EIO=4&transport=websocket", "/ws/"};

enum stage { CLOSED, SHAKE, GREET, JOIN, LIVE };

struct conn {
    int fd;
    enum stage stage;
    bool publishes, is_http, ack_due;
    uint32_t index;
    char *rest, *out;           /* half a frame that came; what the kernel did not take */
    size_t rest_bytes, out_bytes;
    uint32_t next_number;       /* of the message that comes next */
    uint64_t serial, processed, acked_after, last_ns;
};

static enum dialect dialect;
static int port, subscribers, conns_count, epoll_fd, timer_fd;
static bool acks_wanted = true;
static double drain_s = 120;    /* how long what was published may take to arrive */
static enum { NAP, SLEEP, SPIN } reader;
static const char *channel = "bench";
static char **tokens;
static struct conn *conns, *publisher;
static char *buffer;

static int live, ack_every, ack_ms, window;
static uint32_t published;      /* the number of the next message, since the start */
static uint64_t sent, answered, unsent, sent_ns[RING];
static int ahead = 64;          /* unanswered at a set pace; a server that is further behind does not hold the pace */
static int unanswered_most;     /* without a pace */
static bool floor_done;

/* What is counted within a phase. */
static uint64_t delivered, doubles, disorder, closed, errors, acks, reads, received_bytes, last_delivery_ns;
static char first_error[400];

/* ---------------------------------------------------------------- small things */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

static void fail(const char *form, ...) {
    va_list values;
    va_start(values, form);
    fputs("load: ", stderr);
    vfprintf(stderr, form, values);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t random_state;
static uint64_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}
static double random_unit(void) { return (random_bits() >> 11) * 0x1p-53; }

static void keep(char **where, size_t *size, const char *data, size_t more) {
    *where = realloc(*where, *size + more);
    if (*where == NULL) fail("no memory");
    memcpy(*where + *size, data, more);
    *size += more;
}

static void forget(char **where, size_t *size) {
    free(*where);
    *where = NULL;
    *size = 0;
}

/* Nanoseconds in buckets of 1/32 of their power of two: a percentile is right to 3 %. */
#define FINE 5
#define BUCKETS (64 << FINE)
struct histogram { uint64_t counts[BUCKETS], total, most; };

static void record(struct histogram *h, uint64_t ns) {
    int power = 63 - __builtin_clzll(ns | (1 << FINE));
    h->counts[((power - FINE) << FINE) + (ns >> (power - FINE))]++;
    h->total++;
    if (ns > h->most) h->most = ns;
}

static double percentile_us(const struct histogram *h, double share) {
    uint64_t left = (uint64_t)ceil(share * h->total);
    for (uint64_t i = 0; i < BUCKETS && h->total; i++) {
        if (h->counts[i] < left) { left -= h->counts[i]; continue; }
        uint64_t row = i >> FINE, low = row < 2 ? i : (i - ((row - 1) << FINE)) << (row - 1), width = row < 2 ? 1 : 1ULL << (row - 1);
        double middle = low + width / 2.0;
        return (middle < h->most ? middle : h->most) / 1e3;
    }
    return 0;
}

static void print_histogram(const char *name, const struct histogram *h) {
    printf("\"%s\":{\"count\":%lu,\"p50\":%.1f,\"p95\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, h->total,
           percentile_us(h, 0.50), percentile_us(h, 0.95), percentile_us(h, 0.99), h->most / 1e3);
}

static struct histogram latencies, answers;

/* ---------------------------------------------------------------- the server, as the kernel counts it */

static int pids[64], pids_count, database, server_core, generator_core;

static double server_cpu_s(void) {
    double sum = 0;
    for (int i = 0; i < pids_count; i++) {
        clockid_t clock;
        struct timespec t;
        if (clock_getcpuclockid(pids[i], &clock) || clock_gettime(clock, &t)) fail("process %d of the server is gone", pids[i]);
        sum += t.tv_sec + t.tv_nsec / 1e9;
    }
    return sum;
}

/* Of /proc/PID/stat: user, system, and both of the children that ended. In ticks of 10 ms, as seconds. */
static bool read_stat(int pid, double found[4]) {
    char path[64], text[1024], *at;
    unsigned long user = 0, system = 0, users = 0, systems = 0;
    double tick = sysconf(_SC_CLK_TCK);
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL) return false;
    size_t size = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[size] = 0;
    if ((at = strrchr(text, ')')) == NULL) return false;
    sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %lu %lu", &user, &system, &users, &systems);
    found[0] = user / tick;
    found[1] = system / tick;
    found[2] = users / tick;
    found[3] = systems / tick;
    return true;
}

/* The part of the CPU that was spent in the kernel. */
static double server_system_s(void) {
    double sum = 0, found[4];
    for (int i = 0; i < pids_count; i++)
        if (read_stat(pids[i], found)) sum += found[1];
    return sum;
}

/* A database in processes of its own: PID is their parent, and its sessions come and go. */
static double database_cpu_s(void) {
    double found[4], sum;
    char path[64];
    int child;
    if (database == 0 || !read_stat(database, found)) return 0;
    sum = found[0] + found[1] + found[2] + found[3];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", database, database);
    FILE *file = fopen(path, "r");
    if (file == NULL) return sum;
    while (fscanf(file, "%d", &child) == 1)
        if (read_stat(child, found)) sum += found[0] + found[1] + found[2] + found[3];
    fclose(file);
    return sum;
}

/* How long a core was busy, with whatever: what was not the server, or not this generator, were the neighbours. */
static double busy_s(int core) {
    char line[512];
    unsigned long number, user = 0, nice = 0, system = 0, irq = 0, softirq = 0, steal = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (line[3] != ' ' && sscanf(line, "cpu%lu %lu %lu %lu %*u %*u %lu %lu %lu", &number, &user, &nice, &system, &irq, &softirq, &steal) > 4 &&
            number == (unsigned long)core) break;
    fclose(file);
    return (user + nice + system + irq + softirq + steal) / (double)sysconf(_SC_CLK_TCK);
}

/* Resident memory of its own: anonymous and shared, without mapped files. */
static long server_kb(void) {
    long sum = 0;
    for (int i = 0; i < pids_count; i++) {
        char path[64], line[256];
        snprintf(path, sizeof path, "/proc/%d/status", pids[i]);
        FILE *file = fopen(path, "r");
        if (file == NULL) continue;
        while (fgets(line, sizeof line, file) != NULL)
            if (!strncmp(line, "RssAnon:", 8) || !strncmp(line, "RssShmem:", 9)) sum += atol(strchr(line, ':') + 1);
        fclose(file);
    }
    return sum;
}

static long kb_before;

static double own_cpu_s(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

/* ---------------------------------------------------------------- out */

static void end(struct conn *c, const char *why) {
    if (c->stage == CLOSED) return;
    if (c->stage == LIVE) live--;
    closed++;
    if (first_error[0] == 0) snprintf(first_error, sizeof first_error, "connection %u: %s", c->index, why);
    c->stage = CLOSED;
    close(c->fd);
    c->fd = -1;
    forget(&c->rest, &c->rest_bytes);
    forget(&c->out, &c->out_bytes);
}

static void put(struct conn *c, const char *data, size_t size) {
    if (c->stage == CLOSED) return;
    if (c->out_bytes == 0) {
        ssize_t taken = send(c->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (taken < 0 && errno != EAGAIN) { end(c, strerror(errno)); return; }
        if (taken > 0) { data += taken; size -= taken; }
    }
    if (size) keep(&c->out, &c->out_bytes, data, size);
}

static void flush(struct conn *c) {
    if (c->out_bytes == 0 || c->stage == CLOSED) return;
    ssize_t taken = send(c->fd, c->out, c->out_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (taken < 0) {
        if (errno != EAGAIN) end(c, strerror(errno));
        return;
    }
    memmove(c->out, c->out + taken, c->out_bytes - taken);
    c->out_bytes -= taken;
    if (c->out_bytes == 0) forget(&c->out, &c->out_bytes);
}

/* One masked frame (RFC 6455 §5.2), at most 64 KiB. */
static void put_frame(struct conn *c, int opcode, const char *text, size_t size) {
    static unsigned char frame[65600];
    uint64_t bits = random_bits();
    unsigned char mask[4];
    size_t at = 0;
    if (size > 65535) fail("a frame of %zu bytes", size);
    memcpy(mask, &bits, 4);
    frame[at++] = 0x80 | opcode;
    if (size < 126) {
        frame[at++] = 0x80 | size;
    } else {
        frame[at++] = 0x80 | 126;
        frame[at++] = size >> 8;
        frame[at++] = size & 255;
    }
    memcpy(frame + at, mask, 4);
    at += 4;
    for (size_t i = 0; i < size; i++) frame[at + i] = text[i] ^ mask[i & 3];
    put(c, (char *)frame, at + size);
}

static void put_text(struct conn *c, const char *text) { put_frame(c, 1, text, strlen(text)); }

static void publish_one(void) {
    char data[DATA_BYTES + 1], text[1024];
    uint64_t now = now_ns();
    memset(data, 'x', DATA_BYTES);
    data[DATA_BYTES] = 0;
    snprintf(data, sizeof data, MARK "%016lx%08x", now, published);
    data[MARK_BYTES] = 'x';
    switch (dialect) {
    case SERIATIM:
        snprintf(text, sizeof text,
                 "{\"type\":\"publish\",\"ref\":%u,\"channel\":\"%s\",\"messages\":[{\"id\":\"%016lx%08x\",\"event\":\"message\",\"data\":\"%s\"}]}",
                 published, channel, now, published, data);
        put_text(publisher, text);
        break;
    case NCHAN:
        snprintf(text, sizeof text, "POST /pub HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", DATA_BYTES, data);
        put(publisher, text, strlen(text));
        break;
    case WS:
        put_text(publisher, data);
        break;
    case SOCKETIO:
        snprintf(text, sizeof text, "42[\"m\",\"%s\"]", data);
        put_text(publisher, text);
        break;
    case CHANNELS:
        snprintf(text, sizeof text, "{\"data\":\"%s\"}", data);
        put_text(publisher, text);
        break;
    case FLOOR:
        fail("the floor makes its messages itself");
    }
    sent_ns[sent++ % RING] = now;
    published++;
}

static bool publishing_continues;

static void publish_more(void) {
    while (publishing_continues && sent - answered < (uint64_t)unanswered_most) publish_one();
}

static void count_answer(void) {
    if (answered < sent) record(&answers, now_ns() - sent_ns[answered % RING]);
    answered++;
}

/* The SDKs' rule: at a random point between half and the whole of `ack_every`. */
static uint64_t ack_distance(void) {
    int half = (ack_every + 1) / 2;
    uint64_t distance = half + random_bits() % (ack_every - half + 1);
    return distance ? distance : 1;
}

/* Where a subscriber stands between two acks when it has been attached for long: a long distance is met more often. */
static uint64_t ack_distance_met(void) {
    double half = ack_every / 2.0, whole = ack_every;
    double distance = sqrt(half * half + random_unit() * (whole * whole - half * half));
    return 1 + (uint64_t)(random_unit() * distance);
}

static void acknowledge(struct conn *c) {
    char text[128];
    int size = snprintf(text, sizeof text, "{\"type\":\"ack\",\"serials\":{\"%s\":%lu}}", channel, c->serial);
    put_frame(c, 1, text, size);
    c->processed = 0;
    c->acked_after = ack_distance();
    c->ack_due = false;
    acks++;
}

/* ---------------------------------------------------------------- in */

static void become_live(struct conn *c) {
    c->stage = LIVE;
    live++;
}

static void attach(struct conn *c) {
    char text[256];
    int size = snprintf(text, sizeof text, "{\"type\":\"attach\",\"ref\":1,\"channel\":\"%s\"}", channel);
    put_frame(c, 1, text, size);
    c->stage = JOIN;
}

static const signed char DIGIT[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8, ['8'] = 9, ['9'] = 10,
    ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16};

static uint64_t hexadecimal(const char *at, int digits) {
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) value = value << 4 | (DIGIT[(unsigned char)at[i]] - 1);
    return value;
}

static long number_after(const char *text, size_t size, const char *name) {
    const char *at = memmem(text, size, name, strlen(name));
    return at == NULL ? -1 : atol(at + strlen(name));
}

/* A message, or false when the text is none. */
static bool take_message(struct conn *c, const char *text, size_t size, uint64_t now) {
    static size_t usual;        /* where the mark stood last time: it seldom moves */
    const char *mark = text + usual;
    if (usual + MARK_BYTES > size || memcmp(mark, MARK, 2)) {
        mark = memmem(text, size, MARK, 2);
        if (mark == NULL || mark + MARK_BYTES > text + size) return false;
        usual = mark - text;
    }
    uint64_t made_ns = hexadecimal(mark + 2, 16);
    uint32_t number = hexadecimal(mark + 18, 8);
    if (dialect == SERIATIM && ack_every && ++c->processed >= c->acked_after) c->ack_due = acks_wanted;
    if (number < c->next_number) {
        doubles++;              /* or late: then it is lost at its place, too */
        return true;
    }
    bool in_order = number == c->next_number;
    if (dialect == SERIATIM) {
        const char *at = memmem(text, size, "\"serial\":", 9);
        uint64_t serial = at == NULL ? 0 : strtoull(at + 9, NULL, 10);
        in_order &= serial == c->serial + 1;
        c->serial = serial;
        c->last_ns = now;
    }
    if (!in_order) disorder++;
    c->next_number = number + 1;
    record(&latencies, now > made_ns ? now - made_ns : 0);
    delivered++;
    last_delivery_ns = now;
    if (c->publishes) count_answer();           /* its own copy tells it that the server is through */
    return true;
}

static void take_text(struct conn *c, const char *text, size_t size, uint64_t now) {
    if (c->stage == LIVE && (!c->publishes || dialect >= WS) && take_message(c, text, size, now)) return;
    if (dialect == SOCKETIO) {
        if (text[0] == '0' && c->stage == GREET) {
            put_text(c, "40");
            c->stage = JOIN;
        } else if (c->stage == JOIN && size >= 2 && !memcmp(text, "40", 2)) {
            become_live(c);
        } else if (text[0] == '2') {
            put_text(c, "3");
        }
    } else if (dialect == FLOOR) {
        if (!strncmp(text, "done ", 5)) {
            answered = sent = strtoull(text + 5, NULL, 10);
            published += sent;
            floor_done = true;
        }
    } else if (dialect == SERIATIM) {
        if (size > 20 && !memcmp(text, "{\"type\":\"published\"", 19)) {
            count_answer();
        } else if (!memcmp(text, "{\"type\":\"ready\"", 15)) {
            if (c->publishes) become_live(c);
            else attach(c);
        } else if (size > 18 && !memcmp(text, "{\"type\":\"attached\"", 18)) {
            c->serial = number_after(text, size, "\"serial\":");
            window = number_after(text, size, "\"window\":");
            ack_every = window ? number_after(text, size, "\"ack_every\":") : 0;
            ack_ms = number_after(text, size, "\"ack_ms\":");
            c->processed = 0;
            if (ack_every) c->acked_after = ack_distance_met();
            if (c->stage == JOIN) become_live(c);
        } else if (!memcmp(text, "{\"type\":\"heartbeat\"", 15)) {
        } else {
            if (!memcmp(text, "{\"type\":\"error\"", 15)) {
                errors++;
                if (c->publishes) answered++;
            }
            if (first_error[0] == 0)
                snprintf(first_error, sizeof first_error, "connection %u: %.*s", c->index, (int)size, text);
        }
    }
}

/* Everything that is whole in the first `size` bytes; returns how many those are. */
static size_t take_frames(struct conn *c, char *data, size_t size, uint64_t now) {
    size_t at = 0;
    while (at + 2 <= size) {
        unsigned char *head = (unsigned char *)data + at;
        size_t length = head[1], start = at + 2;
        if (length == 126) {
            if (at + 4 > size) break;
            length = head[2] << 8 | head[3];
            start = at + 4;
        } else if (length == 127) {
            if (at + 10 > size) break;
            length = (size_t)head[6] << 24 | head[7] << 16 | head[8] << 8 | head[9];
            start = at + 10;
        }
        if (start + length > size) break;
        at = start + length;
        switch (head[0] & 15) {
        case 1:
        case 2:
            take_text(c, data + start, length, now);
            break;
        case 8:
            data[start + length] = 0;   /* what follows is dropped */
            errors++;
            end(c, length > 2 ? data + start + 2 : "closed by the server");
            return size;
        case 9:
            put_frame(c, 10, data + start, length);
            break;
        }
    }
    return at;
}

/* The answers to POST; returns how many bytes they are. */
static size_t take_answers(struct conn *c, char *data, size_t size) {
    size_t at = 0;
    while (at < size) {
        char *head_end = memmem(data + at, size - at, "\r\n\r\n", 4);
        if (head_end == NULL) break;
        size_t head = head_end - (data + at) + 4;
        long length = number_after(data + at, head, "Content-Length: ");
        if (at + head + (length > 0 ? length : 0) > size) break;
        if (memcmp(data + at, "HTTP/1.1 20", 11)) {
            errors++;
            if (first_error[0] == 0) snprintf(first_error, sizeof first_error, "%.60s", data + at);
        }
        count_answer();
        at += head + (length > 0 ? length : 0);
    }
    (void)c;
    return at;
}

/* The answer to the handshake; returns how many bytes it is, 0 while it is not whole. */
static size_t take_handshake(struct conn *c, char *data, size_t size) {
    char *head_end = memmem(data, size, "\r\n\r\n", 4);
    if (head_end == NULL) return 0;
    *head_end = 0;
    if (strncmp(data, "HTTP/1.1 101", 12) || strstr(data, ACCEPT) == NULL) fail("the handshake was answered with: %s", data);
    if (dialect == SERIATIM || dialect == SOCKETIO) c->stage = GREET;
    else become_live(c);
    return head_end - data + 4;
}

static void take(struct conn *c) {
    for (;;) {
        size_t kept = c->rest_bytes;
        if (kept) {
            memcpy(buffer, c->rest, kept);
            forget(&c->rest, &c->rest_bytes);
        }
        ssize_t got = recv(c->fd, buffer + kept, READ_BYTES, MSG_DONTWAIT);
        if (got <= 0) {
            if (kept) keep(&c->rest, &c->rest_bytes, buffer, kept);
            if (got == 0) end(c, "ended by the server");
            else if (errno != EAGAIN) end(c, strerror(errno));
            return;
        }
        reads++;
        received_bytes += got;
        size_t size = kept + got, used = 0;
        buffer[size] = 0;   /* a number at the end must not go on into what was there before */
        uint64_t now = now_ns();
        if (c->stage == SHAKE) used = take_handshake(c, buffer, size);
        if (c->is_http) used = take_answers(c, buffer, size);
        else if (c->stage != SHAKE) used += take_frames(c, buffer + used, size - used, now);
        if (c->stage == CLOSED) return;
        if (used < size) keep(&c->rest, &c->rest_bytes, buffer + used, size - used);
        if (c->ack_due) acknowledge(c);
        if (c->publishes) publish_more();
        if (got < READ_BYTES) return;
    }
}

/* Waits up to `timeout_ms` for something, and takes it. The result: how often the timer went off.

   A reader on this machine that sleeps in epoll_wait is woken by the sender, inside its send(): up to as much again as
   the send itself, and only when the reader is the faster of the two. No subscriber behind a network costs that. So by
   default nobody waits when a frame arrives: the generator looks, and naps when it finds nothing. */
static uint64_t turn(int timeout_ms) {
    static struct epoll_event events[EVENTS];
    uint64_t ticks = 0;
    int count = epoll_wait(epoll_fd, events, EVENTS, reader == SLEEP ? timeout_ms : 0);
    if (count == 0 && reader == NAP) nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    for (int i = 0; i < count; i++) {
        struct conn *c = events[i].data.ptr;
        if (c == NULL) {
            if (read(timer_fd, &ticks, sizeof ticks) < 0) ticks = 0;
            continue;
        }
        if (c->stage == CLOSED) continue;
        if (c->out_bytes && events[i].events & EPOLLOUT) flush(c);
        if (c->stage != CLOSED && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) take(c);
    }
    return ticks;
}

/* `ack_ms` after the last message, what no count has brought. */
static void acknowledge_late(void) {
    static uint64_t looked_ns;
    uint64_t now = now_ns();
    if (!acks_wanted || ack_every == 0 || now - looked_ns < SECOND_NS / 10) return;
    looked_ns = now;
    for (int i = 0; i < subscribers; i++) {
        struct conn *c = &conns[i];
        if (c->stage == LIVE && c->processed && now - c->last_ns > (uint64_t)ack_ms * 1000000) acknowledge(c);
    }
}

static void wait_ms(int ms) {
    for (uint64_t until = now_ns() + (uint64_t)ms * 1000000; now_ns() < until;) turn(1);
}

/* ---------------------------------------------------------------- phases */

static void open_one(int index) {
    struct conn *c = &conns[index];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int yes = 1;
    char text[6000];
    c->index = index;
    c->publishes = c == publisher;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect: %s", strerror(errno));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
    if (c->publishes && dialect == NCHAN) {
        c->is_http = true;
        become_live(c);
        return;
    }
    c->stage = SHAKE;
    snprintf(text, sizeof text,
             "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
             PATHS[dialect], port, tokens ? "Authorization: Bearer " : "", tokens ? tokens[index] : "", tokens ? "\r\n" : "");
    put(c, text, strlen(text));
}

static void connect_all(void) {
    kb_before = server_kb();
    double cpu = server_cpu_s();
    uint64_t start = now_ns(), limit = start + CONNECT_LIMIT_S * SECOND_NS;
    int opened = 0;
    while (live < conns_count) {
        while (opened < conns_count && opened - live < SHAKING) open_one(opened++);
        turn(100);
        if (closed) fail("%s", first_error);
        if (now_ns() > limit) fail("only %d of %d connections after %d s: %s", live, conns_count, CONNECT_LIMIT_S, first_error);
    }
    double wall = (now_ns() - start) / 1e9;
    wait_ms(300);
    printf("{\"event\":\"connected\",\"connections\":%d,\"wall_s\":%.3f,\"server_cpu_s\":%.6f,\"server_kb\":%ld,"
           "\"window\":%d,\"ack_every\":%d,\"ack_ms\":%d}\n",
           conns_count, wall, server_cpu_s() - cpu, server_kb() - kb_before, window, ack_every, ack_ms);
    fflush(stdout);
}

static void be_idle(double seconds) {
    double cpu = server_cpu_s();
    uint64_t start = now_ns();
    wait_ms((int)(seconds * 1000));
    printf("{\"event\":\"idle\",\"wall_s\":%.3f,\"server_cpu_s\":%.6f,\"server_kb\":%ld}\n", (now_ns() - start) / 1e9,
           server_cpu_s() - cpu, server_kb() - kb_before);
    fflush(stdout);
}

static int recipients(void) { return dialect >= WS ? conns_count : subscribers; }

static void reset(void) {
    delivered = doubles = disorder = errors = acks = reads = received_bytes = 0;
    sent = answered = unsent = 0;
    memset(&latencies, 0, sizeof latencies);
    memset(&answers, 0, sizeof answers);
}

/* Publishes for `seconds`, at least once, and waits until everything has arrived. `pace` 0: `unanswered_most` at a time. */
static void publish_for(double pace, double seconds, int at_once) {
    uint64_t start = now_ns(), until = start + (uint64_t)(seconds * SECOND_NS), limit;
    reset();
    if (dialect == FLOOR) {
        char text[64];
        floor_done = false;
        snprintf(text, sizeof text, "go %.0f %.0f", pace * 1000, seconds * 1000);
        put_text(publisher, text);
        while (!floor_done && now_ns() < until + (uint64_t)(drain_s * SECOND_NS) && !closed) turn(10);
    } else if (pace > 0) {
        uint64_t step = (uint64_t)(SECOND_NS / pace);
        struct itimerspec timer = {{step / SECOND_NS, step % SECOND_NS}, {0, 1}};
        timerfd_settime(timer_fd, 0, &timer, NULL);
        while ((now_ns() < until || sent == 0) && !closed) {
            for (uint64_t ticks = turn(10); ticks > 0; ticks--) {
                if (now_ns() >= until && sent > 0) break;
                if (sent - answered < (uint64_t)ahead) publish_one();
                else unsent++;
            }
            acknowledge_late();
        }
        struct itimerspec off = {{0, 0}, {0, 0}};
        timerfd_settime(timer_fd, 0, &off, NULL);
    } else {
        unanswered_most = at_once;
        publishing_continues = true;
        publish_more();
        while (now_ns() < until && !closed) turn(10);
        publishing_continues = false;
    }
    limit = now_ns() + (uint64_t)(drain_s * SECOND_NS);
    while ((answered < sent || delivered < sent * recipients()) && now_ns() < limit && !closed) turn(10);
}

/* `name`: a pace in messages a second, whatever follows it, `full` (one unanswered at a time) or `burst` (many). */
static void phase(const char *name, double seconds, int burst, bool more) {
    double pace = atof(name);
    int at_once = !strcmp(name, "burst") ? burst : 1;
    printf("{\"event\":\"begin\",\"pace\":\"%s\"}\n", name);
    fflush(stdout);
    getchar();      /* until what goes on beside the phase has begun */
    publish_for(pace, pace > 0 && pace < 4 ? 1 / pace : 0.3, at_once);
    if (delivered < sent * recipients()) fail("messages were lost before `%s` was measured", name);
    wait_ms(SETTLE_MS);
    double cpu = server_cpu_s(), system = server_system_s(), database_cpu = database_cpu_s();
    double own = own_cpu_s(), server_busy = busy_s(server_core), own_busy = busy_s(generator_core);
    uint64_t start = now_ns();
    publish_for(pace, seconds, at_once);
    double own_wall = (now_ns() - start) / 1e9;
    own = own_cpu_s() - own;
    own_busy = busy_s(generator_core) - own_busy;
    wait_ms(SETTLE_MS);
    cpu = server_cpu_s() - cpu;
    system = server_system_s() - system;
    server_busy = busy_s(server_core) - server_busy;
    database_cpu = database_cpu_s() - database_cpu;
    double wall = ((delivered ? last_delivery_ns : now_ns()) - start) / 1e9;
    uint64_t expected = sent * recipients();
    printf("{\"event\":\"phase\",\"pace\":\"%s\",\"published\":%lu,\"answered\":%lu,\"unsent\":%lu,\"expected\":%lu,\"delivered\":%lu,"
           "\"lost\":%ld,\"doubles\":%lu,\"disorder\":%lu,\"errors\":%lu,\"closed\":%lu,\"acks\":%lu,\"reads\":%lu,\"received_bytes\":%lu,"
           "\"wall_s\":%.6f,\"server_cpu_s\":%.6f,\"server_system_s\":%.2f,\"server_core_busy_s\":%.2f,\"database_cpu_s\":%.2f,"
           "\"generator_cpu_s\":%.6f,\"generator_core_busy_s\":%.2f,\"generator_wall_s\":%.6f,\"server_kb\":%ld,",
           name, sent, answered, unsent, expected, delivered, (long)(expected - delivered), doubles, disorder, errors, closed, acks, reads,
           received_bytes, wall, cpu, system, server_busy, database_cpu, own, own_busy, own_wall, server_kb());
    print_histogram("latency_us", &latencies);
    printf(",");
    print_histogram("answer_us", &answers);
    printf(",\"error\":\"");
    for (const char *at = first_error; *at; at++)
        if (*at >= ' ' && *at != '"' && *at != '\\') putchar(*at);
    printf("\"}\n");
    fflush(stdout);
    if (closed) exit(2);
    if (delivered < expected && more) fail("messages were lost, or are still on their way: the phases behind `%s` are left out", name);
}

static void read_tokens(const char *path) {
    char line[5000];
    FILE *file = fopen(path, "r");
    if (file == NULL) fail("%s: %s", path, strerror(errno));
    tokens = calloc(conns_count, sizeof *tokens);
    for (int i = 0; i < conns_count; i++) {
        if (fgets(line, sizeof line, file) == NULL) fail("%s has only %d tokens", path, i);
        line[strcspn(line, "\n")] = 0;
        tokens[i] = strdup(line);
    }
    fclose(file);
}

int main(int argc, char **argv) {
    const char *phases = "", *tokens_path = NULL;
    double idle_s = 0;
    int burst = 64;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i];
        char *value = argv[i + 1];
        if (!strcmp(name, "--dialect")) {
            for (dialect = 0; dialect <= CHANNELS && strcmp(value, DIALECTS[dialect]); dialect++) {}
            if (dialect > CHANNELS) fail("unknown dialect %s", value);
        } else if (!strcmp(name, "--port")) port = atoi(value);
        else if (!strcmp(name, "--subscribers")) subscribers = atoi(value);
        else if (!strcmp(name, "--tokens")) tokens_path = value;
        else if (!strcmp(name, "--channel")) channel = value;
        else if (!strcmp(name, "--phases")) phases = value;
        else if (!strcmp(name, "--idle")) idle_s = atof(value);
        else if (!strcmp(name, "--drain")) drain_s = atof(value);
        else if (!strcmp(name, "--burst")) burst = atoi(value);
        else if (!strcmp(name, "--ahead")) ahead = atoi(value);
        else if (!strcmp(name, "--server-core")) server_core = atoi(value);
        else if (!strcmp(name, "--generator-core")) generator_core = atoi(value);
        else if (!strcmp(name, "--database")) database = atoi(value);
        else if (!strcmp(name, "--acks")) acks_wanted = atoi(value);
        else if (!strcmp(name, "--reader")) reader = !strcmp(value, "spin") ? SPIN : !strcmp(value, "sleep") ? SLEEP : NAP;
        else if (!strcmp(name, "--pids")) {
            for (char *pid = strtok(value, ","); pid && pids_count < 64; pid = strtok(NULL, ",")) pids[pids_count++] = atoi(pid);
        } else fail("unknown option %s", name);
    }
    if (burst >= RING || ahead >= RING) fail("--burst and --ahead are below %d", RING);
    random_state = now_ns() | 1;
    prctl(PR_SET_TIMERSLACK, 1000);    /* naps as short as asked for */
    conns_count = subscribers + (dialect < WS);     /* with the others the first subscriber publishes */
    conns = calloc(conns_count, sizeof *conns);
    publisher = &conns[dialect < WS ? subscribers : 0];
    buffer = malloc(2 * READ_BYTES + 1);
    if (tokens_path) read_tokens(tokens_path);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event);
    connect_all();
    if (idle_s > 0) be_idle(idle_s);
    char *list = strdup(phases), *rest = list;
    for (char *each; (each = strsep(&rest, ",")) != NULL && *each;) {
        char *seconds = strchr(each, ':');
        if (seconds == NULL) fail("a phase is NAME:SECONDS, not %s", each);
        *seconds = 0;
        phase(each, atof(seconds + 1), burst, rest != NULL);
    }
    return 0;
}
