/*
 * A library that does what it must not. The header x-act of a request says what; the response says what the host answered.
 */
#include "sluice_filter.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const sluice_host *host;
static sluice_request kept;
static sluice_ticket used;
static uint32_t ended;
static uint32_t late;

static sluice_text text(const char *of) { return (sluice_text){of, strlen(of)}; }
static const sluice_text none;

static int is(sluice_request request, const char *act) {
    sluice_text value;
    if (host->header(request, SLUICE_REQUEST_HEADERS, text("x-act"), 0, &value) != SLUICE_OK) return 0;
    return value.size == strlen(act) && memcmp(value.data, act, value.size) == 0;
}

static sluice_step tell(sluice_request request, const char *of) {
    host->respond(request, 200, NULL, 0, text(of), none);
    return SLUICE_RESPOND;
}

static sluice_result config_new(sluice_config config, sluice_text filter, sluice_text of, void **object) {
    (void)filter, (void)object;
    if (of.size >= 6 && memcmp(of.data, "silent", 6) == 0) return SLUICE_INVALID;
    if (of.size >= 6 && memcmp(of.data, "refuse", 6) == 0) {
        host->config_refuse(config, text("not\nthis"));
        return 5;
    }
    char name[16];
    int counted = 0;
    for (int number = 0; number < 100; number++) {
        uint32_t counter;
        snprintf(name, sizeof name, "c%d", number);
        counted += host->config_counter(config, text(name), &counter) == SLUICE_OK;
    }
    if (counted != 64) return SLUICE_INTERNAL;
    host->config_counter(config, text("c0"), &ended);
    host->config_counter(config, text("c1"), &late);
    return host->config_counter(config, text("C 0"), &late) == SLUICE_INVALID ? SLUICE_OK : SLUICE_INTERNAL;
}

static sluice_result request_new(sluice_request request, void *config, void **state) {
    (void)config, (void)state;
    sluice_ticket ticket;
    sluice_text value;
    /* Nothing is at hand yet. */
    if (host->suspend(request, &ticket) != SLUICE_NOT_NOW) return SLUICE_INTERNAL;
    if (host->header(request, SLUICE_RESPONSE_HEADERS, text("a"), 0, &value) != SLUICE_NOT_NOW) return SLUICE_INTERNAL;
    return SLUICE_OK;
}

static void request_end(sluice_request request, void *config, void *state) {
    (void)config, (void)state;
    const sluice_result set = host->header_set(request, SLUICE_RESPONSE_HEADERS, text("a"), text("b"));
    const sluice_result responded = host->respond(request, 200, NULL, 0, none, none);
    host->count(request, ended, 1);
    host->count(request, late, set == SLUICE_NOT_NOW && responded == SLUICE_NOT_NOW);
}

static void *on_thread(void *of) {
    static char said[64];
    sluice_text value;
    const sluice_request request = *(sluice_request *)of;
    const int read = host->header(request, SLUICE_REQUEST_HEADERS, text("x-act"), 0, &value);
    const int shared = host->value_set(request, text("a"), text("b"));
    snprintf(said, sizeof said, "%d %d %d", read, shared, host->log(SLUICE_LOG_INFO, text("from a thread")));
    return said;
}

static void *resumes(void *of) {
    sluice_ticket *ticket = of;
    host->resume(*ticket);
    host->resume(*ticket);
    free(ticket);
    return NULL;
}

static sluice_step wait_for_thread(sluice_request request) {
    sluice_ticket *ticket = malloc(sizeof *ticket);
    sluice_ticket again;
    pthread_t thread;
    if (host->suspend(request, ticket) != SLUICE_OK || host->suspend(request, &again) != SLUICE_OK) return SLUICE_FAIL;
    if (again.id != ticket->id || again.generation != ticket->generation) return SLUICE_FAIL;
    pthread_create(&thread, NULL, resumes, ticket);
    pthread_detach(thread);
    return SLUICE_WAIT;
}

