/*
 * Sends each hash to its shard: when endpoints are added at the end, only their share of the hashes moves (jump consistent
 * hash). The first shard is the endpoint whose address comes first. What a shard that is at a limit would get goes to the next in turn.
 *
 *     c++ -std=c++17 -shared -fPIC -O2 -I crates/sluice-abi/include -o libshard.so crates/sluice-abi/examples/shard.cpp
 *
 *     clusters:
 *       store:
 *         endpoints: [10.0.0.1:7000, 10.0.0.2:7000, 10.0.0.3:7000]
 *         balance: { module: { library: ./libshard.so } }
 *     routes:
 *       main: [{ rules: [{ cluster: store, hash: "header:x-user" }] }]
 */
#include "sluice_balancer.hpp"

#include <algorithm>
#include <numeric>

namespace {

/* Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014. */
size_t jump(uint64_t key, size_t shards) {
    int64_t last = -1, next = 0;
    while (next < static_cast<int64_t>(shards)) {
        last = next;
        key = key * 2862933555777941757ULL + 1;
        next = static_cast<int64_t>(static_cast<double>(last + 1) *
                                    (static_cast<double>(1LL << 31) / static_cast<double>((key >> 33) + 1)));
    }
    return static_cast<size_t>(last);
}

class Shards final : public sluice::EndpointTable {
public:
    explicit Shards(const sluice::Endpoints &endpoints) : order_(endpoints.size()) {
        std::iota(order_.begin(), order_.end(), size_t{0});
        std::sort(order_.begin(), order_.end(),
                  [&](size_t one, size_t other) { return endpoints.address(one) < endpoints.address(other); });
    }

    std::optional<size_t> pick(const sluice::Pick &pick) const override {
        const auto hash = pick.hash();
        if (!hash) return std::nullopt;
        return order_[jump(*hash, order_.size())];
    }

private:
    std::vector<size_t> order_;
};

class Shard final : public sluice::Balancer {
public:
    Shard(sluice::Config &, std::string_view, std::string_view text) {
        if (!text.empty()) throw std::invalid_argument("there is nothing to configure");
    }
    std::unique_ptr<sluice::EndpointTable> begin(const sluice::Endpoints &endpoints) const override {
        return std::make_unique<Shards>(endpoints);
    }
};

} // namespace

SLUICE_BALANCER_MODULE("shard 1.0", Shard)
