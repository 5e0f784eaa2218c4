// The first process of a pod and of a node: holds the namespaces, takes the orphans' exit codes, ends at a signal.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal_number) {
  (void)signal_number;
  _exit(0);
}

static void reap(int signal_number) {
  (void)signal_number;
  while (waitpid(-1, 0, WNOHANG) > 0) {
  }
}

int main(void) {
  struct sigaction ending = {.sa_handler = end};
  struct sigaction reaping = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP | SA_RESTART};
  if (sigaction(SIGINT, &ending, 0) != 0 || sigaction(SIGTERM, &ending, 0) != 0 || sigaction(SIGCHLD, &reaping, 0) != 0) {
    return 1;
  }
  for (;;) {
    pause();
  }
}
