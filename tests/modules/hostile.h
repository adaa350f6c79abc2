/*
 * What hostile libraries of connections have in common: a configuration is a copy of its text, and has the counter `ended`.
 */
#include "sluice_filter.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const sluice_host *host;

static sluice_text text(const char *of) { return (sluice_text){of, strlen(of)}; }

static int is(sluice_text of, const char *word) { return of.size == strlen(word) && memcmp(of.data, word, of.size) == 0; }

static sluice_result config_new(sluice_config config, sluice_text filter, sluice_text of, void **object) {
    (void)filter;
    uint32_t counter;
    host->config_counter(config, text("ended"), &counter);
    char *copy = malloc(of.size + 1);
    memcpy(copy, of.data, of.size);
    copy[of.size] = 0;
    *object = copy;
    return SLUICE_OK;
}

static void config_free(void *object) { free(object); }
