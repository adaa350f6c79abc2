/*
 * Masks digits in responses that are text, or do not say what they are: of every run of as many digits as the configuration says, or more, only the last four stay.
 *
 *     c++ -std=c++17 -shared -fPIC -O2 -I crates/sluice-abi/include -o libmask.so crates/sluice-abi/examples/mask.cpp
 *
 *     filters:
 *       - module: { library: ./libmask.so, config: 12 }
 */
#include "sluice_filter.hpp"

#include <algorithm>
#include <cctype>

namespace {

class Masking final : public sluice::Exchange {
public:
    Masking(size_t digits, uint32_t masked) : digits_(digits), masked_(masked) {}

    sluice::Step response_headers(sluice::Request &request, bool end) override {
        const auto type = request.get(sluice::Part::ResponseHeaders, "content-type");
        const bool is_text = !type || type->substr(0, 5) == "text/";
        /* The whole of it is needed: a number may be split between two pieces. */
        return is_text && !end ? sluice::Step::Buffer : sluice::Step::Continue;
    }

    sluice::Step response_body(sluice::Request &request, bool) override {
        std::string body(request.body());
        size_t found = 0;
        for (size_t at = 0; at < body.size();) {
            size_t last = at;
            while (last < body.size() && std::isdigit(static_cast<unsigned char>(body[last]))) last++;
            if (last - at >= digits_ && last - at > 4) {
                std::fill(body.begin() + at, body.begin() + (last - 4), '*');
                found++;
            }
            at = last + 1;
        }
        if (found > 0) {
            request.set_body(body);
            request.set(sluice::Part::ResponseHeaders, "x-masked", std::to_string(found));
            request.count(masked_, found);
        }
        return sluice::Step::Continue;
    }

private:
    const size_t digits_;
    const uint32_t masked_;
};

class Mask final : public sluice::Filter {
public:
    Mask(sluice::Config &config, std::string_view, std::string_view text) {
        size_t used = 0;
        try {
            digits_ = std::stoul(std::string(text), &used);
        } catch (const std::exception &) {
        }
        if (used != text.size() || digits_ < 5) throw std::invalid_argument("a number of digits from 5 is needed");
        masked_ = config.counter("masked");
    }

    std::unique_ptr<sluice::Exchange> begin(sluice::Request &) override {
        return std::make_unique<Masking>(digits_, masked_);
    }

private:
    size_t digits_ = 0;
    uint32_t masked_ = 0;
};

} // namespace

SLUICE_MODULE("mask 1.0", Mask)