static sluice_step arguments(sluice_request request) {
    char said[512];
    size_t at = 0;
    sluice_text value;
    size_t count;
    sluice_field field;
    const sluice_part headers = SLUICE_REQUEST_HEADERS;
    const sluice_text missing = {NULL, 5}, huge = {"x", (size_t)-1}, large = {calloc(1, 70000), 70000};
    memset((char *)large.data, 'x', large.size);
    char *many = malloc(2000000);
    memset(many, 'y', 2000000);
    const int codes[] = {
        host->header(request, headers, missing, 0, &value),
        host->header(request, headers, huge, 0, &value),
        host->header(request, headers, text("x-act"), 0, NULL),
        host->header(request, 99, text("x-act"), 0, &value),
        host->header(request, headers, text("x-act"), (size_t)-1, &value),
        host->header(request, headers, text("x-act"), 1, &value),
        host->header(request, headers, text(":none"), 0, &value),
        host->header(request, SLUICE_RESPONSE_HEADERS, text("x-act"), 0, &value),
        host->header(request, SLUICE_REQUEST_TRAILERS, text("x-act"), 0, &value),
        host->headers(request, headers, NULL, 1, &count),
        host->headers(request, headers, &field, 1, NULL),
        host->header_set(request, headers, text("content-length"), text("5")),
        host->header_set(request, headers, text("transfer-encoding"), text("chunked")),
        host->header_set(request, headers, text("connection"), text("close")),
        host->header_set(request, headers, text("x y"), text("1")),
        host->header_set(request, headers, none, text("1")),
        host->header_set(request, headers, text("x-a"), text("a\r\nb: c")),
        host->header_set(request, headers, text("x-a"), large),
        host->header_set(request, headers, text(":path"), text("/other")),
        host->header_set(request, headers, text(":authority"), text("b.test")),
        host->header_set(request, headers, text("host"), text("b.test")),
        host->header_set(request, headers, text(":status"), text("200")),
        host->header_set(request, headers, text(":method"), text("CONNECT")),
        host->header_set(request, SLUICE_RESPONSE_HEADERS, text("x-a"), text("1")),
        host->header_add(request, headers, text(":path"), text("/other")),
        host->header_remove(request, headers, text("host")),
        host->header_remove(request, headers, text("x-none")),
        host->body(request, &value),
        host->body_set(request, text("a")),
        host->respond(request, 700, NULL, 0, none, none),
        host->respond(request, 100, NULL, 0, none, none),
        host->respond(request, 200, NULL, 1, none, none),
        host->respond(request, 200, NULL, (size_t)-1, none, none),
        host->respond(request, 200, NULL, 0, (sluice_text){many, 2000000}, none),
        host->value(request, text("no.such"), &value),
        host->value_set(request, text("a b"), text("1")),
        host->value_set(request, text("a"), text("a\nb")),
        host->value_set(request, text("a"), large),
        host->fact(request, 99, &value),
        host->fact(request, SLUICE_FACT_SNI, &value),
        host->count(request, 1000, 1),
        host->suspend(request, NULL),
        host->resume((sluice_ticket){(uint64_t)-1, 0}),
        host->log(99, missing),
        host->config_refuse((sluice_config){request.id}, text("a")),
        host->call(request, text("up"), NULL, 1, none, 0),
        host->call(request, text("up"), NULL, (size_t)-1, none, 0),
        host->call(request, text("up"), NULL, 0, huge, 0),
        host->call(request, text("up"), NULL, 0, none, 0),
        host->call_answer(request, NULL, &value),
        host->call_answer(request, NULL, NULL),
        host->call_header(request, text("x"), 0, &value),
        host->connection_bytes((sluice_connection){request.id}, &value),
        host->connection_bytes_set((sluice_connection){request.id}, huge),
        host->connection_suspend((sluice_connection){request.id}, NULL),
    };
    free((char *)large.data);
    free(many);
    for (size_t code = 0; code < sizeof codes / sizeof *codes; code++)
        at += (size_t)snprintf(said + at, sizeof said - at, "%d ", codes[code]);
    return tell(request, said);
}

