/*
 * sluice_balancer.hpp: load balancers for Sluice in C++17, over sluice_filter.h.
 *
 * A library derives from sluice::Balancer, which is made of a configuration, and from sluice::EndpointTable, which is made for
 * each list of endpoints, and exports the balancer:
 *
 *     SLUICE_BALANCER_MODULE("shard 1.0", Shard)
 *
 * What sluice_filter.hpp says of configurations and texts holds here, too. Both are shared by all threads, which may all pick at
 * once. A pick for which an exception is thrown has failed: the next endpoint in turn is taken, and the failure counted.
 */
#ifndef SLUICE_BALANCER_HPP
#define SLUICE_BALANCER_HPP

#include "sluice_filter.hpp"

namespace sluice {

/* The endpoints, in the call that gets them. Functions throw Refused. */
class Endpoints {
public:
    Endpoints(sluice_balancer handle, size_t count) : handle_(handle), count_(count) {}

    size_t size() const { return count_; }
    std::string_view address(size_t index) const {
        return fact(index, SLUICE_ENDPOINT_ADDRESS).value_or(std::string_view());
    }
    std::optional<std::string_view> host(size_t index) const { return fact(index, SLUICE_ENDPOINT_HOST); }
    std::optional<std::string_view> locality(size_t index) const { return fact(index, SLUICE_ENDPOINT_LOCALITY); }
    uint64_t weight(size_t index) const { return number(index, SLUICE_ENDPOINT_WEIGHT); }
    uint64_t load(size_t index) const { return number(index, SLUICE_ENDPOINT_LOAD); }
    uint64_t priority(size_t index) const { return number(index, SLUICE_ENDPOINT_PRIORITY); }

protected:
    sluice_balancer handle_;

private:
    std::optional<std::string_view> fact(size_t index, sluice_endpoint_fact of) const {
        sluice_text value{};
        const auto code = sluice::host()->endpoint_fact(handle_, index, of, &value);
        return detail::lent(code, value);
    }
    uint64_t number(size_t index, sluice_endpoint_number which) const {
        uint64_t number = 0;
        detail::done(sluice::host()->endpoint_number(handle_, index, which, &number));
        return number;
    }
    size_t count_;
};

/* A pick for a connection, flow or request. */
class Pick final : public Endpoints {
public:
    using Endpoints::Endpoints;

    /* Whether an endpoint can be chosen now. */
    bool open(size_t index) const {
        const auto code = sluice::host()->endpoint_open(handle_, index);
        if (code != SLUICE_NOT_FOUND) detail::done(code);
        return code == SLUICE_OK;
    }
    std::optional<uint64_t> hash() const {
        uint64_t hash = 0;
        const auto code = sluice::host()->pick_hash(handle_, &hash);
        if (code == SLUICE_NOT_FOUND) return std::nullopt;
        detail::done(code);
        return hash;
    }
    /* A random number below `bound`. */
    uint64_t random(uint64_t bound) const {
        uint64_t number = 0;
        detail::done(sluice::host()->pick_random(handle_, bound, &number));
        return number;
    }
};

/* What a balancer makes of a list of endpoints. */
class EndpointTable {
public:
    virtual ~EndpointTable() = default;
    /* The index of an endpoint that is open; nothing: the next in turn. */
    virtual std::optional<size_t> pick(const Pick &pick) const = 0;
};

/* What a library makes of a configuration. */
class Balancer {
public:
    virtual ~Balancer() = default;
    virtual std::unique_ptr<EndpointTable> begin(const Endpoints &endpoints) const = 0;
};

namespace detail {

/* A table, and the number of its endpoints. */
struct Balanced {
    std::unique_ptr<EndpointTable> table;
    size_t count;
};

inline sluice_result balancer_new(sluice_balancer handle, void *object, size_t count, void **state) noexcept {
    const auto begun = hook([&] {
        auto table = static_cast<const Balancer *>(object)->begin(Endpoints(handle, count));
        *state = new Balanced{std::move(table), count};
        return Step::Continue;
    });
    return begun == SLUICE_CONTINUE ? SLUICE_OK : SLUICE_INTERNAL;
}

inline void balancer_free(void *, void *state) noexcept { delete static_cast<Balanced *>(state); }

inline sluice_result balancer_pick(sluice_balancer handle, void *, void *state, size_t *index) noexcept {
    const auto *of = static_cast<const Balanced *>(state);
    std::optional<size_t> chosen;
    const auto picked = hook([&] {
        if (of->table) chosen = of->table->pick(Pick(handle, of->count));
        return Step::Continue;
    });
    if (picked != SLUICE_CONTINUE) return SLUICE_INTERNAL;
    if (!chosen) return SLUICE_NOT_FOUND;
    *index = *chosen;
    return SLUICE_OK;
}

template <class Of> const sluice_module *balancer_init(const sluice_host *table, std::string_view name) {
    if (!table || table->major != SLUICE_ABI_MAJOR || !SLUICE_HAS(table, pick_random)) return nullptr;
    sluice_module &module = module_of<Balancer, Of>(table, name);
    module.balancer_new = balancer_new;
    module.balancer_free = balancer_free;
    module.balancer_pick = balancer_pick;
    return &module;
}

} // namespace detail
} // namespace sluice

/* Exports a balancer; once in a library. */
#define SLUICE_BALANCER_MODULE(name, balancer)                                                  \
    extern "C" SLUICE_EXPORT const sluice_module *sluice_module_init(const sluice_host *host) { \
        return sluice::detail::balancer_init<balancer>(host, name);                             \
    }

#endif
