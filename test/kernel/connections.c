/*
 * connections serve PORT: take TCP connections over IPv4 and IPv6, send each a byte and close it, until killed.
 * connections open ADDRESS PORT COUNT: open so many, one after the other, and print how many got their byte. One that is not
 * there within five seconds counts as failed.
 *
 * Many connections in little time, also in an emulated machine.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int fail(const char *what) {
  perror(what);
  return 1;
}

static int serve(int port) {
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  int on = 1;
  int listening = socket(AF_INET6, SOCK_STREAM, 0);

  if (listening < 0) return fail("socket");
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listening, (struct sockaddr *)&address, sizeof address) < 0) return fail("bind");
  if (listen(listening, 512) < 0) return fail("listen");
  for (;;) {
    int taken = accept(listening, NULL, NULL);
    if (taken < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return fail("accept");
    }
    send(taken, "x", 1, MSG_NOSIGNAL);
    close(taken);
  }
}

static int get(const struct sockaddr *address, socklen_t length) {
  struct timeval patience = {.tv_sec = 5};
  char byte;
  int got;
  int opened = socket(address->sa_family, SOCK_STREAM, 0);

  if (opened < 0) return 0;
  setsockopt(opened, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  setsockopt(opened, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  got = connect(opened, address, length) == 0 && recv(opened, &byte, 1, 0) == 1;
  close(opened);
  return got;
}

static int open_all(const char *text, int port, int count) {
  struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  int is_ipv4 = inet_pton(AF_INET, text, &ipv4.sin_addr) == 1;
  int answered = 0;

  if (!is_ipv4 && inet_pton(AF_INET6, text, &ipv6.sin6_addr) != 1) {
    fprintf(stderr, "%s is no address\n", text);
    return 2;
  }
  while (count-- > 0) {
    answered += is_ipv4 ? get((struct sockaddr *)&ipv4, sizeof ipv4) : get((struct sockaddr *)&ipv6, sizeof ipv6);
  }
  printf("%d\n", answered);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 3 && strcmp(argv[1], "serve") == 0) return serve(atoi(argv[2]));
  if (argc == 5 && strcmp(argv[1], "open") == 0) return open_all(argv[2], atoi(argv[3]), atoi(argv[4]));
  fprintf(stderr, "usage: connections serve PORT | open ADDRESS PORT COUNT\n");
  return 2;
}
