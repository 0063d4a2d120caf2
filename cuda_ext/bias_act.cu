// bias_act on CUDA: memory-bound, so every thread moves 128 bits at once.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels.h"

namespace dystyle {
namespace {

constexpr int THREADS = 256;
constexpr int RESIDENT = 4;  // blocks a multiprocessor: with more, ptxas spills to make room for them
constexpr int BLOCKS = 4096;  // enough to fill any GPU; larger tensors go round the grid-stride loop

template <class T>
constexpr int WIDTH = 16 / sizeof(T);

template <class T>
struct alignas(16) Pack {
    T values[WIDTH<T>];
};

// The last pack of a tensor may be cut: `left` elements are there.
template <class T>
__device__ Pack<T> read(const T* from, uint64_t left) {
    if (left >= WIDTH<T>) return *reinterpret_cast<const Pack<T>*>(from);
    Pack<T> pack{};
    DYSTYLE_UNROLL
    for (int i = 0; i < WIDTH<T>; ++i)
        if (i < left) pack.values[i] = from[i];
    return pack;
}

template <class T>
__device__ void write(const Pack<T>& pack, T* to, uint64_t left) {
    if (left >= WIDTH<T>) {
        *reinterpret_cast<Pack<T>*>(to) = pack;
        return;
    }
    DYSTYLE_UNROLL
    for (int i = 0; i < WIDTH<T>; ++i)
        if (i < left) to[i] = pack.values[i];
}

template <int ORDER, class T>
__global__ void __launch_bounds__(THREADS, RESIDENT) bias_act_kernel(BiasAct p) {
    const T *x = static_cast<const T*>(p.x), *g = static_cast<const T*>(p.g), *h = static_cast<const T*>(p.h);
    const uint64_t step = gridDim.x * uint64_t(THREADS) * WIDTH<T>;
    for (uint64_t i = (blockIdx.x * uint64_t(THREADS) + threadIdx.x) * WIDTH<T>; i < p.count; i += step) {
        const uint64_t left = p.count - i;
        Pack<T> in = read(x + i, left), first, second, out;
        if constexpr (ORDER > 0) first = read(g + i, left);
        if constexpr (ORDER > 1) second = read(h + i, left);
        bias_act<ORDER, WIDTH<T>>(p, i, in.values, first.values, second.values, out.values);
        write(out, static_cast<T*>(p.y) + i, left);
    }
}

template <int ORDER, class T>
void launch(const BiasAct& p, cudaStream_t stream) {
    const uint64_t blocks = p.count / WIDTH<T> / THREADS + 1;
    bias_act_kernel<ORDER, T><<<blocks < BLOCKS ? blocks : BLOCKS, THREADS, 0, stream>>>(p);
}

template <class T>
void choose_order(const BiasAct& p, cudaStream_t stream) {
    if (p.h) return launch<2, T>(p, stream);
    if (p.g) return launch<1, T>(p, stream);
    launch<0, T>(p, stream);
}

}  // namespace

void bias_act_cuda(const BiasAct& p, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    switch (p.type) {
        case Type::float32: return choose_order<float>(p, queue);
        case Type::float64: return choose_order<double>(p, queue);
        case Type::float16: return choose_order<__half>(p, queue);
        case Type::bfloat16: return choose_order<__nv_bfloat16>(p, queue);
    }
}

}  // namespace dystyle
