/*
 * sluice_logger.hpp: access loggers for Sluice in C++17, over sluice_filter.h.
 *
 * A library derives from sluice::AccessLogger, which is made of a configuration, and exports it:
 *
 *     SLUICE_LOGGER_MODULE("tally 1.0", Tally)
 *
 * What sluice_filter.hpp says of configurations and texts holds here, too. A record for which an exception is thrown is lost, and
 * counted.
 */
#ifndef SLUICE_LOGGER_HPP
#define SLUICE_LOGGER_HPP

#include "sluice_filter.hpp"

namespace sluice {

enum class LoggedKind : sluice_record {
    Connection = SLUICE_RECORD_CONNECTION,
    Flow = SLUICE_RECORD_FLOW,
    Request = SLUICE_RECORD_REQUEST,
    Health = SLUICE_RECORD_HEALTH,
};

/* What a library makes of a configuration. One thread calls it, which may block. */
class AccessLogger {
public:
    virtual ~AccessLogger() = default;
    /* Takes a record in the format of the access log, without a line end. */
    virtual void record(LoggedKind kind, std::string_view line) = 0;
    /* No record follows for now: what was gathered can be written. */
    virtual void done() {}
};

namespace detail {

inline sluice_result record(void *object, sluice_record kind, sluice_text line) noexcept {
    const auto taken = hook([&] {
        static_cast<AccessLogger *>(object)->record(static_cast<LoggedKind>(kind), view(line));
        return Step::Continue;
    });
    return taken == SLUICE_CONTINUE ? SLUICE_OK : SLUICE_INTERNAL;
}

inline void records_done(void *object) noexcept {
    hook([&] {
        static_cast<AccessLogger *>(object)->done();
        return Step::Continue;
    });
}

template <class Of> const sluice_module *logger_init(const sluice_host *table, std::string_view name) {
    /* A host of version 1.0 has no records. */
    if (!table || table->major != SLUICE_ABI_MAJOR || table->minor < 1) return nullptr;
    sluice_module &module = module_of<AccessLogger, Of>(table, name);
    module.record = record;
    module.records_done = records_done;
    return &module;
}

} // namespace detail
} // namespace sluice

/* Exports an access logger; once in a library. */
#define SLUICE_LOGGER_MODULE(name, logger)                                                      \
    extern "C" SLUICE_EXPORT const sluice_module *sluice_module_init(const sluice_host *host) { \
        return sluice::detail::logger_init<logger>(host, name);                                 \
    }

#endif
