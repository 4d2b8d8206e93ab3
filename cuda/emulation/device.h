// The emulated devices: what planners ask for.
#pragma once

namespace jax_na::emulation {

struct Device {
  int capability;       // 90 is 9.0
  int shared_bytes;     // of a block at most
  int sm_shared_bytes;  // of a multiprocessor
  int multiprocessors;
};

// Device 0 is as large as an H100. The others are small ones that no one makes, where few blocks
// have to share all work, and of which two have less shared memory.
constexpr Device kDevices[] = {{90, 232448, 233472, 132},
                               {86, 101376, 102400, 2},
                               {80, 50176, 51200, 1},
                               {90, 232448, 233472, 2}};

// The running kernels see no limit but `shared_bytes`.
const Device& current_device();

}  // namespace jax_na::emulation
