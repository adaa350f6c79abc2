/*
 * A connection filter that does what it must not. The text of its configuration and what the client sends say what.
 */
#include "hostile.h"

static sluice_connection kept;

static sluice_result connection_new(sluice_connection connection, void *config, void **state) {
    sluice_text bytes;
    if (strcmp(config, "none") == 0) return 9;
    if (host->connection_bytes(connection, &bytes) != SLUICE_NOT_NOW) return SLUICE_INTERNAL;
    *state = malloc(1);
    return SLUICE_OK;
}

static void connection_end(sluice_connection connection, void *config, void *state) {
    (void)config;
    sluice_ticket ticket;
    sluice_text bytes;
    const int late = host->connection_suspend(connection, &ticket) == SLUICE_NOT_NOW &&
                     host->connection_bytes(connection, &bytes) == SLUICE_NOT_NOW &&
                     host->connection_value_set(connection, text("a"), text("b")) == SLUICE_NOT_NOW;
    host->connection_count(connection, 0, (uint64_t)late);
    free(state);
}

static void *resumes(void *of) {
    sluice_ticket *ticket = of;
    host->resume(*ticket);
    host->resume(*ticket);
    free(ticket);
    return NULL;
}

static sluice_step wait_for_thread(sluice_connection connection) {
    sluice_ticket *ticket = malloc(sizeof *ticket);
    pthread_t thread;
    if (host->connection_suspend(connection, ticket) != SLUICE_OK) return SLUICE_FAIL;
    pthread_create(&thread, NULL, resumes, ticket);
    pthread_detach(thread);
    return SLUICE_WAIT;
}

static sluice_step opened(sluice_connection connection, void *config, void *state, int32_t zero) {
    (void)state, (void)zero;
    if (strcmp(config, "refuse") == 0) {
        host->connection_note(connection, text("not\nyou"));
        host->connection_note(connection, text("nor you"));
        return SLUICE_CLOSE;
    }
    if (strncmp(config, "wait", 4) == 0) return wait_for_thread(connection);
    if (strcmp(config, "step") == 0) return SLUICE_EDIT;
    host->connection_value_set(connection, text("seen"), text("yes"));
    return SLUICE_CONTINUE;
}

static void *on_thread(void *of) {
    static char said[64];
    sluice_text value;
    const sluice_connection connection = *(sluice_connection *)of;
    const int read = host->connection_bytes(connection, &value);
    snprintf(said, sizeof said, "%d %d", read, host->connection_note(connection, text("a")));
    return said;
}

static void arguments(sluice_connection connection) {
    char said[512];
    size_t at = 0;
    sluice_text value;
    char *many = calloc(1, 2000000);
    const sluice_text missing = {NULL, 5}, huge = {"x", (size_t)-1};
    const int codes[] = {
        host->connection_bytes(connection, NULL),
        host->connection_bytes((sluice_connection){connection.id + 1}, &value),
        host->connection_bytes(kept, &value),
        host->connection_bytes_set(connection, missing),
        host->connection_bytes_set(connection, huge),
        host->connection_bytes_set(connection, (sluice_text){many, 2000000}),
        host->connection_fact(connection, 99, &value),
        host->connection_fact(connection, SLUICE_FACT_ROUTE, &value),
        host->connection_fact(connection, SLUICE_FACT_LISTENER, &value),
        host->connection_value(connection, text("module.values.seen"), &value),
        host->connection_value_set(connection, text("a"), text("b")),
        host->connection_count(connection, 1000, 1),
        host->connection_note(connection, huge),
        host->connection_suspend(connection, NULL),
        host->header((sluice_request){connection.id}, SLUICE_REQUEST_HEADERS, text("a"), 0, &value),
        host->config_refuse((sluice_config){connection.id}, text("a")),
    };
    free(many);
    for (size_t code = 0; code < sizeof codes / sizeof *codes; code++)
        at += (size_t)snprintf(said + at, sizeof said - at, "%d ", codes[code]);
    host->connection_bytes_set(connection, text(said));
}

static sluice_step received(sluice_connection connection, void *config, void *state, int32_t end) {
    (void)config, (void)state, (void)end;
    sluice_text bytes;
    if (host->connection_bytes(connection, &bytes) != SLUICE_OK) return SLUICE_FAIL;
    if (is(bytes, "arguments")) arguments(connection);
    if (is(bytes, "keep")) kept = connection;
    if (is(bytes, "part")) host->connection_bytes_set(connection, (sluice_text){bytes.data + 1, 2});
    if (is(bytes, "wait")) return wait_for_thread(connection);
    if (is(bytes, "no-ticket")) return SLUICE_WAIT;
    if (is(bytes, "step")) return 77;
    if (is(bytes, "respond")) return SLUICE_RESPOND;
    if (is(bytes, "fail")) return SLUICE_FAIL;
    if (is(bytes, "close")) {
        host->connection_note(connection, text("enough"));
        return SLUICE_CLOSE;
    }
    if (is(bytes, "thread")) {
        pthread_t thread;
        void *of = NULL;
        pthread_create(&thread, NULL, on_thread, &connection);
        pthread_join(thread, &of);
        host->connection_bytes_set(connection, text(of));
    }
    return SLUICE_CONTINUE;
}

static sluice_step resumed(sluice_connection connection, void *config, void *state, int32_t hook) {
    (void)state;
    if (hook == SLUICE_ON_OPENED && strcmp(config, "wait and wait") == 0) return wait_for_thread(connection);
    if (hook == SLUICE_ON_RECEIVED) host->connection_bytes_set(connection, text("waited"));
    return SLUICE_CONTINUE;
}

const sluice_module *sluice_module_init(const sluice_host *of) {
    static const sluice_module module = {
        .size = sizeof(sluice_module),
        .major = SLUICE_ABI_MAJOR,
        .minor = SLUICE_ABI_MINOR,
        .name = {"hostile 2", 9},
        .config_new = config_new,
        .config_free = config_free,
        .connection_new = connection_new,
        .connection_end = connection_end,
        .connection_opened = opened,
        .connection_received = received,
        .connection_resumed = resumed,
    };
    host = of;
    return &module;
}
