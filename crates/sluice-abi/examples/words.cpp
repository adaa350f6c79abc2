/*
 * Ends connections and UDP flows in which the client sends one of the words of the configuration, and masks them in what it
 * receives.
 *
 *     c++ -std=c++17 -shared -fPIC -O2 -I crates/sluice-abi/include -o libwords.so crates/sluice-abi/examples/words.cpp
 *
 *     listeners:
 *       - address: 127.0.0.1:6379
 *         relay: app
 *         filters:
 *           - module: { library: ./libwords.so, config: "FLUSHALL,SHUTDOWN" }
 */
#include "sluice_connection.hpp"

#include <algorithm>

namespace {

class Words final : public sluice::ConnectionFilter {
public:
    Words(sluice::Config &config, std::string_view, std::string_view text) {
        while (!text.empty()) {
            const auto comma = std::min(text.find(','), text.size());
            if (comma > 0) words.emplace_back(text.substr(0, comma));
            text.remove_prefix(std::min(comma + 1, text.size()));
        }
        if (words.empty()) throw std::invalid_argument("words are needed, with commas in between");
        for (const auto &word : words) longest = std::max(longest, word.size());
        found = config.counter("found");
    }

    std::unique_ptr<sluice::ConnectionPart> begin(sluice::Connection &) override;

    std::vector<std::string> words;
    size_t longest = 0;
    uint32_t found = 0;
};

class Watch final : public sluice::ConnectionPart {
public:
    explicit Watch(const Words &of) : of_(of) {}

    sluice::ConnectionStep opened(sluice::Connection &connection) override {
        connection.set_value("words", std::to_string(of_.words.size()));
        return sluice::ConnectionStep::Continue;
    }

    sluice::ConnectionStep received(sluice::Connection &connection, bool) override {
        /* A word may be split between two pieces. */
        last_.append(connection.bytes());
        for (const auto &word : of_.words) {
            if (last_.find(word) == std::string::npos) continue;
            connection.count(of_.found);
            return connection.close("the client sent " + word);
        }
        last_.erase(0, last_.size() - std::min(last_.size(), of_.longest - 1));
        return sluice::ConnectionStep::Continue;
    }

    sluice::ConnectionStep sent(sluice::Connection &connection, bool) override {
        mask(connection);
        return sluice::ConnectionStep::Continue;
    }

    /* A word is never split between two datagrams. */
    sluice::DatagramStep datagram_received(sluice::Connection &flow) override {
        for (const auto &word : of_.words) {
            if (flow.bytes().find(word) == std::string_view::npos) continue;
            flow.count(of_.found);
            flow.close("the client sent " + word);
            return sluice::DatagramStep::Close;
        }
        return sluice::DatagramStep::Forward;
    }

    sluice::DatagramStep datagram_sent(sluice::Connection &flow) override {
        mask(flow);
        return sluice::DatagramStep::Forward;
    }

private:
    void mask(sluice::Connection &connection) const {
        std::string bytes(connection.bytes());
        bool changed = false;
        for (const auto &word : of_.words)
            for (auto at = bytes.find(word); at != std::string::npos; at = bytes.find(word, at)) {
                bytes.replace(at, word.size(), word.size(), '*');
                changed = true;
            }
        if (changed) connection.set_bytes(bytes);
    }

    const Words &of_;
    std::string last_;
};

std::unique_ptr<sluice::ConnectionPart> Words::begin(sluice::Connection &) { return std::make_unique<Watch>(*this); }

} // namespace

SLUICE_TRAFFIC_MODULE("words 1.0", Words)
