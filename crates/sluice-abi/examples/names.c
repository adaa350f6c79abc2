/*
 * Drops DNS queries for a domain and everything below it, before a relay of UDP.
 *
 *     cc -shared -fPIC -O2 -I crates/sluice-abi/include -o libnames.so crates/sluice-abi/examples/names.c
 *
 *     listeners:
 *       - address: udp://127.0.0.1:53
 *         relay: resolver
 *         filters:
 *           - module: { library: ./libnames.so, config: ads.example }
 */
#include "sluice_filter.h"

#include <stdlib.h>
#include <string.h>

static const sluice_host *host;

/* A domain, as text in lower case. */
typedef struct domain {
    uint32_t dropped;
    size_t size;
    char name[];
} domain;

static sluice_text text(const char *of) { return (sluice_text){of, strlen(of)}; }

static char lower(char of) { return of >= 'A' && of <= 'Z' ? (char)(of + 32) : of; }

static sluice_result config_new(sluice_config config, sluice_text filter, sluice_text of, void **object) {
    (void)filter;
    if (of.size == 0) {
        host->config_refuse(config, text("a domain is needed"));
        return SLUICE_INVALID;
    }
    domain *made = malloc(sizeof(domain) + of.size);
    if (made == NULL) return SLUICE_INTERNAL;
    made->size = of.size;
    for (size_t at = 0; at < of.size; at++) made->name[at] = lower(of.data[at]);
    host->config_counter(config, text("dropped"), &made->dropped);
    *object = made;
    return SLUICE_OK;
}

static void config_free(void *object) { free(object); }

/* Writes the name of the first question as text; returns its size, or 0 if there is none (RFC 1035, sections 4.1.1 and 3.1). */
static size_t question(sluice_text query, char *name) {
    const unsigned char *bytes = (const unsigned char *)query.data;
    size_t at = 12, size = 0;
    if (query.size < 12 || (bytes[4] == 0 && bytes[5] == 0)) return 0;
    while (at < query.size && bytes[at] != 0) {
        const size_t label = bytes[at++];
        /* A query has no compressed names. */
        if (label > 63 || label > query.size - at || size + label + 1 > 255) return 0;
        if (size > 0) name[size++] = '.';
        for (size_t end = at + label; at < end; at++) name[size++] = lower((char)bytes[at]);
    }
    return size;
}

static sluice_step datagram_received(sluice_connection connection, void *config, void *state, int32_t zero) {
    (void)state, (void)zero;
    const domain *of = config;
    sluice_text query;
    char name[256];
    if (host->connection_bytes(connection, &query) != SLUICE_OK) return SLUICE_FAIL;
    const size_t size = question(query, name);
    const size_t before = size - of->size;
    if (size < of->size || memcmp(name + before, of->name, of->size) != 0) return SLUICE_CONTINUE;
    if (before > 0 && name[before - 1] != '.') return SLUICE_CONTINUE;
    host->connection_count(connection, of->dropped, 1);
    return SLUICE_DROP;
}

const sluice_module *sluice_module_init(const sluice_host *of) {
    static const sluice_module module = {
        .size = sizeof(sluice_module),
        .major = SLUICE_ABI_MAJOR,
        .minor = SLUICE_ABI_MINOR,
        .name = {"names 1.0", 9},
        .config_new = config_new,
        .config_free = config_free,
        .datagram_received = datagram_received,
    };
    /* An older host has no hook for datagrams, and would drop none. */
    if (of->major != SLUICE_ABI_MAJOR || of->minor < 2) return NULL;
    host = of;
    return &module;
}
