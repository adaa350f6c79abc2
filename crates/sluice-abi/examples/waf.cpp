/*
 * A web application firewall: judges requests by the rules of libmodsecurity 3, such as the OWASP Core Rule Set.
 *
 *     apt-get install libmodsecurity-dev modsecurity-crs
 *     c++ -std=c++17 -shared -fPIC -O2 -I crates/sluice-abi/include -o libwaf.so crates/sluice-abi/examples/waf.cpp -lmodsecurity
 *
 *     filters:
 *       - module: { library: ./libwaf.so, config: waf.conf, body_max: 128KiB }
 *
 * waf.conf is a file of rules, with the path as the process sees it:
 *
 *     SecRuleEngine On
 *     SecRequestBodyAccess On
 *     Include /etc/modsecurity/crs/crs-setup.conf
 *     Include /usr/share/modsecurity-crs/rules/REQUEST-9*.conf
 *
 * Rules run on the worker: the Core Rule Set takes in the order of a millisecond for a request, which other requests of the worker
 * wait for. Responses are not judged.
 */
#include "sluice_filter.hpp"

#include <modsecurity/intervention.h>
#include <modsecurity/modsecurity.h>
#include <modsecurity/rules_set.h>
#include <modsecurity/transaction.h>

#include <cstdlib>
#include <cstring>

namespace {

class Waf final : public sluice::Filter {
public:
    Waf(sluice::Config &config, std::string_view, std::string_view file) {
        /* Rules that match are reported here; the ones that block are in the record as well. */
        engine.setServerLogCb([](void *, const void *line) { sluice::log(SLUICE_LOG_INFO, static_cast<const char *>(line)); });
        if (rules.loadFromUri(std::string(file).c_str()) < 0) throw std::runtime_error(rules.getParserError());
        blocked = config.counter("blocked");
    }

    std::unique_ptr<sluice::Exchange> begin(sluice::Request &) override;

    modsecurity::ModSecurity engine;
    modsecurity::RulesSet rules;
    uint32_t blocked = 0;
};

/* An address without its port. */
std::string host_of(std::string_view address, int &port) {
    const auto colon = address.rfind(':');
    if (colon == std::string_view::npos) return "0.0.0.0"; /* a unix socket */
    port = std::atoi(std::string(address.substr(colon + 1)).c_str());
    address = address.substr(0, colon);
    if (address.size() > 2 && address.front() == '[') address = address.substr(1, address.size() - 2);
    return std::string(address);
}

class Judging final : public sluice::Exchange {
public:
    explicit Judging(Waf &of) : of_(of), transaction_(&of.engine, &of.rules, nullptr) {}

    sluice::Step request_headers(sluice::Request &request, bool end) override {
        int client_port = 0, server_port = 0;
        const auto client = host_of(request.fact(SLUICE_FACT_SOURCE).value_or(""), client_port);
        const auto server = host_of(request.fact(SLUICE_FACT_LOCAL).value_or(""), server_port);
        transaction_.processConnection(client.c_str(), client_port, server.c_str(), server_port);
        const std::string path(request.get(sluice::Part::RequestHeaders, ":path").value_or("/"));
        const std::string method(request.get(sluice::Part::RequestHeaders, ":method").value_or("GET"));
        const auto protocol = request.fact(SLUICE_FACT_PROTOCOL).value_or("HTTP/1.1");
        transaction_.processURI(path.c_str(), method.c_str(), std::string(protocol.substr(protocol.find('/') + 1)).c_str());
        if (const auto host = request.get(sluice::Part::RequestHeaders, ":authority")) add("host", *host);
        for (const auto &[name, value] : request.all(sluice::Part::RequestHeaders))
            if (name != "host") add(name, value);
        transaction_.processRequestHeaders();
        if (const auto step = judged(request)) return *step;
        if (!end) return sluice::Step::Buffer;
        return with_body(request, {});
    }

    sluice::Step request_body(sluice::Request &request, bool) override { return with_body(request, request.body()); }

    void ended(sluice::Request &) override { transaction_.processLogging(); }

private:
    void add(std::string_view name, std::string_view value) {
        transaction_.addRequestHeader(std::string(name), std::string(value));
    }

    sluice::Step with_body(sluice::Request &request, std::string_view body) {
        if (!body.empty()) transaction_.appendRequestBody(reinterpret_cast<const unsigned char *>(body.data()), body.size());
        transaction_.processRequestBody();
        return judged(request).value_or(sluice::Step::Continue);
    }

    /* The response of a rule that blocks. */
    std::optional<sluice::Step> judged(sluice::Request &request) {
        modsecurity::ModSecurityIntervention found{};
        modsecurity::intervention::clean(&found);
        if (!transaction_.intervention(&found)) return std::nullopt;
        const int status = found.status >= 400 && found.status <= 599 ? found.status : 403;
        const std::string why = found.log ? found.log : "a rule";
        modsecurity::intervention::free(&found);
        request.count(of_.blocked);
        return request.respond(status, "the request was refused\n", {}, why);
    }

    Waf &of_;
    modsecurity::Transaction transaction_;
};

std::unique_ptr<sluice::Exchange> Waf::begin(sluice::Request &) { return std::make_unique<Judging>(*this); }

} // namespace

SLUICE_MODULE("waf 1.0", Waf)
