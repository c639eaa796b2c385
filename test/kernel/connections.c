/*
 * connections serve FIRST LAST: take TCP connections and UDP packets at these ports, over IPv4 and IPv6, until killed. Each
 * is answered with two addresses: that of whoever asks, and that which was asked. TCP connections are closed then.
 *
 * connections open tcp|udp ADDRESS FIRST LAST COUNT AT_ONCE SOURCE: open so many connections, each to the next of these
 * ports, AT_ONCE of them at a time, from the ports SOURCE, SOURCE + 1 … (0: whichever the kernel takes). Prints how many
 * got which answer, then how many packets of UDP had to be sent again:
 *
 *   6250 answers 10.0.0.1 10.0.0.2
 *   0 repeated
 *
 * A connection that has no answer within five seconds has failed; time in which this program itself stands still does not count.
 *
 * Many connections in little time, also in an emulated machine.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_AT_ONCE = 512, MOST_ANSWERS = 256, MOST_PORTS = 256, ANSWER_LENGTH = 128 };
enum { LOOK_MS = 100, PATIENCE_LOOKS = 50, AGAIN_LOOKS = 10, BUFFER_BYTES = 1 << 24 };

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* IPv4 addresses in the form of IPv6 are written as those of IPv4. */
static void write_address(const struct in6_addr *address, char *text) {
  if (IN6_IS_ADDR_V4MAPPED(address)) inet_ntop(AF_INET, &address->s6_addr[12], text, INET6_ADDRSTRLEN);
  else inet_ntop(AF_INET6, address, text, INET6_ADDRSTRLEN);
}

static int write_answer(const struct in6_addr *from, const struct in6_addr *to, char *answer) {
  char texts[2][INET6_ADDRSTRLEN];
  write_address(from, texts[0]);
  write_address(to, texts[1]);
  return snprintf(answer, ANSWER_LENGTH, "%s %s", texts[0], texts[1]);
}

static void watch(int epoll, int fd, int number) {
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
}

static int listen_at(int type, int port) {
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  int on = 1, bytes = BUFFER_BYTES;
  int fd = socket(AF_INET6, type | SOCK_NONBLOCK, 0);

  if (fd < 0) fail("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) < 0) fail("IPV6_RECVPKTINFO");
  if (type == SOCK_DGRAM) setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  if (type == SOCK_STREAM && listen(fd, 4096) < 0) fail("listen");
  return fd;
}

static void take_connection(int listening) {
  struct sockaddr_in6 from, to;
  socklen_t length = sizeof from;
  char answer[ANSWER_LENGTH];
  int fd = accept(listening, (struct sockaddr *)&from, &length);

  if (fd < 0) return;
  length = sizeof to;
  if (getsockname(fd, (struct sockaddr *)&to, &length) == 0) {
    send(fd, answer, write_answer(&from.sin6_addr, &to.sin6_addr, answer), MSG_NOSIGNAL);
  }
  close(fd);
}

/* The answer comes from the address that was asked: the same control message says so. */
static void take_packet(int fd) {
  struct sockaddr_in6 from;
  char data[ANSWER_LENGTH], control[256];
  struct iovec part = {.iov_base = data, .iov_len = sizeof data};
  struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1};
  struct cmsghdr *header;

  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (recvmsg(fd, &message, 0) < 0) return;
  header = CMSG_FIRSTHDR(&message);
  if (header == NULL || header->cmsg_type != IPV6_PKTINFO) return;
  struct in6_pktinfo *info = (struct in6_pktinfo *)CMSG_DATA(header);
  part.iov_len = write_answer(&from.sin6_addr, &info->ipi6_addr, data);
  info->ipi6_ifindex = 0;
  sendmsg(fd, &message, 0);
}

static int serve(int first, int last) {
  struct epoll_event events[64];
  int fds[2 * MOST_PORTS], count = 0;
  int epoll = epoll_create1(0);

  if (last < first || last - first >= MOST_PORTS) return fprintf(stderr, "1 to %d ports\n", MOST_PORTS), 2;
  for (int port = first; port <= last; port++) {
    for (int stream = 0; stream < 2; stream++, count++) {
      fds[count] = listen_at(stream ? SOCK_STREAM : SOCK_DGRAM, port);
      watch(epoll, fds[count], count);
    }
  }
  for (;;) {
    int ready = epoll_wait(epoll, events, 64, -1);
    if (ready < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < ready; i++) {
      int number = events[i].data.u32;
      if (number % 2) take_connection(fds[number]);
      else take_packet(fds[number]);
    }
  }
}

/* What is to be opened. */
static struct {
  int type, count, at_once, source, ports;
  struct sockaddr_storage to;
  socklen_t length;
  in_port_t *port; /* of `to` */
  int first;
} job;

/* What came of it. */
static struct {
  char answer[ANSWER_LENGTH];
  int count;
} answers[MOST_ANSWERS];
static int repeated;

static struct connection {
  int fd;
  int looks; /* without an answer */
  int length;
  char answer[ANSWER_LENGTH];
} connections[MOST_AT_ONCE];

static void ask(struct connection *connection) {
  send(connection->fd, "?", 1, MSG_NOSIGNAL);
}