static int call(sluice_request request, const char *cluster, const char *path) {
    const sluice_field fields[] = {{text(":method"), text("GET")}, {text(":path"), text(path)}, {text("x-from"), text("hostile")}};
    return host->call(request, text(cluster), fields, 3, none, 5000);
}

/* Says how the call ended, and that the answer cannot be read with a handle of another. */
static sluice_step called(sluice_request request) {
    char said[256];
    uint32_t status = 7;
    sluice_text body = none, value = none;
    const int found = host->call_answer(request, &status, &body);
    const int header = host->call_header(request, text("content-length"), 0, &value);
    const int missing = host->call_header(request, text("content-length"), (size_t)-1, &value);
    const int other = host->call_answer((sluice_request){request.id + 1}, &status, &body);
    snprintf(said, sizeof said, "%d %u %d %d %d %.*s", found, status, header, missing, other, (int)body.size, body.data);
    return tell(request, said);
}

static sluice_step request_headers(sluice_request request, void *config, void *state, int32_t end) {
    (void)config, (void)state, (void)end;
    char said[64];
    sluice_text value;
    if (is(request, "arguments")) return arguments(request);
    if (is(request, "keep")) kept = request;
    if (is(request, "kept")) {
        const int read = host->header(kept, SLUICE_REQUEST_HEADERS, text("x-act"), 0, &value);
        snprintf(said, sizeof said, "%d %d", read, host->value_set(kept, text("a"), text("b")));
        return tell(request, said);
    }
    if (is(request, "thread")) {
        pthread_t thread;
        void *of = NULL;
        pthread_create(&thread, NULL, on_thread, &request);
        pthread_join(thread, &of);
        return tell(request, of);
    }
    if (is(request, "flood")) {
        for (int line = 0; line < 1000; line++) host->log(SLUICE_LOG_INFO, text("again and again"));
        char *half = malloc(40000);
        memset(half, 'x', 40000);
        host->value_set(request, text("half"), (sluice_text){half, 40000});
        const int second = host->value_set(request, text("other"), (sluice_text){half, 40000});
        free(half);
        int lent = 0;
        while (lent < 1000 && host->value(request, text("module.values.half"), &value) == SLUICE_OK) lent++;
        snprintf(said, sizeof said, "%d %d", second, lent);
        return tell(request, said);
    }
    if (is(request, "call")) return call(request, "up", "/called") == SLUICE_OK ? SLUICE_WAIT : SLUICE_FAIL;
    if (is(request, "call-nobody")) return call(request, "down", "/called") == SLUICE_OK ? SLUICE_WAIT : SLUICE_FAIL;
    if (is(request, "call-twice")) {
        sluice_ticket ticket;
        const int codes[] = {call(request, "up", "no path"), call(request, "other", "/"), call(request, "up", "/"),
                             call(request, "up", "/"), host->suspend(request, &ticket)};
        snprintf(said, sizeof said, "%d %d %d %d %d", codes[0], codes[1], codes[2], codes[3], codes[4]);
        return tell(request, said);
    }
    if (is(request, "step")) return 77;
    if (is(request, "no-ticket")) return SLUICE_WAIT;
    if (is(request, "no-response")) return SLUICE_RESPOND;
    if (is(request, "fail")) return SLUICE_FAIL;
    if (is(request, "read") || is(request, "buffer-in-body")) return SLUICE_READ;
    if (is(request, "edit") || is(request, "wait-in-body")) return SLUICE_EDIT;
    if (is(request, "whole")) return SLUICE_BUFFER;
    if (is(request, "wait") || is(request, "wait-and-buffer")) return wait_for_thread(request);
    if (is(request, "unused-ticket")) host->suspend(request, &used);
    if (is(request, "forever")) {
        host->suspend(request, &used);
        return SLUICE_WAIT;
    }
    if (is(request, "too-late")) {
        snprintf(said, sizeof said, "%d", host->resume(used));
        return tell(request, said);
    }
    return SLUICE_CONTINUE;
}

