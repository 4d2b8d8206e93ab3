// Checks of a test program, and programs that are to fail.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

namespace jax_na::emulation {

inline int failed_checks = 0;

inline void check(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failed_checks;
}

// The exit status of the program.
inline int report_checks() {
  std::printf("%d failures\n", failed_checks);
  return failed_checks == 0 ? 0 : 1;
}

// What a child process says on stderr that runs `body`; empty where it ends well.
inline std::string complaint_of(const std::function<void()>& body) {
  int ends[2];
  if (pipe(ends) != 0) std::abort();
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    body();
    std::fflush(stderr);
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[256];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<size_t>(got));
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return text;
}

inline void expect_complaint(const std::function<void()>& body, const std::string& complaint) {
  const std::string text = complaint_of(body);
  check(text.find(complaint) != std::string::npos,
        "expected a complaint of \"" + complaint + "\", got \"" + text + "\"");
}

}  // namespace jax_na::emulation
