// The torch side: checks, allocates, describes the tensors to the kernels. Fake kernels and gradients are
// registered in Python (dystyle/ops), next to the contracts.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "kernels.h"

#ifdef DYSTYLE_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace dystyle {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

Type type_of(const Tensor& x) {
    switch (x.scalar_type()) {
        case at::kFloat: return Type::float32;
        case at::kDouble: return Type::float64;
        case at::kHalf: return Type::float16;
        case at::kBFloat16: return Type::bfloat16;
        default: TORCH_CHECK_VALUE(false, "The ops take floating-point tensors, not ", x.scalar_type(), ".");
    }
}

#ifdef DYSTYLE_CUDA
#define DYSTYLE_RUN(op, x, p)                                            \
    if ((x).is_cuda()) {                                                 \
        const c10::cuda::CUDAGuard guard((x).device());                  \
        op##_cuda(p, c10::cuda::getCurrentCUDAStream().stream());        \
        C10_CUDA_KERNEL_LAUNCH_CHECK();                                  \
    } else {                                                             \
        op##_cpu(p);                                                     \
    }
#else
#define DYSTYLE_RUN(op, x, p) op##_cpu(p);
#endif

Tensor bias_act_op(const Tensor& x, const MaybeTensor& b, const MaybeTensor& g, const MaybeTensor& h,
                   int64_t dim, int64_t activation, double alpha, double gain, double clamp) {
    TORCH_CHECK_VALUE(activation >= 0 && activation < ACTIVATIONS, "There is no activation ", activation);
    TORCH_CHECK_VALUE(g || !h, "The second factor needs the first.");
    const Tensor y = at::empty_like(x);
    // Everything in the output's order of memory and aligned to 128 bits: the kernel runs straight through.
    const auto lay_out = [&](const Tensor& t) {
        const bool alike = t.scalar_type() == y.scalar_type() && t.device() == y.device();
        TORCH_CHECK_VALUE(alike && t.sizes() == y.sizes(), "The factors must look like x.");
        const bool aligned = reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
        return aligned && t.strides() == y.strides() ? t : at::empty_like(y).copy_(t);
    };
    const Tensor from = lay_out(x), first = g ? lay_out(*g) : Tensor(), second = h ? lay_out(*h) : Tensor();
    Tensor bias;
    int64_t stride = 1, channels = 1;
    if (b) {
        TORCH_CHECK_VALUE(b->dim() == 1 && b->size(0) == x.size(dim) && b->scalar_type() == x.scalar_type() &&
                              b->device() == x.device(),
                          "The bias must have one number for each index of the dimension, in the type of x.");
        bias = b->contiguous();
        channels = b->size(0);
        stride = std::max<int64_t>(y.stride(dim), 1);  // axes of size 1 may have stride 0
        TORCH_CHECK_VALUE(stride < (int64_t(1) << 32), "The tensor is too large.");
    }
    if (y.numel() == 0) return y;
    const auto data = [](const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; };
    const BiasAct p{data(from),
                    data(bias),
                    data(first),
                    data(second),
                    y.mutable_data_ptr(),
                    static_cast<uint64_t>(y.numel()),
                    static_cast<uint32_t>(stride),
                    static_cast<uint32_t>(channels),
                    static_cast<Activation>(activation),
                    alpha,
                    gain,
                    clamp,
                    type_of(x)};
    DYSTYLE_RUN(bias_act, x, p)
    return y;
}

Axis axis_of(int64_t in, int64_t up, int64_t down, int64_t before, int64_t after, int64_t taps) {
    constexpr int64_t limit = 1 << 30;
    TORCH_CHECK_VALUE(up > 0 && down > 0 && taps > 0, "Factors and filters must not be empty.");
    const int64_t most = std::max({std::abs(before), std::abs(after), taps});
    TORCH_CHECK_VALUE(in < limit / up && most < limit / 4 && down < limit / 64, "The picture is too large.");
    const int64_t whole = in * up + before + after - taps;
    TORCH_CHECK_VALUE(whole >= 0, "The padded picture is smaller than the filter.");
    return {int(in), int(whole / down + 1), int(up), int(down), int(before), int(taps)};
}

