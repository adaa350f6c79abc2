/*
 * sluice_connection.hpp: connection filters for Sluice in C++17, over sluice_filter.h.
 *
 * A library derives from sluice::ConnectionFilter, which is made of a configuration and shared by all threads, and from
 * sluice::ConnectionPart, which is made for each connection and destroyed at its end, and exports the filter:
 *
 *     SLUICE_CONNECTION_MODULE("gate 1.0", Gate)            it decides whether connections are served
 *     SLUICE_BYTES_MODULE("gate 1.0", Gate)                 it sees and changes their bytes as well, where a relay moves them
 *     SLUICE_DATAGRAM_MODULE("gate 1.0", Gate)              it sees and changes the datagrams of UDP flows as well
 *     SLUICE_TRAFFIC_MODULE("gate 1.0", Gate)               both
 *
 * What sluice_filter.hpp says of configurations, exceptions and texts holds here, too.
 */
#ifndef SLUICE_CONNECTION_HPP
#define SLUICE_CONNECTION_HPP

#include "sluice_filter.hpp"

namespace sluice {

enum class ConnectionStep : sluice_step {
    Continue = SLUICE_CONTINUE,
    Wait = SLUICE_WAIT,
    Fail = SLUICE_FAIL,
    Close = SLUICE_CLOSE,
};

enum class DatagramStep : sluice_step {
    Forward = SLUICE_CONTINUE,
    Drop = SLUICE_DROP,
    Fail = SLUICE_FAIL,
    Close = SLUICE_CLOSE,
};

enum class ConnectionEvent : int32_t {
    Opened = SLUICE_ON_OPENED,
    Received = SLUICE_ON_RECEIVED,
    Sent = SLUICE_ON_SENT,
};

/* A connection, in the hook that gets it. Functions throw Refused. */
class Connection {
public:
    explicit Connection(sluice_connection handle) : handle_(handle) {}

