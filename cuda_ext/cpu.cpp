// The ops on the CPU: the functions of core.h in plain loops over all cores.
#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <vector>

#include "kernels.h"

namespace dystyle {
namespace {

constexpr int64_t GRAIN = 1 << 15;  // elements that are worth a thread
constexpr int LENGTH = 128;           // elements at a time, so that the compiler can vectorise

template <class F>
void with_type(Type type, F run) {
    switch (type) {
        case Type::float32: return run(float());
        case Type::float64: return run(double());
        case Type::float16: return run(c10::Half());
        case Type::bfloat16: return run(c10::BFloat16());
    }
}

template <int ORDER, class T>
void bias_act_all(const BiasAct& p) {
    const T *x = static_cast<const T*>(p.x), *g = static_cast<const T*>(p.g), *h = static_cast<const T*>(p.h);
    T* y = static_cast<T*>(p.y);
    const auto run = [&](auto n, int64_t i) {
        bias_act<ORDER, decltype(n)::value>(p, i, x + i, g ? g + i : g, h ? h + i : h, y + i);
    };
    at::parallel_for(0, p.count, GRAIN, [&](int64_t begin, int64_t end) {
        int64_t i = begin;
        for (; i + LENGTH <= end; i += LENGTH) run(std::integral_constant<int, LENGTH>(), i);
        for (; i < end; ++i) run(std::integral_constant<int, 1>(), i);
    });
}

template <int UP, class T>
void upfirdn2d_separable_all(const Upfirdn& p) {
    const Thread alone{0, 0, 0, 1, 1, 1};
    const int64_t size = int64_t(p.tile.rows) * p.tile.width * p.tile.channels;
    at::parallel_for(0, tile_count(p), GRAIN / size + 1, [&](int64_t begin, int64_t end) {
        std::vector<Accumulator<T>> middle(size);
        for (int64_t i = begin; i < end; ++i) {
            const Tile tile = tile_at<UP>(p, i);
            filter_rows<UP, T>(p, tile, alone, middle.data());
            filter_columns<UP, T>(p, tile, alone, middle.data());
        }
    });
}

}  // namespace

void bias_act_cpu(const BiasAct& p) {
    with_type(p.type, [&](auto zero) {
        using T = decltype(zero);
        if (p.h) return bias_act_all<2, T>(p);
        if (p.g) return bias_act_all<1, T>(p);
        bias_act_all<0, T>(p);
    });
}

void upfirdn2d_cpu(const Upfirdn& p) {
    const int64_t count = int64_t(p.batch) * p.channels * p.vertical.out * p.horizontal.out;
    with_type(p.type, [&](auto zero) {
        at::parallel_for(0, count, GRAIN, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) filter_at<decltype(zero)>(p, i);
        });
    });
}

void upfirdn2d_separable_cpu(const Upfirdn& p) {
    const int up = p.vertical.up == p.horizontal.up ? p.vertical.up : 0;
    with_type(p.type, [&](auto zero) {
        using T = decltype(zero);
        if (up == 1) return upfirdn2d_separable_all<1, T>(p);
        if (up == 2) return upfirdn2d_separable_all<2, T>(p);
        upfirdn2d_separable_all<0, T>(p);
    });
}

}  // namespace dystyle