// The largest tile whose middle rows fit in shared memory; height 0 if none does. Threads run along the
// channels where these lie side by side and are enough.
TileShape tile_of(const Axis& vertical, bool along_channels, int size) {
    TileShape tile = along_channels ? TileShape{32, 8, 8, 0} : TileShape{1, 32, 32, 0};
    for (; tile.height > 0; tile.height /= 2) {
        tile.rows = ((tile.height - 1) * vertical.down + vertical.taps - 1) / vertical.up + 1;
        if (int64_t(tile.rows) * tile.width * tile.channels * size <= SHARED_BYTES) break;
    }
    return tile;
}

Tensor upfirdn2d_op(const Tensor& x, const Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                    at::IntArrayRef padding, bool flip_filter, double gain) {
    TORCH_CHECK_VALUE(x.dim() == 4 && (f.dim() == 1 || f.dim() == 2), "x must have 4 axes and f 1 or 2.");
    TORCH_CHECK_VALUE(up.size() == 2 && down.size() == 2 && padding.size() == 4, "Wrong number of factors.");
    TORCH_CHECK_VALUE(x.device() == f.device(), "x and f must be on one device.");
    TORCH_CHECK_VALUE(std::max(x.size(0), x.size(1)) < (int64_t(1) << 31), "The batch is too large.");
    const Axis horizontal = axis_of(x.size(3), up[0], down[0], padding[0], padding[1], f.size(-1));
    const Axis vertical = axis_of(x.size(2), up[1], down[1], padding[2], padding[3], f.size(0));
    const Type type = type_of(x);
    const Tensor taps = f.to(type == Type::float64 ? at::kDouble : at::kFloat).contiguous();
    const bool channels_last = !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast);
    const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    const Tensor y = at::empty({x.size(0), x.size(1), vertical.out, horizontal.out}, x.options(), format);
    if (y.numel() == 0) return y;
    const TileShape tile = tile_of(vertical, channels_last && x.size(1) >= 16, taps.element_size());
    if (f.dim() == 1 && tile.height == 0) {
        // A filter so long that no tile fits runs as two passes through memory.
        const Tensor rows = upfirdn2d_op(x, f.unsqueeze(0), {up[0], 1}, {down[0], 1},
                                         {padding[0], padding[1], 0, 0}, flip_filter, gain);
        return upfirdn2d_op(rows, f.unsqueeze(1), {1, up[1]}, {1, down[1]}, {0, 0, padding[2], padding[3]},
                            flip_filter, 1);
    }
    const auto strides = [](const Tensor& t) {
        return Strides{t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
    };
    const int64_t last = flip_filter ? 0 : (taps.numel() - 1) * taps.element_size();
    const Upfirdn p{x.const_data_ptr(),
                    static_cast<const char*>(taps.const_data_ptr()) + last,
                    y.mutable_data_ptr(),
                    static_cast<int>(x.size(0)),
                    static_cast<int>(x.size(1)),
                    vertical,
                    horizontal,
                    strides(x),
                    strides(y),
                    flip_filter ? 1 : -1,
                    gain,
                    channels_last,
                    tile,
                    type};
    if (f.dim() == 1) {
        DYSTYLE_RUN(upfirdn2d_separable, x, p)
    } else {
        DYSTYLE_RUN(upfirdn2d, x, p)
    }
    return y;
}

}  // namespace
}  // namespace dystyle

TORCH_LIBRARY(dystyle, m) {
    m.def(
        "bias_act(Tensor x, Tensor? b, Tensor? g, Tensor? h, int dim, int activation, float alpha, "
        "float gain, float clamp) -> Tensor");
    m.def(
        "upfirdn2d(Tensor x, Tensor f, int[] up, int[] down, SymInt[] padding, bool flip_filter, float gain) "
        "-> Tensor");
}

TORCH_LIBRARY_IMPL(dystyle, CPU, m) {
    m.impl("bias_act", dystyle::bias_act_op);
    m.impl("upfirdn2d", dystyle::upfirdn2d_op);
}

#ifdef DYSTYLE_CUDA
TORCH_LIBRARY_IMPL(dystyle, CUDA, m) {
    m.impl("bias_act", dystyle::bias_act_op);
    m.impl("upfirdn2d", dystyle::upfirdn2d_op);
}
#endif