    std::optional<std::string_view> fact(sluice_fact of) const {
        sluice_text value{};
        const auto code = host()->connection_fact(handle_, of, &value);
        return detail::lent(code, value);
    }
    std::optional<std::string_view> value(std::string_view name) const {
        sluice_text value{};
        const auto code = host()->connection_value(handle_, text(name), &value);
        return detail::lent(code, value);
    }
    void set_value(std::string_view name, std::string_view value) {
        detail::done(host()->connection_value_set(handle_, text(name), text(value)));
    }
    void count(uint32_t counter, uint64_t amount = 1) { detail::done(host()->connection_count(handle_, counter, amount)); }
    std::string_view bytes() const {
        sluice_text bytes{};
        detail::done(host()->connection_bytes(handle_, &bytes));
        return view(bytes);
    }
    void set_bytes(std::string_view bytes) { detail::done(host()->connection_bytes_set(handle_, text(bytes))); }
    /* Says for the record why the connection ends, and returns the step that ends it. */
    ConnectionStep close(std::string_view why) {
        detail::done(host()->connection_note(handle_, text(why)));
        return ConnectionStep::Close;
    }
    /* A ticket for this hook, which then returns ConnectionStep::Wait. */
    Ticket suspend() {
        sluice_ticket ticket{};
        detail::done(host()->connection_suspend(handle_, &ticket));
        return Ticket(ticket);
    }

private:
    sluice_connection handle_;
};

/* What a filter does with one connection. `end` says whether no bytes follow. */
class ConnectionPart {
public:
    virtual ~ConnectionPart() = default;
    virtual ConnectionStep opened(Connection &) { return ConnectionStep::Continue; }
    virtual ConnectionStep received(Connection &, bool) { return ConnectionStep::Continue; }
    virtual ConnectionStep sent(Connection &, bool) { return ConnectionStep::Continue; }
    /* A datagram of the client, and one to it: bytes() and set_bytes() are those of it. */
    virtual DatagramStep datagram_received(Connection &) { return DatagramStep::Forward; }
    virtual DatagramStep datagram_sent(Connection &) { return DatagramStep::Forward; }
    virtual ConnectionStep resumed(Connection &, ConnectionEvent) { return ConnectionStep::Continue; }
    /* The connection has ended; this is destroyed afterwards. */
    virtual void ended(Connection &) {}
};

/* What a library makes of a configuration. All threads share it. */
class ConnectionFilter {
public:
    virtual ~ConnectionFilter() = default;
    virtual std::unique_ptr<ConnectionPart> begin(Connection &connection) = 0;
};

namespace detail {

inline sluice_result connection_new(sluice_connection handle, void *object, void **state) noexcept {
    const auto begun = hook([&] {
        Connection connection(handle);
        *state = static_cast<ConnectionFilter *>(object)->begin(connection).release();
        return ConnectionStep::Continue;
    });
    return begun == SLUICE_CONTINUE ? SLUICE_OK : SLUICE_INTERNAL;
}

inline void connection_end(sluice_connection handle, void *, void *state) noexcept {
    const std::unique_ptr<ConnectionPart> part(static_cast<ConnectionPart *>(state));
    if (!part) return;
    hook([&] {
        Connection connection(handle);
        part->ended(connection);
        return ConnectionStep::Continue;
    });
}

inline sluice_step connection_opened(sluice_connection handle, void *, void *state, int32_t) noexcept {
    if (!state) return SLUICE_CONTINUE;
    return hook([&] {
        Connection connection(handle);
        return static_cast<ConnectionPart *>(state)->opened(connection);
    });
}

template <ConnectionStep (ConnectionPart::*Of)(Connection &, bool)>
sluice_step bytes(sluice_connection handle, void *, void *state, int32_t end) noexcept {
    if (!state) return SLUICE_CONTINUE;
    return hook([&] {
        Connection connection(handle);
        return (static_cast<ConnectionPart *>(state)->*Of)(connection, end != 0);
    });
}

template <DatagramStep (ConnectionPart::*Of)(Connection &)>
sluice_step datagram(sluice_connection handle, void *, void *state, int32_t) noexcept {
    if (!state) return SLUICE_CONTINUE;
    return hook([&] {
        Connection connection(handle);
        return (static_cast<ConnectionPart *>(state)->*Of)(connection);
    });
}

inline sluice_step connection_resumed(sluice_connection handle, void *, void *state, int32_t of) noexcept {
    if (!state) return SLUICE_CONTINUE;
    return hook([&] {
        Connection connection(handle);
        return static_cast<ConnectionPart *>(state)->resumed(connection, static_cast<ConnectionEvent>(of));
    });
}

template <class Of, bool Bytes, bool Datagrams> const sluice_module *connection_init(const sluice_host *table, std::string_view name) {
    if (!table || table->major != SLUICE_ABI_MAJOR || !SLUICE_HAS(table, connection_suspend)) return nullptr;
    sluice_module &module = module_of<ConnectionFilter, Of>(table, name);
    module.connection_new = connection_new;
    module.connection_end = connection_end;
    module.connection_opened = connection_opened;
    module.connection_resumed = connection_resumed;
    if (Bytes) {
        module.connection_received = bytes<&ConnectionPart::received>;
        module.connection_sent = bytes<&ConnectionPart::sent>;
    }
    if (Datagrams) {
        /* A host of version 1.1 has no hooks for datagrams, and would pass them all. */
        if (table->minor < 2) return nullptr;
        module.datagram_received = datagram<&ConnectionPart::datagram_received>;
        module.datagram_sent = datagram<&ConnectionPart::datagram_sent>;
    }
    return &module;
}

} // namespace detail
} // namespace sluice

/* Exports a connection filter; once in a library. */
#define SLUICE_CONNECTION_MODULE(name, filter)                                                  \
    extern "C" SLUICE_EXPORT const sluice_module *sluice_module_init(const sluice_host *host) { \
        return sluice::detail::connection_init<filter, false, false>(host, name);               \
    }
#define SLUICE_BYTES_MODULE(name, filter)                                                       \
    extern "C" SLUICE_EXPORT const sluice_module *sluice_module_init(const sluice_host *host) { \
        return sluice::detail::connection_init<filter, true, false>(host, name);                \
    }
#define SLUICE_TRAFFIC_MODULE(name, filter)                                                     \
    extern "C" SLUICE_EXPORT const sluice_module *sluice_module_init(const sluice_host *host) { \
        return sluice::detail::connection_init<filter, true, true>(host, name);                 \
    }
#define SLUICE_DATAGRAM_MODULE(name, filter)                                                    \
    extern "C" SLUICE_EXPORT const sluice_module *sluice_module_init(const sluice_host *host) { \
        return sluice::detail::connection_init<filter, false, true>(host, name);                \
    }

#endif
