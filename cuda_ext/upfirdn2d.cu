// upfirdn2d on CUDA: one thread an output for any 2-D filter, one block a tile for separable filters.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels.h"

namespace dystyle {
namespace {

constexpr int THREADS = 256;
constexpr int RESIDENT = 4;  // blocks a multiprocessor: with more, ptxas spills to make room for them
constexpr uint64_t BLOCKS = 1 << 20;  // larger outputs go round the grid-stride loops

template <class T>
__global__ void __launch_bounds__(THREADS, RESIDENT) upfirdn2d_kernel(Upfirdn p, uint64_t count) {
    const uint64_t threads = gridDim.x * uint64_t(THREADS);
    const uint64_t thread = blockIdx.x * uint64_t(THREADS) + threadIdx.x;
    for (uint64_t i = thread; i < count; i += threads) filter_at<T>(p, i);
}

// Both passes in one kernel: what lies between them stays in shared memory.
template <int UP, class T>
__global__ void __launch_bounds__(THREADS, RESIDENT) upfirdn2d_separable_kernel(Upfirdn p, uint64_t count) {
    extern __shared__ double shared[];
    auto* middle = reinterpret_cast<Accumulator<T>*>(shared);
    const Thread thread{int(threadIdx.x), int(threadIdx.y), int(threadIdx.z),
                        int(blockDim.x),  int(blockDim.y),  int(blockDim.z)};
    for (uint64_t i = blockIdx.x; i < count; i += gridDim.x) {
        const Tile tile = tile_at<UP>(p, i);
        filter_rows<UP, T>(p, tile, thread, middle);
        __syncthreads();
        filter_columns<UP, T>(p, tile, thread, middle);
        __syncthreads();
    }
}

template <class T>
void launch(const Upfirdn& p, cudaStream_t stream) {
    const uint64_t count = uint64_t(p.batch) * p.channels * p.vertical.out * p.horizontal.out;
    const uint64_t blocks = (count + THREADS - 1) / THREADS;
    upfirdn2d_kernel<T><<<blocks < BLOCKS ? blocks : BLOCKS, THREADS, 0, stream>>>(p, count);
}

template <int UP, class T>
void launch_separable(const Upfirdn& p, cudaStream_t stream) {
    // Neighbouring threads take what lies side by side in memory: channels, or pixels of a row.
    const dim3 block = p.tile.channels > 1 ? dim3(32, 4, 2) : dim3(1, 32, 8);
    const size_t bytes = size_t(p.tile.rows) * p.tile.width * p.tile.channels * sizeof(Accumulator<T>);
    const uint64_t count = tile_count(p);
    upfirdn2d_separable_kernel<UP, T><<<count < BLOCKS ? count : BLOCKS, block, bytes, stream>>>(p, count);
}

template <class T>
void choose_up(const Upfirdn& p, cudaStream_t stream) {
    const int up = p.vertical.up == p.horizontal.up ? p.vertical.up : 0;
    if (up == 1) return launch_separable<1, T>(p, stream);
    if (up == 2) return launch_separable<2, T>(p, stream);
    launch_separable<0, T>(p, stream);
}

}  // namespace

void upfirdn2d_cuda(const Upfirdn& p, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    switch (p.type) {
        case Type::float32: return launch<float>(p, queue);
        case Type::float64: return launch<double>(p, queue);
        case Type::float16: return launch<__half>(p, queue);
        case Type::bfloat16: return launch<__nv_bfloat16>(p, queue);
    }
}

void upfirdn2d_separable_cuda(const Upfirdn& p, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    switch (p.type) {
        case Type::float32: return choose_up<float>(p, queue);
        case Type::float64: return choose_up<double>(p, queue);
        case Type::float16: return choose_up<__half>(p, queue);
        case Type::bfloat16: return choose_up<__nv_bfloat16>(p, queue);
    }
}

}  // namespace dystyle
