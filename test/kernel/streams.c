/*
 * Streams of numbered UDP packets, to see which of them are lost.
 *
 * streams send RATE BYTES ADDRESS PORT FIRST COUNT: COUNT streams with the numbers FIRST, FIRST + 1 …, each from a port of its
 * own, all together so many packets a second, of so many bytes of data. SIGUSR1 has it print how many packets each has sent
 * so far, as a line of JSON: {"10":1200,"11":1199}
 *
 * streams receive PORT: takes streams over IPv4 and IPv6. SIGUSR1 has it print what came, as a line of JSON: how many packets
 * its own buffer had no room for, and of each stream the last TOS or traffic class, how many packets came twice, and which
 * came, as ranges of their numbers: {"overflowed":0,"streams":{"10":{"tos":0,"twice":0,"ranges":[[0,511],[520,1199]]}}}
 *
 * Both say "ready" as soon as they can be asked, and go on until they are killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { STREAMS = 256, PACKETS = 1 << 18, BUFFER_BYTES = 1 << 26, MOST_BYTES = 1400 };
enum { SECOND_NS = 1000000000, LATE_NS = 100000000 };

struct label {
  uint32_t stream, number;
};

static volatile sig_atomic_t asked;

static void ask(int signal) {
  (void)signal;
  asked = 1;
}

static void ready(void) {
  struct sigaction action = {.sa_handler = ask};
  sigaction(SIGUSR1, &action, NULL);
  printf("ready\n");
  fflush(stdout);
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static long long now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * (long long)SECOND_NS + now.tv_nsec;
}

static void sleep_until(long long time) {
  struct timespec until = {.tv_sec = time / SECOND_NS, .tv_nsec = time % SECOND_NS};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static int send_all(int rate, int bytes, const char *address, int port, int first, int count) {
  static int sockets[STREAMS];
  static uint32_t sent[STREAMS];
  static char data[MOST_BYTES];
  struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  int is_ipv4 = inet_pton(AF_INET, address, &ipv4.sin_addr) == 1;
  struct sockaddr *to = is_ipv4 ? (struct sockaddr *)&ipv4 : (struct sockaddr *)&ipv6;
  socklen_t length = is_ipv4 ? sizeof ipv4 : sizeof ipv6;
  long long due = now_ns();

  if (!is_ipv4 && inet_pton(AF_INET6, address, &ipv6.sin6_addr) != 1) return fprintf(stderr, "no address\n"), 2;
  if (bytes < (int)sizeof(struct label) || bytes > MOST_BYTES || first + count > STREAMS) return 2;
  for (int i = 0; i < count; i++) {
    sockets[i] = socket(to->sa_family, SOCK_DGRAM, 0);
    if (sockets[i] < 0) fail("socket");
  }
  ready();
  for (int i = 0;; i = (i + 1) % count) {
    struct label label = {.stream = htonl(first + i), .number = htonl(sent[i]++)};
    memcpy(data, &label, sizeof label);
    /* A router may say that there is no way; the next packet is sent all the same. */
    sendto(sockets[i], data, bytes, 0, to, length);
    due += SECOND_NS / rate;
    /* What was missed while the machine stood still is not made up for by a burst. */
    if (now_ns() - due > LATE_NS) due = now_ns();
    sleep_until(due);
    if (!asked) continue;
    asked = 0;
    for (int j = 0; j < count; j++) printf("%c\"%d\":%u", j == 0 ? '{' : ',', first + j, sent[j]);
    printf("}\n");
    fflush(stdout);
  }
}

static struct {
  int tos, twice;
  uint32_t end; /* one more than the highest number */
  unsigned char *came; /* by number */
} streams[STREAMS];
static uint32_t overflowed;

static void tell(void) {
  const char *between = "";

  printf("{\"overflowed\":%u,\"streams\":{", overflowed);
  for (int i = 0; i < STREAMS; i++) {
    const char *comma = "";
    uint32_t from = 0;
    if (streams[i].end == 0) continue;
    printf("%s\"%d\":{\"tos\":%d,\"twice\":%d,\"ranges\":[", between, i, streams[i].tos, streams[i].twice);
    between = ",";
    while (from < streams[i].end) {
      uint32_t to = from;
      while (to < streams[i].end && streams[i].came[to]) to++;
      if (to > from) printf("%s[%u,%u]", comma, from, to - 1), comma = ",";
      for (from = to; from < streams[i].end && !streams[i].came[from];) from++;
    }
    printf("]}");
  }
  printf("}}\n");
  fflush(stdout);
}

static void take(struct msghdr *message, const struct label *label) {
  uint32_t stream = ntohl(label->stream), number = ntohl(label->number);

  if (stream >= STREAMS || number >= PACKETS) return;
  if (streams[stream].came == NULL) streams[stream].came = calloc(PACKETS, 1);
  if (streams[stream].came == NULL) fail("calloc");
  if (streams[stream].came[number]) streams[stream].twice++;
  streams[stream].came[number] = 1;
  if (number >= streams[stream].end) streams[stream].end = number + 1;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SO_RXQ_OVFL) {
      memcpy(&overflowed, CMSG_DATA(header), sizeof overflowed);
    } else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_TCLASS) {
      memcpy(&streams[stream].tos, CMSG_DATA(header), sizeof(int));
    } else if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_TOS) {
      streams[stream].tos = *CMSG_DATA(header);
    }
  }
}

static void receive(int port) {
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  struct timeval patience = {.tv_usec = 50000};
  int on = 1, bytes = BUFFER_BYTES;
  int fd = socket(AF_INET6, SOCK_DGRAM, 0);

  if (fd < 0) fail("socket");
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0) fail("SO_RCVBUFFORCE");
  if (setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on) < 0) fail("SO_RXQ_OVFL");
  if (setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof on) < 0) fail("IP_RECVTOS");
  if (setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof on) < 0) fail("IPV6_RECVTCLASS");
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0) fail("SO_RCVTIMEO");
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  ready();
  for (;;) {
    char data[MOST_BYTES], control[256];
    struct iovec part = {.iov_base = data, .iov_len = sizeof data};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
    message.msg_controllen = sizeof control;
    int got = recvmsg(fd, &message, 0);
    if (got >= (int)sizeof(struct label)) take(&message, (struct label *)data);
    else if (got < 0 && errno != EAGAIN && errno != EINTR) fail("recvmsg");
    if (!asked) continue;
    asked = 0;
    tell();
  }
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "receive") == 0) receive(atoi(argv[2]));
  if (argc == 8 && strcmp(argv[1], "send") == 0) {
    return send_all(atoi(argv[2]), atoi(argv[3]), argv[4], atoi(argv[5]), atoi(argv[6]), atoi(argv[7]));
  }
  fprintf(stderr, "usage: streams send RATE BYTES ADDRESS PORT FIRST COUNT | receive PORT\n");
  return 2;
}
