/*
 * sluice_filter.hpp: loaded libraries for Sluice in C++17, over sluice_filter.h.
 *
 * A library derives from sluice::Filter, which is made of a configuration and shared by all threads, and from
 * sluice::Exchange, which is made for each request and destroyed at its end, and exports both:
 *
 *     SLUICE_MODULE("tag 1.0", Tag)
 *
 * Tag has a constructor that takes (sluice::Config &, std::string_view filter, std::string_view text) and throws
 * std::exception if the text cannot be used; `what()` is what `sluice check` prints. Exceptions of hooks are failures of
 * their request. A std::string_view that a Request returns is valid until the hook ends or the message is changed.
 */
#ifndef SLUICE_FILTER_HPP
#define SLUICE_FILTER_HPP

#include "sluice_filter.h"

#include <exception>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace sluice {

/* The functions of the host; set before anything else of a library runs. */
inline const sluice_host *&host() {
    static const sluice_host *table = nullptr;
    return table;
}

inline sluice_text text(std::string_view view) { return {view.data(), view.size()}; }
inline std::string_view view(sluice_text of) { return of.size == 0 ? std::string_view() : std::string_view(of.data, of.size); }

/* The host did not do something. */
class Refused : public std::runtime_error {
public:
    explicit Refused(sluice_result code)
        : std::runtime_error("sluice: result " + std::to_string(code)), code(code) {}
    const sluice_result code;
};

namespace detail {
inline void done(sluice_result code) {
    if (code != SLUICE_OK) throw Refused(code);
}
inline std::optional<std::string_view> lent(sluice_result code, sluice_text of) {
    if (code == SLUICE_NOT_FOUND) return std::nullopt;
    done(code);
    return view(of);
}
} // namespace detail

/* Writes a line to the log; on any thread, at any time. */
inline void log(int32_t level, std::string_view line) { host()->log(level, text(line)); }

enum class Step : sluice_step {
    Continue = SLUICE_CONTINUE,
    Respond = SLUICE_RESPOND,
    Wait = SLUICE_WAIT,
    Fail = SLUICE_FAIL,
    Read = SLUICE_READ,
    Edit = SLUICE_EDIT,
    Buffer = SLUICE_BUFFER,
};

enum class Part : sluice_part {
    RequestHeaders = SLUICE_REQUEST_HEADERS,
    RequestTrailers = SLUICE_REQUEST_TRAILERS,
    ResponseHeaders = SLUICE_RESPONSE_HEADERS,
    ResponseTrailers = SLUICE_RESPONSE_TRAILERS,
};

enum class Hook : sluice_hook {
    RequestHeaders = SLUICE_ON_REQUEST_HEADERS,
    RequestBody = SLUICE_ON_REQUEST_BODY,
    RequestTrailers = SLUICE_ON_REQUEST_TRAILERS,
    ResponseHeaders = SLUICE_ON_RESPONSE_HEADERS,
    ResponseBody = SLUICE_ON_RESPONSE_BODY,
    ResponseTrailers = SLUICE_ON_RESPONSE_TRAILERS,
};

/* A configuration that is being checked. */
class Config {
public:
    explicit Config(sluice_config handle) : handle_(handle) {}

    /* Declares a counter; returns its number for Request::count. */
    uint32_t counter(std::string_view name) {
        uint32_t number = 0;
        detail::done(host()->config_counter(handle_, text(name), &number));
        return number;
    }
    /* Declares that the filter may set :path or :authority. */
    void edits_target() { detail::done(host()->config_edits_target(handle_)); }

private:
    sluice_config handle_;
};

/* A wait, which ends when this is resumed or destroyed, on any thread. */
class Ticket {
public:
    explicit Ticket(sluice_ticket ticket) : ticket_(ticket) {}
    Ticket(Ticket &&other) noexcept : ticket_(std::exchange(other.ticket_, std::nullopt)) {}
    Ticket &operator=(Ticket &&other) noexcept {
        if (this != &other) {
            resume();
            ticket_ = std::exchange(other.ticket_, std::nullopt);
        }
        return *this;
    }
    Ticket(const Ticket &) = delete;
    Ticket &operator=(const Ticket &) = delete;
    ~Ticket() { resume(); }

    void resume() noexcept {
        if (!ticket_) return;
        while (host()->resume(*ticket_) == SLUICE_BUSY) std::this_thread::yield();
        ticket_.reset();
    }

private:
    std::optional<sluice_ticket> ticket_;
};

/* How a call ended: the status of the response and its body, or 0 and why there is none. */
struct Answer {
    uint32_t status;
    std::string_view body;
};

/* A request, in the hook that gets it. Functions throw Refused. */
class Request {
public:
    explicit Request(sluice_request handle) : handle_(handle) {}

