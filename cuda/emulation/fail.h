// The end of a program whose kernel breaks a rule.
#pragma once

namespace jax_na::emulation {

// Prints what is wrong, and which thread of which block did it, and exits with status 1.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Turns faults, among them every access behind the end of guarded memory, into `fail`.
void report_faults();

}  // namespace jax_na::emulation
