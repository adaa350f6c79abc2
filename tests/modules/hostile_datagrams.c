/*
 * A filter of datagrams and a balancer that do what they must not. What the client sends, and the text of the configuration, say what.
 */
#include "hostile.h"

static sluice_connection kept;
static sluice_balancer kept_balancer;

static sluice_result connection_new(sluice_connection connection, void *config, void **state) {
    (void)connection, (void)config;
    *state = malloc(1);
    return SLUICE_OK;
}

static void connection_end(sluice_connection connection, void *config, void *state) {
    (void)config;
    sluice_text bytes;
    host->connection_count(connection, 0, host->connection_bytes(connection, &bytes) == SLUICE_NOT_NOW);
    free(state);
}

static void *on_thread(void *of) {
    static char said[64];
    sluice_text value;
    const sluice_connection connection = *(sluice_connection *)of;
    const int read = host->connection_bytes(connection, &value);
    snprintf(said, sizeof said, "%d %d", read, host->connection_bytes_set(connection, text("a")));
    return said;
}

static void arguments(sluice_connection connection) {
    char said[256];
    size_t at = 0;
    sluice_text value;
    sluice_ticket ticket;
    uint64_t number;
    char *many = calloc(1, 70000);
    const int codes[] = {
        host->connection_bytes(connection, NULL),
        host->connection_bytes(kept, &value),
        host->connection_bytes_set(connection, (sluice_text){NULL, 5}),
        host->connection_bytes_set(connection, (sluice_text){many, 65508}),
        host->connection_value(connection, text("module.values.seen"), &value),
        host->connection_value_set(connection, text("a"), text("b")),
        host->connection_suspend(connection, &ticket),
        host->endpoint_fact((sluice_balancer){connection.id}, 0, SLUICE_ENDPOINT_ADDRESS, &value),
        host->pick_hash(kept_balancer, &number),
        host->endpoint_open(kept_balancer, 0),
    };
    free(many);
    for (size_t code = 0; code < sizeof codes / sizeof *codes; code++)
        at += (size_t)snprintf(said + at, sizeof said - at, "%d ", codes[code]);
    host->connection_bytes_set(connection, text(said));
}

static sluice_step datagram_received(sluice_connection connection, void *config, void *state, int32_t zero) {
    (void)config, (void)state;
    sluice_text bytes;
    if (zero != 0 || host->connection_bytes(connection, &bytes) != SLUICE_OK) return SLUICE_FAIL;
    if (is(bytes, "arguments")) arguments(connection);
    if (is(bytes, "keep")) kept = connection;
    if (is(bytes, "part")) host->connection_bytes_set(connection, (sluice_text){bytes.data + 1, 2});
    if (is(bytes, "none")) host->connection_bytes_set(connection, (sluice_text){NULL, 0});
    if (is(bytes, "large")) {
        char *many = calloc(1, 65507);
        host->connection_bytes_set(connection, (sluice_text){many, 65507});
        free(many);
    }
    if (is(bytes, "drop")) return SLUICE_DROP;
    if (is(bytes, "wait")) return SLUICE_WAIT;
    if (is(bytes, "step")) return 77;
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

static sluice_step datagram_sent(sluice_connection connection, void *config, void *state, int32_t zero) {
    (void)config, (void)state, (void)zero;
    sluice_text bytes;
    host->connection_bytes(connection, &bytes);
    if (is(bytes, "not back")) return SLUICE_DROP;
    return is(bytes, "fail back") ? SLUICE_RESPOND : SLUICE_CONTINUE;
}

/* The number of endpoints, in memory of its own. */
static sluice_result balancer_new(sluice_balancer balancer, void *config, size_t count, void **state) {
    uint64_t number;
    sluice_text value;
    kept_balancer = balancer;
    if (strcmp(config, "refuse") == 0) return 5;
    const int right = host->endpoint_open(balancer, 0) == SLUICE_NOT_NOW && host->pick_hash(balancer, &number) == SLUICE_NOT_NOW &&
                      host->pick_random(balancer, 1, &number) == SLUICE_NOT_NOW &&
                      host->endpoint_number(balancer, 0, SLUICE_ENDPOINT_WEIGHT, &number) == SLUICE_OK &&
                      host->endpoint_number(balancer, count, SLUICE_ENDPOINT_WEIGHT, &number) == SLUICE_INVALID &&
                      host->endpoint_number(balancer, 0, 99, &number) == SLUICE_INVALID &&
                      host->endpoint_number(balancer, 0, SLUICE_ENDPOINT_LOAD, NULL) == SLUICE_INVALID &&
                      host->endpoint_fact(balancer, count - 1, SLUICE_ENDPOINT_ADDRESS, &value) == SLUICE_OK &&
                      host->endpoint_fact(balancer, (size_t)-1, SLUICE_ENDPOINT_ADDRESS, &value) == SLUICE_INVALID &&
                      host->endpoint_fact(balancer, 0, SLUICE_ENDPOINT_HOST, &value) == SLUICE_NOT_FOUND;
    if (!right) host->log(SLUICE_LOG_ERROR, text("balancer_new: an unexpected answer"));
    size_t *made = malloc(sizeof *made);
    *made = count;
    *state = made;
    return SLUICE_OK;
}

static void balancer_free(void *config, void *state) {
    (void)config;
    free(state);
}

static sluice_result balancer_pick(sluice_balancer balancer, void *config, void *state, size_t *index) {
    const size_t count = *(size_t *)state;
    uint64_t number = 7;
    const int right = host->pick_random(balancer, 0, &number) == SLUICE_INVALID &&
                      host->pick_random(balancer, 5, &number) == SLUICE_OK && number < 5 &&
                      host->endpoint_open(kept_balancer, 0) == SLUICE_STALE && host->endpoint_open(balancer, count) == SLUICE_INVALID &&
                      host->endpoint_open(balancer, 0) == SLUICE_OK;
    if (!right) host->log(SLUICE_LOG_ERROR, text("balancer_pick: an unexpected answer"));
    if (strcmp(config, "beyond") == 0) *index = count;
    if (strcmp(config, "far") == 0) *index = (size_t)-1;
    if (strcmp(config, "code") == 0) return 77;
    return strcmp(config, "none") == 0 ? SLUICE_NOT_FOUND : SLUICE_OK;
}

const sluice_module *sluice_module_init(const sluice_host *of) {
    static const sluice_module module = {
        .size = sizeof(sluice_module),
        .major = SLUICE_ABI_MAJOR,
        .minor = SLUICE_ABI_MINOR,
        .name = {"hostile", 7},
        .config_new = config_new,
        .config_free = config_free,
        .connection_new = connection_new,
        .connection_end = connection_end,
        .datagram_received = datagram_received,
        .datagram_sent = datagram_sent,
        .balancer_new = balancer_new,
        .balancer_free = balancer_free,
        .balancer_pick = balancer_pick,
    };
    host = of;
    return &module;
}