    std::optional<std::string_view> get(Part part, std::string_view name, size_t index = 0) const {
        sluice_text value{};
        const auto code = host()->header(handle_, static_cast<sluice_part>(part), text(name), index, &value);
        return detail::lent(code, value);
    }
    std::vector<std::pair<std::string_view, std::string_view>> all(Part part) const {
        std::vector<sluice_field> fields(64);
        size_t count = 0;
        for (;;) {
            detail::done(host()->headers(handle_, static_cast<sluice_part>(part), fields.data(), fields.size(), &count));
            if (count <= fields.size()) break;
            fields.resize(count);
        }
        std::vector<std::pair<std::string_view, std::string_view>> found;
        for (size_t index = 0; index < count; index++)
            found.emplace_back(view(fields[index].name), view(fields[index].value));
        return found;
    }
    void add(Part part, std::string_view name, std::string_view value) {
        detail::done(host()->header_add(handle_, static_cast<sluice_part>(part), text(name), text(value)));
    }
    void set(Part part, std::string_view name, std::string_view value) {
        detail::done(host()->header_set(handle_, static_cast<sluice_part>(part), text(name), text(value)));
    }
    bool remove(Part part, std::string_view name) {
        const auto code = host()->header_remove(handle_, static_cast<sluice_part>(part), text(name));
        if (code == SLUICE_NOT_FOUND) return false;
        detail::done(code);
        return true;
    }
    std::string_view body() const {
        sluice_text bytes{};
        detail::done(host()->body(handle_, &bytes));
        return view(bytes);
    }
    void set_body(std::string_view bytes) { detail::done(host()->body_set(handle_, text(bytes))); }

    /* Makes a response, and returns the step that sends it. */
    Step respond(uint32_t status, std::string_view body = {},
                 std::initializer_list<std::pair<std::string_view, std::string_view>> headers = {},
                 std::string_view details = {}) {
        std::vector<sluice_field> fields;
        for (const auto &[name, value] : headers) fields.push_back({text(name), text(value)});
        detail::done(host()->respond(handle_, status, fields.data(), fields.size(), text(body), text(details)));
        return Step::Respond;
    }
    std::optional<std::string_view> value(std::string_view name) const {
        sluice_text found{};
        const auto code = host()->value(handle_, text(name), &found);
        return detail::lent(code, found);
    }
    void set_value(std::string_view name, std::string_view value) {
        detail::done(host()->value_set(handle_, text(name), text(value)));
    }
    std::optional<std::string_view> fact(sluice_fact fact) const {
        sluice_text found{};
        const auto code = host()->fact(handle_, fact, &found);
        return detail::lent(code, found);
    }
    void count(uint32_t counter, uint64_t amount = 1) { detail::done(host()->count(handle_, counter, amount)); }
    void reroute() { detail::done(host()->reroute(handle_)); }

    /* A ticket for this hook, which then returns Step::Wait. */
    Ticket suspend() {
        sluice_ticket ticket{};
        detail::done(host()->suspend(handle_, &ticket));
        return Ticket(ticket);
    }

    /* Calls a cluster of `clusters` in the settings, when the hook returns Step::Wait, which is what this returns. The headers
       have :method and :path. 0 ms: with the time of a filter. */
    Step call(std::string_view cluster, std::initializer_list<std::pair<std::string_view, std::string_view>> headers,
              std::string_view body = {}, uint64_t timeout_ms = 0) {
        std::vector<sluice_field> fields;
        for (const auto &[name, value] : headers) fields.push_back({text(name), text(value)});
        detail::done(SLUICE_HAS(host(), call) ? host()->call(handle_, text(cluster), fields.data(), fields.size(), text(body), timeout_ms)
                                              : SLUICE_INTERNAL);
        return Step::Wait;
    }
    /* How the call ended that `resumed` waited for. */
    std::optional<Answer> answer() const {
        if (!SLUICE_HAS(host(), call_answer)) return std::nullopt;
        uint32_t status = 0;
        sluice_text body{};
        const auto code = host()->call_answer(handle_, &status, &body);
        if (!detail::lent(code, body)) return std::nullopt;
        return Answer{status, view(body)};
    }
    std::optional<std::string_view> answer_header(std::string_view name, size_t index = 0) const {
        if (!SLUICE_HAS(host(), call_header)) return std::nullopt;
        sluice_text value{};
        const auto code = host()->call_header(handle_, text(name), index, &value);
        return detail::lent(code, value);
    }

private:
    sluice_request handle_;
};

/* What a filter does with one request. `end` says whether nothing of the message follows. */
class Exchange {
public:
    virtual ~Exchange() = default;
    virtual Step request_headers(Request &, bool) { return Step::Continue; }
    virtual Step request_body(Request &, bool) { return Step::Continue; }
    virtual Step request_trailers(Request &) { return Step::Continue; }
    virtual Step response_headers(Request &, bool) { return Step::Continue; }
    virtual Step response_body(Request &, bool) { return Step::Continue; }
    virtual Step response_trailers(Request &) { return Step::Continue; }
    virtual Step resumed(Request &, Hook) { return Step::Continue; }
    /* The request has ended; this is destroyed afterwards. */
    virtual void ended(Request &) {}
};

