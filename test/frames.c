/*
 * frames INTERFACE...: what is read is sent, and what comes in at the interfaces is written. Of each frame: the number of the
 * interface, from 0 in the order given, the length, both 16 bits in network order, and the frame. Ends with its input.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_INTERFACES 64
#define MAX_FRAME 65535

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int open_interface(const char *name) {
  int one = 1, room = 8 << 20;
  struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
  int opened = socket(AF_PACKET, SOCK_RAW, 0);

  if (opened < 0) fail("socket");
  address.sll_ifindex = if_nametoindex(name);
  if (address.sll_ifindex == 0) fail(name);
  if (setsockopt(opened, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) < 0) fail("PACKET_IGNORE_OUTGOING");
  if (setsockopt(opened, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0) fail("SO_RCVBUFFORCE");
  if (bind(opened, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  return opened;
}

/* Returns 0 at the end of the input. */
static int read_all(uint8_t *to, size_t length) {
  for (size_t have = 0; have < length;) {
    ssize_t got = read(0, to + have, length - have);
    if (got == 0) return 0;
    if (got < 0 && errno != EINTR) fail("read");
    if (got > 0) have += got;
  }
  return 1;
}

static void write_all(const uint8_t *from, size_t length) {
  for (size_t done = 0; done < length;) {
    ssize_t written = write(1, from + done, length - done);
    if (written < 0 && errno != EINTR) fail("write");
    if (written > 0) done += written;
  }
}

int main(int count, char **names) {
  static uint8_t bytes[4 + MAX_FRAME];
  struct pollfd polled[1 + MAX_INTERFACES] = {{.fd = 0, .events = POLLIN}};

  if (count > MAX_INTERFACES) fail("too many interfaces");
  for (int i = 1; i < count; i++) {
    polled[i].fd = open_interface(names[i]);
    polled[i].events = POLLIN;
  }
  /* From here on nothing is missed. */
  memset(bytes, 0xff, 2);
  memset(bytes + 2, 0, 2);
  write_all(bytes, 4);
  for (;;) {
    if (poll(polled, count, -1) < 0 && errno != EINTR) fail("poll");
    for (int i = 1; i < count; i++) {
      if ((polled[i].revents & POLLIN) == 0) continue;
      ssize_t length = recv(polled[i].fd, bytes + 4, MAX_FRAME, MSG_DONTWAIT);
      if (length <= 0) continue;
      uint16_t head[2] = {htons(i - 1), htons(length)};
      memcpy(bytes, head, sizeof head);
      write_all(bytes, 4 + length);
    }
    if ((polled[0].revents & (POLLIN | POLLHUP)) == 0) continue;
    uint16_t head[2];
    if (!read_all((uint8_t *)head, sizeof head)) return 0;
    uint16_t index = ntohs(head[0]), length = ntohs(head[1]);
    if (!read_all(bytes, length)) return 0;
    if (index + 1 >= count) fail("no such interface");
    if (send(polled[1 + index].fd, bytes, length, 0) != length) fail("send");
  }
}
