// The arithmetic of the StyleGAN2 ops, shared by the CPU build and the CUDA kernels. Needs no torch.
//
// What a CUDA thread does is a function here, and the CPU build calls the same functions from plain loops, so
// every index and every formula is tested on machines without a GPU.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define DYSTYLE_BOTH __host__ __device__ inline
#define DYSTYLE_UNROLL _Pragma("unroll")
#else
#define DYSTYLE_BOTH inline
#define DYSTYLE_UNROLL
#endif

namespace dystyle {

enum class Type { float32, float64, float16, bfloat16 };

// What sums and activations are computed in: half types widen to float.
template <class T>
struct AccumulatorOf {
    using type = float;
};
template <>
struct AccumulatorOf<double> {
    using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

// Takes the remainder by `n` out of a mixed-radix index. 64-bit division is slow on GPUs and rarely needed.
DYSTYLE_BOTH uint32_t take(uint64_t& index, uint32_t n) {
    const uint64_t whole = index;
    index = whole >> 32 ? whole / n : static_cast<uint32_t>(whole) / n;
    return static_cast<uint32_t>(whole - index * n);
}

// ---- bias_act: y = g h f^(k)(x + b), f(t) = clamp(gain act(t)), k = how many of the factors g, h are there.

// The order is that of ACTIVATIONS in dystyle/ops/bias_act.py.
enum class Activation { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };
constexpr int ACTIVATIONS = 9;

struct BiasAct {
    const void *x, *b, *g, *h;  // b, g, h may be null; x, g, h and y lie alike and without gaps
    void* y;
    uint64_t count;
    uint32_t stride, channels;  // element i has bias i / stride % channels
    Activation activation;
    double alpha, gain, clamp;  // clamp < 0: none
    Type type;
};

// The ORDER-th derivative (0: the value) of an activation at t.
template <Activation A, int ORDER, class R>
DYSTYLE_BOTH R activate(R t, R alpha) {
    constexpr R selu_scale = R(1.0507009873554804934), selu_alpha = R(1.6732632423543772848);
    if constexpr (A == Activation::linear) return ORDER == 0 ? t : R(ORDER == 1);
    if constexpr (A == Activation::relu) return ORDER == 0 ? (t < 0 ? R(0) : t) : R(ORDER == 1 && t > 0);
    if constexpr (A == Activation::lrelu)
        return ORDER == 2 ? R(0) : (t > 0 ? R(1) : alpha) * (ORDER == 0 ? t : R(1));
    if constexpr (A == Activation::elu || A == Activation::selu) {
        const R scale = A == Activation::selu ? selu_scale : R(1);
        const R slope = A == Activation::selu ? selu_alpha * selu_scale : R(1);
        if (t > 0) return ORDER == 0 ? scale * t : (ORDER == 1 ? scale : R(0));
        return slope * (ORDER == 0 ? std::expm1(t) : std::exp(t));
    }
    if constexpr (A == Activation::tanh) {
        const R y = std::tanh(t), slope = 1 - y * y;
        return ORDER == 0 ? y : (ORDER == 1 ? slope : -2 * y * slope);
    }
    if constexpr (A == Activation::softplus && ORDER == 0)
        return (t < 0 ? R(0) : t) + std::log1p(std::exp(-std::abs(t)));
    // The rest is made of s = sigmoid(t), s' = s (1 - s) and s'' = s' (1 - 2 s).
    const R s = 1 / (1 + std::exp(-t)), slope = s * (1 - s);
    if constexpr (A == Activation::softplus) return ORDER == 1 ? s : slope;
    if constexpr (A == Activation::swish)
        return ORDER == 0 ? t * s : (ORDER == 1 ? s + t * slope : slope * (2 + t * (1 - 2 * s)));
    return ORDER == 0 ? s : (ORDER == 1 ? slope : slope * (1 - 2 * s));
}

// t = x + b for the N elements from `begin` on; the pointer points at the first of them.
template <int N, class T>
DYSTYLE_BOTH void add_bias(const BiasAct& p, uint64_t begin, const T* x, Accumulator<T>* t) {
    using R = Accumulator<T>;
    const T* b = static_cast<const T*>(p.b);
    uint32_t inner = take(begin, p.stride), channel = take(begin, p.channels);
    if (!b || p.stride - inner >= N) {
        // Most often all have the same bias, and the compiler can vectorise.
        const R bias = b ? static_cast<R>(b[channel]) : R(0);
        DYSTYLE_UNROLL
        for (int i = 0; i < N; ++i) t[i] = static_cast<R>(x[i]) + bias;
        return;
    }
    DYSTYLE_UNROLL
    for (int i = 0; i < N; ++i) {
        t[i] = static_cast<R>(x[i]) + static_cast<R>(b[channel]);
        if (++inner == p.stride) {
            inner = 0;
            channel = channel + 1 == p.channels ? 0 : channel + 1;
        }
    }
}

// From t to the result; g and h are read as far as ORDER asks for them.
template <Activation A, int ORDER, int N, class R, class T>
DYSTYLE_BOTH void finish_as(const BiasAct& p, const R* t, const T* g, const T* h, T* y) {
    const R alpha = R(p.alpha), gain = R(p.gain), limit = p.clamp < 0 ? R(INFINITY) : R(p.clamp);
    DYSTYLE_UNROLL
    for (int i = 0; i < N; ++i) {
        R value = gain * activate<A, 0>(t[i], alpha);
        if constexpr (ORDER == 0) {
            value = value > limit ? limit : (value < -limit ? -limit : value);
        } else {
            // Where the value is clamped, f is constant.
            const bool inside = std::abs(value) <= limit;
            value = inside ? gain * activate<A, ORDER>(t[i], alpha) * static_cast<R>(g[i]) : R(0);
            if constexpr (ORDER == 2) value *= static_cast<R>(h[i]);
        }
        y[i] = static_cast<T>(value);
    }
}

// The same for p.activation. The choice stands outside the loop over elements.
template <int ORDER, int N, int A = 0, class R, class T>
DYSTYLE_BOTH void finish(const BiasAct& p, const R* t, const T* g, const T* h, T* y) {
    if constexpr (A < ACTIVATIONS) {
        if (static_cast<int>(p.activation) == A)
            finish_as<static_cast<Activation>(A), ORDER, N>(p, t, g, h, y);
        else
            finish<ORDER, N, A + 1>(p, t, g, h, y);
    }
}

// The N elements from `begin` on; the pointers point at the first of them.
template <int ORDER, int N, class T>
DYSTYLE_BOTH void bias_act(const BiasAct& p, uint64_t begin, const T* x, const T* g, const T* h, T* y) {
    Accumulator<T> t[N];
    add_bias<N>(p, begin, x, t);
    finish<ORDER, N>(p, t, g, h, y);
}

// ---- upfirdn2d: y[o] = gain sum_k f[k] u[o down + k - pad], u = x with up - 1 zeros after every sample.

struct Axis {
    int in, out, up, down, pad, taps;
};

// Samples first .. first + count - 1 meet the taps tap, tap + up, ...; all others meet zeros.
struct Window {
    int first, count, tap;
};

// UP is the axis' upsampling factor where that is known to the compiler, else 0.
template <int UP>
DYSTYLE_BOTH Window window(const Axis& axis, int out) {
    const unsigned up = UP ? UP : axis.up;
    const int start = out * axis.down - axis.pad, end = start + axis.taps;
    // Both ends stay within 0 .. in, also for windows that lie in the padding alone.
    const auto within = [&axis](int sample) { return sample < axis.in ? sample : axis.in; };
    const int first = start > 0 ? within((start + up - 1) / up) : 0;
    const int last = end > 0 ? within((end - 1) / up + 1) : 0;
    return {first, last > first ? last - first : 0, static_cast<int>(first * up) - start};
}

struct Strides {
    int64_t n, c, y, x;