/* What a library makes of a configuration. All threads share it. */
class Filter {
public:
    virtual ~Filter() = default;
    virtual std::unique_ptr<Exchange> begin(Request &request) = 0;
};

namespace detail {

template <class Run> sluice_step hook(Run run) noexcept {
    try {
        return static_cast<sluice_step>(run());
    } catch (const std::exception &error) {
        log(SLUICE_LOG_ERROR, error.what());
    } catch (...) {
        log(SLUICE_LOG_ERROR, "an exception that is no std::exception");
    }
    return SLUICE_FAIL;
}

inline void refuse(sluice_config config, const char *why) { host()->config_refuse(config, text(why)); }

template <class Base, class Of>
sluice_result config_new(sluice_config config, sluice_text filter, sluice_text of, void **object) noexcept {
    try {
        Config context(config);
        Base *made = new Of(context, view(filter), view(of));
        *object = made;
        return SLUICE_OK;
    } catch (const std::exception &error) {
        refuse(config, error.what());
    } catch (...) {
        refuse(config, "an exception that is no std::exception");
    }
    return SLUICE_INVALID;
}

template <class Base> void config_free(void *object) noexcept { delete static_cast<Base *>(object); }

inline sluice_result request_new(sluice_request handle, void *object, void **state) noexcept {
    const auto begun = hook([&] {
        Request request(handle);
        *state = static_cast<Filter *>(object)->begin(request).release();
        return Step::Continue;
    });
    return begun == SLUICE_CONTINUE ? SLUICE_OK : SLUICE_INTERNAL;
}

inline void request_end(sluice_request handle, void *, void *state) noexcept {
    const std::unique_ptr<Exchange> exchange(static_cast<Exchange *>(state));
    if (!exchange) return;
    hook([&] {
        Request request(handle);
        exchange->ended(request);
        return Step::Continue;
    });
}

template <Step (Exchange::*Of)(Request &, bool)>
sluice_step part(sluice_request handle, void *, void *state, int32_t end) noexcept {
    if (!state) return SLUICE_CONTINUE;
    return hook([&] {
        Request request(handle);
        return (static_cast<Exchange *>(state)->*Of)(request, end != 0);
    });
}

template <Step (Exchange::*Of)(Request &)>
sluice_step trailers(sluice_request handle, void *, void *state, int32_t) noexcept {
    if (!state) return SLUICE_CONTINUE;
    return hook([&] {
        Request request(handle);
        return (static_cast<Exchange *>(state)->*Of)(request);
    });
}

inline sluice_step resumed(sluice_request handle, void *, void *state, sluice_hook of) noexcept {
    if (!state) return SLUICE_CONTINUE;
    return hook([&] {
        Request request(handle);
        return static_cast<Exchange *>(state)->resumed(request, static_cast<Hook>(of));
    });
}

/* What every library says of itself; `Kind` is what its configuration makes, and `Of` the class of the library. */
template <class Kind, class Of> sluice_module &module_of(const sluice_host *table, std::string_view name) {
    host() = table;
    static sluice_module module{};
    module.size = sizeof(sluice_module);
    module.major = SLUICE_ABI_MAJOR;
    module.minor = SLUICE_ABI_MINOR;
    module.name = text(name);
    module.config_new = config_new<Kind, Of>;
    module.config_free = config_free<Kind>;
    return module;
}

template <class Of> const sluice_module *init(const sluice_host *table, std::string_view name) {
    if (!table || table->major != SLUICE_ABI_MAJOR || !SLUICE_HAS(table, suspend)) return nullptr;
    sluice_module &module = module_of<Filter, Of>(table, name);
    module.request_new = request_new;
    module.request_end = request_end;
    module.request_headers = part<&Exchange::request_headers>;
    module.request_body = part<&Exchange::request_body>;
    module.request_trailers = trailers<&Exchange::request_trailers>;
    module.response_headers = part<&Exchange::response_headers>;
    module.response_body = part<&Exchange::response_body>;
    module.response_trailers = trailers<&Exchange::response_trailers>;
    module.resumed = resumed;
    return &module;
}

} // namespace detail
} // namespace sluice

/* Exports a filter; once in a library. For connection filters and access loggers, see sluice_connection.hpp and
   sluice_logger.hpp. */
#define SLUICE_MODULE(name, filter)                                                     \
    extern "C" SLUICE_EXPORT const sluice_module *sluice_module_init(const sluice_host *host) { \
        return sluice::detail::init<filter>(host, name);                                \
    }

#endif
