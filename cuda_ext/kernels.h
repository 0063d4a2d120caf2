// What the torch binding calls: each function runs one op on one kind of device. No torch here.
#pragma once

#include "core.h"

namespace dystyle {

// Shared memory that every CUDA device grants a block without asking.
constexpr int SHARED_BYTES = 48 << 10;

// The pointers x, g, h and y must be multiples of 16: kernels move 128 bits at once.
void bias_act_cpu(const BiasAct& p);
void upfirdn2d_cpu(const Upfirdn& p);
void upfirdn2d_separable_cpu(const Upfirdn& p);

#ifdef DYSTYLE_CUDA
// `stream` is a cudaStream_t of the current device. Launch errors are left for the caller to ask for.
void bias_act_cuda(const BiasAct& p, void* stream);
void upfirdn2d_cuda(const Upfirdn& p, void* stream);
void upfirdn2d_separable_cuda(const Upfirdn& p, void* stream);
#endif

}  // namespace dystyle