    DYSTYLE_BOTH int64_t at(int in, int ic, int iy, int ix) const {
        return in * n + ic * c + iy * y + ix * x;
    }
};

// Outputs along the axes of a tile. One block of threads computes a tile; the last ones may be smaller.
struct TileShape {
    int channels, height, width, rows;  // rows: bound on the input rows that the outputs of a tile meet
};

struct Upfirdn {
    const void *x, *f;  // f holds accumulator numbers
    void* y;
    int batch, channels;
    Axis vertical, horizontal;
    Strides from, to;
    int step;  // f runs forwards (1) or backwards (-1, f points at its last tap)
    double gain;
    bool channels_last;
    TileShape tile;  // of the separable kernel
    Type type;
};

// One output of a 2-D filter. `index` counts in the order of the output's memory.
template <class T>
DYSTYLE_BOTH void filter_at(const Upfirdn& p, uint64_t index) {
    using R = Accumulator<T>;
    const Axis &v = p.vertical, &h = p.horizontal;
    int c = p.channels_last ? take(index, p.channels) : 0;
    const int x = take(index, h.out), y = take(index, v.out);
    if (!p.channels_last) c = take(index, p.channels);
    const int n = static_cast<int>(index);
    const Window rows = window<0>(v, y), columns = window<0>(h, x);
    const T* corner = static_cast<const T*>(p.x) + p.from.at(n, c, rows.first, columns.first);
    const R* f = static_cast<const R*>(p.f);
    R sum = 0;
    for (int i = 0; i < rows.count; ++i) {
        const T* source = corner + i * p.from.y;
        const int taps = (rows.tap + i * v.up) * h.taps + columns.tap;
        for (int j = 0; j < columns.count; ++j)
            sum += static_cast<R>(source[j * p.from.x]) * f[p.step * (taps + j * h.up)];
    }
    static_cast<T*>(p.y)[p.to.at(n, c, y, x)] = static_cast<T>(sum * static_cast<R>(p.gain));
}

// A thread's place in its block along each axis, and how many threads are there. The CPU is a block of one.
struct Thread {
    int c, x, y, all_c, all_x, all_y;
};

struct Tile {
    int n, c, y, x, channels, height, width;  // where it begins, and its size cut at the border
    int row, rows;                            // input rows that its outputs meet
};

DYSTYLE_BOTH int tiles(int size, int tile) { return (size + tile - 1) / tile; }

DYSTYLE_BOTH uint64_t tile_count(const Upfirdn& p) {
    return static_cast<uint64_t>(p.batch) * tiles(p.channels, p.tile.channels) *
           tiles(p.vertical.out, p.tile.height) * tiles(p.horizontal.out, p.tile.width);
}

template <int UP>
DYSTYLE_BOTH Tile tile_at(const Upfirdn& p, uint64_t index) {
    const TileShape& shape = p.tile;
    Tile tile;
    tile.x = take(index, tiles(p.horizontal.out, shape.width)) * shape.width;
    tile.y = take(index, tiles(p.vertical.out, shape.height)) * shape.height;
    tile.c = take(index, tiles(p.channels, shape.channels)) * shape.channels;
    tile.n = static_cast<int>(index);
    const auto cut = [](int tile, int left) { return tile < left ? tile : left; };
    tile.channels = cut(shape.channels, p.channels - tile.c);
    tile.height = cut(shape.height, p.vertical.out - tile.y);
    tile.width = cut(shape.width, p.horizontal.out - tile.x);
    tile.row = window<UP>(p.vertical, tile.y).first;
    const Window last = window<UP>(p.vertical, tile.y + tile.height - 1);
    tile.rows = last.first + last.count - tile.row;
    return tile;
}

// First half of the separable filter: input rows of the tile, filtered along x, into `middle`.
template <int UP, class T>
DYSTYLE_BOTH void filter_rows(const Upfirdn& p, const Tile& tile, const Thread& t, Accumulator<T>* middle) {
    using R = Accumulator<T>;
    const R* f = static_cast<const R*>(p.f);
    const int up = UP ? UP : p.horizontal.up;
    for (int x = t.x; x < tile.width; x += t.all_x) {
        const Window taps = window<UP>(p.horizontal, tile.x + x);
        for (int y = t.y; y < tile.rows; y += t.all_y)
            for (int c = t.c; c < tile.channels; c += t.all_c) {
                const int64_t start = p.from.at(tile.n, tile.c + c, tile.row + y, taps.first);
                const T* source = static_cast<const T*>(p.x) + start;
                R sum = 0;
                for (int j = 0; j < taps.count; ++j)
                    sum += static_cast<R>(source[j * p.from.x]) * f[p.step * (taps.tap + j * up)];
                middle[(y * p.tile.width + x) * p.tile.channels + c] = sum;
            }
    }
}

// Second half: along y, from `middle` to the output.
template <int UP, class T>
DYSTYLE_BOTH void filter_columns(const Upfirdn& p, const Tile& tile, const Thread& t,
                                 const Accumulator<T>* middle) {
    using R = Accumulator<T>;
    const R* f = static_cast<const R*>(p.f);
    const R gain = static_cast<R>(p.gain);
    const int up = UP ? UP : p.vertical.up, row = p.tile.width * p.tile.channels;
    for (int y = t.y; y < tile.height; y += t.all_y) {
        const Window taps = window<UP>(p.vertical, tile.y + y);
        for (int x = t.x; x < tile.width; x += t.all_x)
            for (int c = t.c; c < tile.channels; c += t.all_c) {
                const R* source = middle + (taps.first - tile.row) * row + x * p.tile.channels + c;
                R sum = 0;
                for (int i = 0; i < taps.count; ++i) sum += source[i * row] * f[p.step * (taps.tap + i * up)];
                const int64_t target = p.to.at(tile.n, tile.c + c, tile.y + y, tile.x + x);
                static_cast<T*>(p.y)[target] = static_cast<T>(sum * gain);
            }
    }
}

}  // namespace dystyle
