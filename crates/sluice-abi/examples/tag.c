/*
 * Tags every request and response with the text of the configuration, and refuses requests without a name.
 *
 *     cc -shared -fPIC -O2 -I crates/sluice-abi/include -o libtag.so crates/sluice-abi/examples/tag.c
 *
 *     filters:
 *       - module: { library: ./libtag.so, config: gold }
 */
#include "sluice_filter.h"

#include <stdlib.h>
#include <string.h>

static const sluice_host *host;

typedef struct tag {
    uint32_t refused;
    size_t size;
    char text[];
} tag;

static sluice_text text(const char *of) { return (sluice_text){of, strlen(of)}; }

static sluice_result config_new(sluice_config config, sluice_text filter, sluice_text of, void **object) {
    (void)filter;
    if (of.size == 0) {
        host->config_refuse(config, text("the tag is empty"));
        return SLUICE_INVALID;
    }
    tag *made = malloc(sizeof(tag) + of.size);
    if (made == NULL) return SLUICE_INTERNAL;
    made->size = of.size;
    memcpy(made->text, of.data, of.size);
    host->config_counter(config, text("refused"), &made->refused);
    *object = made;
    return SLUICE_OK;
}

static void config_free(void *object) { free(object); }

static sluice_step request_headers(sluice_request request, void *config, void *state, int32_t end) {
    (void)state, (void)end;
    const tag *of = config;
    sluice_text user;
    if (host->header(request, SLUICE_REQUEST_HEADERS, text("x-user"), 0, &user) != SLUICE_OK) {
        host->count(request, of->refused, 1);
        const sluice_field fields[] = {{text("www-authenticate"), text("Name")}};
        host->respond(request, 401, fields, 1, text("who are you?\n"), text("no name"));
        return SLUICE_RESPOND;
    }
    host->value_set(request, text("user"), user);
    host->header_set(request, SLUICE_REQUEST_HEADERS, text("x-tag"), (sluice_text){of->text, of->size});
    return SLUICE_CONTINUE;
}

static sluice_step response_headers(sluice_request request, void *config, void *state, int32_t end) {
    (void)state, (void)end;
    const tag *of = config;
    host->header_set(request, SLUICE_RESPONSE_HEADERS, text("x-tag"), (sluice_text){of->text, of->size});
    host->header_remove(request, SLUICE_RESPONSE_HEADERS, text("server"));
    return SLUICE_CONTINUE;
}

const sluice_module *sluice_module_init(const sluice_host *of) {
    static const sluice_module module = {
        .size = sizeof(sluice_module),
        .major = SLUICE_ABI_MAJOR,
        .minor = SLUICE_ABI_MINOR,
        .name = {"tag 1.0", 7},
        .config_new = config_new,
        .config_free = config_free,
        .request_headers = request_headers,
        .response_headers = response_headers,
    };
    /* All that is used must be there. */
    if (of->major != SLUICE_ABI_MAJOR || !SLUICE_HAS(of, value_set)) return NULL;
    host = of;
    return &module;
}
