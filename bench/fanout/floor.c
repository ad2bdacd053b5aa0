/* The floor of bench.fanout: WebSockets, and one send() for each delivery; nothing else.

   A text frame `go PACE MS` (PACE in thousandths of messages a second, 0: as fast as it can) has it make messages for so
   long and send each to all other connections. `done COUNT` answers. A client whose buffer is full is waited for. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ULL
#define DATA_BYTES 198
#define FRAME_BYTES (4 + DATA_BYTES)
/* The answer to the only Sec-WebSocket-Key that the load generator sends: RFC 6455 §1.3. */
#define WELCOME                                                                                                        \
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"                                \
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

static int *clients, count, room;
static bool *welcomed;
static uint32_t number;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

static void deliver(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t taken = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (taken < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, 1000);
        } else if (taken < 0) {
            return;
        } else {
            data += taken;
            size -= taken;
        }
    }
}

static void broadcast(int except) {
    char frame[FRAME_BYTES + 1];
    frame[0] = (char)0x81;
    frame[1] = 126;
    frame[2] = DATA_BYTES >> 8;
    frame[3] = (char)(DATA_BYTES & 255);
    memset(frame + 4, 'x', DATA_BYTES);
    snprintf(frame + 4, 27, "~T%016lx%08x", now_ns(), number++);
    frame[30] = 'x';
    for (int i = 0; i < count; i++)
        if (clients[i] != except) deliver(clients[i], frame, FRAME_BYTES);
}

static void go(int asker, double pace, double seconds) {
    char text[128];
    uint64_t start = now_ns(), until = start + (uint64_t)(seconds * SECOND_NS), made = 0;
    while (now_ns() < until || made == 0) {
        if (pace > 0) {
            uint64_t due = start + (uint64_t)(made * (SECOND_NS / pace));
            struct timespec at = {due / SECOND_NS, due % SECOND_NS};
            if (due >= until && made > 0) break;
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        }
        broadcast(asker);
        made++;
    }
    int size = snprintf(text + 2, sizeof text - 2, "done %lu", made);
    text[0] = (char)0x81;
    text[1] = (char)size;
    deliver(asker, text, size + 2);
}

static void take(int fd) {
    unsigned char data[4096];
    ssize_t size = recv(fd, data, sizeof data - 1, 0);
    if (size <= 0) {
        if (size < 0 && errno == EAGAIN) return;
        for (int i = 0; i < count; i++)
            if (clients[i] == fd) clients[i] = clients[--count];
        close(fd);
        return;
    }
    if (!welcomed[fd]) {        /* the request came in one piece: it is smaller than a segment */
        deliver(fd, WELCOME, sizeof WELCOME - 1);
        welcomed[fd] = true;
        return;
    }
    if (size < 6 || (data[0] & 15) != 1) return;
    double pace, ms;
    for (ssize_t i = 6; i < size; i++) data[i] ^= data[2 + (i - 6) % 4];
    data[size] = 0;
    if (sscanf((char *)data + 6, "go %lf %lf", &pace, &ms) == 2) go(fd, pace / 1000, ms / 1000);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct epoll_event events[256], event = {.events = EPOLLIN};
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll_fd = epoll_create1(0);
    if (argc != 2) return 2;
    address.sin_port = htons(atoi(argv[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("floor");
        return 1;
    }
    event.data.fd = listener;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd != listener) {
                take(events[i].data.fd);
                continue;
            }
            int fd;
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                if (fd >= room) {
                    int wider = fd * 2 + 64;
                    clients = realloc(clients, wider * sizeof *clients);
                    welcomed = realloc(welcomed, wider * sizeof *welcomed);
                    room = wider;
                }
                welcomed[fd] = false;
                clients[count++] = fd;
                event.data.fd = fd;
                epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}