static void begin(struct connection *connection, int number) {
  struct sockaddr_storage from = {.ss_family = job.to.ss_family};

  connection->fd = socket(from.ss_family, job.type | SOCK_NONBLOCK, 0);
  if (connection->fd < 0) fail("socket");
  if (job.source != 0) {
    /* The port is at the same place in both families. */
    ((struct sockaddr_in *)&from)->sin_port = htons(job.source + number);
    if (bind(connection->fd, (struct sockaddr *)&from, job.length) < 0) fail("bind");
  }
  *job.port = htons(job.first + number % job.ports);
  if (connect(connection->fd, (struct sockaddr *)&job.to, job.length) < 0 && errno != EINPROGRESS) fail("connect");
  connection->looks = 0;
  connection->length = 0;
  if (job.type == SOCK_DGRAM) ask(connection);
}

static void count_answer(const char *answer) {
  int i = 0;
  while (answers[i].count > 0 && strcmp(answers[i].answer, answer) != 0) {
    if (++i == MOST_ANSWERS) {
      fprintf(stderr, "more than %d different answers\n", MOST_ANSWERS);
      exit(1);
    }
  }
  strcpy(answers[i].answer, answer);
  answers[i].count++;
}

/* Returns whether the connection has ended. A packet is a whole answer, a stream has an end. */
static int take_answer(struct connection *connection) {
  int room = ANSWER_LENGTH - 1 - connection->length;
  int got = recv(connection->fd, connection->answer + connection->length, room, 0);

  if (got < 0) return errno != EAGAIN && (job.type == SOCK_STREAM || errno != ECONNREFUSED);
  connection->length += got;
  if (got > 0 && job.type == SOCK_STREAM) return 0;
  connection->answer[connection->length] = 0;
  if (connection->length > 0) count_answer(connection->answer);
  return 1;
}

/* Returns whether it is given up. */
static int look(struct connection *connection) {
  if (++connection->looks > PATIENCE_LOOKS) return 1;
  if (job.type == SOCK_DGRAM && connection->looks % AGAIN_LOOKS == 0) {
    repeated++;
    ask(connection);
  }
  return 0;
}

static int open_all(void) {
  struct epoll_event events[64];
  int begun = 0, ended = 0;
  long long looked = now_ms();
  int epoll = epoll_create1(0);

  for (; begun < job.at_once && begun < job.count; begun++) {
    begin(&connections[begun], begun);
    watch(epoll, connections[begun].fd, begun);
  }
  while (ended < begun) {
    char is_over[MOST_AT_ONCE] = {0};
    int ready = epoll_wait(epoll, events, 64, LOOK_MS);
    long long now = now_ms();

    if (ready < 0 && errno != EINTR) fail("epoll_wait");
    for (int i = 0; i < ready; i++) {
      int slot = events[i].data.u32;
      is_over[slot] = take_answer(&connections[slot]);
    }
    if (now - looked >= LOOK_MS) {
      looked = now;
      for (int slot = 0; slot < job.at_once; slot++) {
        if (connections[slot].fd > 0 && !is_over[slot]) is_over[slot] = look(&connections[slot]);
      }
    }
    for (int slot = 0; slot < job.at_once; slot++) {
      if (!is_over[slot]) continue;
      ended++;
      close(connections[slot].fd);
      connections[slot].fd = 0;
      if (begun == job.count) continue;
      begin(&connections[slot], begun++);
      watch(epoll, connections[slot].fd, slot);
    }
  }
  for (int i = 0; i < MOST_ANSWERS && answers[i].count > 0; i++) {
    printf("%d answers %s\n", answers[i].count, answers[i].answer);
  }
  printf("%d repeated\n", repeated);
  return 0;
}

static int read_job(char **argv) {
  struct sockaddr_in *ipv4 = (struct sockaddr_in *)&job.to;
  struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *)&job.to;

  job.type = strcmp(argv[2], "udp") == 0 ? SOCK_DGRAM : SOCK_STREAM;
  if (inet_pton(AF_INET, argv[3], &ipv4->sin_addr) == 1) {
    job.to.ss_family = AF_INET;
    job.port = &ipv4->sin_port;
    job.length = sizeof *ipv4;
  } else if (inet_pton(AF_INET6, argv[3], &ipv6->sin6_addr) == 1) {
    job.to.ss_family = AF_INET6;
    job.port = &ipv6->sin6_port;
    job.length = sizeof *ipv6;
  } else return fprintf(stderr, "%s is no address\n", argv[3]), 0;
  job.first = atoi(argv[4]);
  job.ports = atoi(argv[5]) - job.first + 1;
  job.count = atoi(argv[6]);
  job.at_once = atoi(argv[7]);
  job.source = atoi(argv[8]);
  if (job.ports < 1 || job.at_once < 1 || job.at_once > MOST_AT_ONCE) {
    return fprintf(stderr, "1 to %d connections at once, to at least one port\n", MOST_AT_ONCE), 0;
  }
  return 1;
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "serve") == 0) return serve(atoi(argv[2]), atoi(argv[3]));
  if (argc == 9 && strcmp(argv[1], "open") == 0) return read_job(argv) ? open_all() : 2;
  fprintf(stderr, "usage: connections serve FIRST LAST | open tcp|udp ADDRESS FIRST LAST COUNT AT_ONCE SOURCE\n");
  return 2;
}