static sluice_step request_body(sluice_request request, void *config, void *state, int32_t end) {
    (void)config, (void)state;
    sluice_text bytes;
    char said[64];
    if (is(request, "buffer-in-body")) return SLUICE_BUFFER;
    if (is(request, "read")) {
        const int body = host->body_set(request, text("changed"));
        const int header = host->header_set(request, SLUICE_REQUEST_HEADERS, text("x-a"), text("1"));
        snprintf(said, sizeof said, "%d %d", body, header);
        host->value_set(request, text("read"), text(said));
    }
    if (is(request, "wait-in-body") && end) return wait_for_thread(request);
    if (is(request, "edit") || is(request, "whole") || is(request, "wait-and-buffer")) {
        if (host->body(request, &bytes) != SLUICE_OK) return SLUICE_FAIL;
        char *upper = malloc(bytes.size + 1);
        for (size_t at = 0; at < bytes.size; at++)
            upper[at] = bytes.data[at] >= 'a' && bytes.data[at] <= 'z' ? bytes.data[at] - 32 : bytes.data[at];
        host->body_set(request, (sluice_text){upper, bytes.size});
        free(upper);
        if (is(request, "whole")) {
            char *large = calloc(1, 2000000);
            snprintf(said, sizeof said, "%d %d", end, host->body_set(request, (sluice_text){large, 2000000}));
            free(large);
            host->header_set(request, SLUICE_REQUEST_HEADERS, text("x-said"), text(said));
        }
    }
    return SLUICE_CONTINUE;
}

static sluice_step request_trailers(sluice_request request, void *config, void *state, int32_t end) {
    (void)config, (void)state, (void)end;
    sluice_text sum;
    const int found = host->header(request, SLUICE_REQUEST_TRAILERS, text("x-sum"), 0, &sum);
    host->header_add(request, SLUICE_REQUEST_TRAILERS, text("x-more"), found == SLUICE_OK ? sum : text("none"));
    return SLUICE_CONTINUE;
}

static sluice_step response_headers(sluice_request request, void *config, void *state, int32_t end) {
    (void)config, (void)state, (void)end;
    if (is(request, "replace")) {
        host->respond(request, 418, NULL, 0, text("a teapot\n"), text("it\nis"));
        return SLUICE_RESPOND;
    }
    if (is(request, "cut")) return SLUICE_READ;
    if (is(request, "fail-in-response")) return SLUICE_FAIL;
    return SLUICE_CONTINUE;
}

static sluice_step response_body(sluice_request request, void *config, void *state, int32_t end) {
    (void)config, (void)state, (void)end;
    if (host->respond(request, 200, NULL, 0, none, none) != SLUICE_NOT_NOW) return SLUICE_FAIL;
    return SLUICE_RESPOND;
}

static sluice_step resumed(sluice_request request, void *config, void *state, sluice_hook hook) {
    (void)config, (void)state;
    char said[16];
    if (is(request, "call") || is(request, "call-nobody")) return called(request);
    snprintf(said, sizeof said, "%d", hook);
    if (hook == SLUICE_ON_REQUEST_BODY) host->body_set(request, text("waited"));
    if (hook == SLUICE_ON_REQUEST_HEADERS)
        host->header_add(request, SLUICE_REQUEST_HEADERS, text("x-resumed"), text(said));
    return is(request, "wait-and-buffer") ? SLUICE_BUFFER : SLUICE_CONTINUE;
}

const sluice_module *sluice_module_init(const sluice_host *of) {
    static const sluice_module module = {
        .size = sizeof(sluice_module),
        .major = SLUICE_ABI_MAJOR,
        .minor = SLUICE_ABI_MINOR,
        .name = {"hostile 1", 9},
        .config_new = config_new,
        .request_new = request_new,
        .request_end = request_end,
        .request_headers = request_headers,
        .request_body = request_body,
        .request_trailers = request_trailers,
        .response_headers = response_headers,
        .response_body = response_body,
        .resumed = resumed,
    };
    host = of;
    return &module;
}
