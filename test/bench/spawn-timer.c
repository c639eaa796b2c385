/*
 * spawn-timer COMMAND [ARGUMENT...]: run a program with this one's environment, input and output, and print to standard
 * error its exit status and how long it took from fork to exit, in nanoseconds. Measures small programs without the cost
 * of the benchmark's own runtime.
 */
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
  struct timespec from, to;
  int status = 0;
  pid_t pid;

  if (argc < 2) {
    fprintf(stderr, "usage: spawn-timer COMMAND [ARGUMENT...]\n");
    return 2;
  }
  clock_gettime(CLOCK_MONOTONIC, &from);
  pid = vfork();
  if (pid == 0) {
    execv(argv[1], argv + 1);
    _exit(127);
  }
  if (pid < 0 || waitpid(pid, &status, 0) < 0) {
    perror("spawn-timer");
    return 2;
  }
  clock_gettime(CLOCK_MONOTONIC, &to);
  fprintf(stderr, "spawn-timer %d %lld\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
          (to.tv_sec - from.tv_sec) * 1000000000LL + (to.tv_nsec - from.tv_nsec));
  return 0;
}
