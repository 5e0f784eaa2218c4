// `first connect IP PORT`: connects in its first instructions, says a marker that a capture knows, and ends well if it is answered; it tries
// once. `first serve PORT`: answers every connection that begins with the marker.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static const char marker[] = "FLT1 first bytes";
static const char answer[] = "answered";

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  return 1;
}

// All of `size` bytes, or less where the other side has ended.
static size_t take(int fd, char *to, size_t size) {
  size_t got = 0;
  while (got < size) {
    ssize_t n = read(fd, to + got, size - got);
    if (n <= 0) break;
    got += (size_t)n;
  }
  return got;
}

static int connect_first(const char *ip, int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  struct timeval patience = {.tv_sec = 60};
  char said[sizeof answer] = {0};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  inet_pton(AF_INET, ip, &to.sin_addr);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) return fail("connect");
  if (write(fd, marker, sizeof marker) != (ssize_t)sizeof marker) return fail("write");
  if (take(fd, said, sizeof said) != sizeof said || memcmp(said, answer, sizeof answer) != 0) return fail("read");
  puts(answer);
  return 0;
}

static int serve(int port) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  signal(SIGCHLD, SIG_IGN);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 1024) != 0) return fail("listen");
  for (;;) {
    int peer = accept(fd, NULL, NULL);
    if (peer < 0) continue;
    if (fork() == 0) {
      char heard[sizeof marker];
      if (take(peer, heard, sizeof heard) == sizeof heard && memcmp(heard, marker, sizeof marker) == 0)
        (void)!write(peer, answer, sizeof answer);
      _exit(0);
    }
    close(peer);
  }
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "connect") == 0) return connect_first(argv[2], atoi(argv[3]));
  if (argc == 3 && strcmp(argv[1], "serve") == 0) return serve(atoi(argv[2]));
  fprintf(stderr, "first connect IP PORT | first serve PORT\n");
  return 2;
}
