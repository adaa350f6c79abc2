/*
 * Counts the records of an access log by their first word, and writes the counts to the file of the configuration.
 *
 *     c++ -std=c++17 -shared -fPIC -O2 -I crates/sluice-abi/include -o libtally.so crates/sluice-abi/examples/tally.cpp
 *
 *     access_log:
 *       - sink: { module: { library: ./libtally.so, config: /var/log/sluice/tally } }
 *         format: "%RESPONSE_CODE%"
 *         kinds: request
 */
#include "sluice_logger.hpp"

#include <cstdio>
#include <fstream>
#include <map>

namespace {

class Tally final : public sluice::AccessLogger {
public:
    Tally(sluice::Config &, std::string_view, std::string_view text) : file_(text) {
        if (file_.empty()) throw std::invalid_argument("the name of a file is needed");
    }

    void record(sluice::LoggedKind, std::string_view line) override {
        const auto word = std::string(line.substr(0, line.find(' ')));
        /* Clients may choose what the words are. */
        const bool known = counts_.count(word) > 0 || counts_.size() < 1000;
        counts_[known ? word : "other"]++;
    }

    void done() override {
        const auto fresh = file_ + ".new";
        std::ofstream out(fresh, std::ios::trunc);
        for (const auto &[word, count] : counts_) out << word << ' ' << count << '\n';
        out.close();
        if (!out || std::rename(fresh.c_str(), file_.c_str()) != 0)
            sluice::log(SLUICE_LOG_WARN, "cannot write " + file_);
    }

private:
    const std::string file_;
    std::map<std::string, uint64_t> counts_;
};

} // namespace

SLUICE_LOGGER_MODULE("tally 1.0", Tally)
