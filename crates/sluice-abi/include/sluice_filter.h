/*
 * sluice_filter.h: the interface between Sluice and loaded libraries, version 1.2.
 *
 * A library exports one function, `sluice_module_init`. It gets the functions of the host, and returns those of the
 * library. Both tables begin with their size and version. Within a major version entries are only appended, so that
 * either side may be older: an entry beyond `size`, or one that is NULL, is missing. See SLUICE_HAS.
 *
 * A library has up to five kinds of objects, all of which belong to it; the host keeps a pointer to each:
 *   the library        one per process; never unloaded
 *   a configuration    one per text that is configured; shared by all threads: what changes in it needs a lock
 *   a request          one per request of an HTTP filter; used by one thread only
 *   a connection       one per connection or UDP flow of a connection filter; used by one thread only
 *   a balancer         one per list of endpoints of a cluster; shared by all threads, which may all pick at once
 *
 * Rules
 * - A text is a pointer and a length, without a final zero. What is passed to a function is borrowed for that call: the
 *   other side copies what it keeps. What the host gives is valid until the hook ends, or until a function that changes
 *   the message (add, set, remove, body_set) is called, whichever is first. It may be passed to that function: the value of
 *   a header may be set as that of another. Never free it.
 * - Handles (sluice_request, sluice_connection, sluice_config, sluice_balancer) are numbers. They are valid during the call that passes them, on the thread
 *   of that call. At any other time, functions of the host return SLUICE_NOT_NOW or SLUICE_STALE and do nothing. Only `log` and
 *   `resume` may be called at any time by any thread.
 * - Functions must return soon: a worker serves many requests. What takes long runs on a thread of the library; the hook
 *   asks for a ticket (`suspend`), returns SLUICE_WAIT, and the thread calls `resume` with the ticket.
 * - No exception or panic may leave a function. Return SLUICE_FAIL.
 * - A library is part of the process: if it crashes, Sluice does.
 */
#ifndef SLUICE_FILTER_H
#define SLUICE_FILTER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLUICE_ABI_MAJOR 1
#define SLUICE_ABI_MINOR 2

/* Whether `table`, a pointer to one of the tables below, has `entry`. */
#define SLUICE_HAS(table, entry)                                                                            \
    ((const char *)&(table)->entry + sizeof((table)->entry) <= (const char *)(table) + (table)->size && \
     (table)->entry != NULL)

#if defined(__GNUC__)
#define SLUICE_EXPORT __attribute__((visibility("default")))
#else
#define SLUICE_EXPORT
#endif

/* A text or bytes. `data` may be NULL if `size` is 0. */
typedef struct sluice_text {
    const char *data;
    size_t size;
} sluice_text;

/* A header or trailer. Names are compared without case. */
typedef struct sluice_field {
    sluice_text name;
    sluice_text value;
} sluice_field;

/* A request, in the hook that gets it. */
typedef struct sluice_request {
    uint64_t id;
} sluice_request;

/* A connection, in the hook that gets it. */
typedef struct sluice_connection {
    uint64_t id;
} sluice_connection;

/* A configuration that is being checked. */
typedef struct sluice_config {
    uint64_t id;
} sluice_config;

/* The endpoints of a balancer, in the call that gets them. They have the indexes from 0, the same in all calls with one state. */
typedef struct sluice_balancer {
    uint64_t id;
} sluice_balancer;

/* A wait. Copy it to the thread that ends it. */
typedef struct sluice_ticket {
    uint64_t id;
    uint64_t generation;
} sluice_ticket;

/* What functions of the host return. */
typedef int32_t sluice_result;
enum {
    SLUICE_OK = 0,
    SLUICE_NOT_FOUND = 1,    /* there is no such header, value or fact; an endpoint cannot be used now */
    SLUICE_INVALID = -1,     /* an argument is NULL, out of range, or not what a header, name or status may be */
    SLUICE_NOT_NOW = -2,     /* not in this hook, or not on this thread: the part has been sent, or has not come yet */
    SLUICE_STALE = -3,       /* the handle is that of another request or configuration, which may have ended */
    SLUICE_TOO_LARGE = -4,   /* the text, or all of them together, exceed a bound */
    SLUICE_BUSY = -5,        /* `resume`: the queue of the worker is full; try again */
    SLUICE_NOT_ALLOWED = -6, /* the configuration did not declare it */
    SLUICE_INTERNAL = -7     /* an error of the host */
};

/* What a hook returns: what becomes of the message. */
typedef int32_t sluice_step;
enum {
    SLUICE_CONTINUE = 0, /* it goes on; after headers: the library does not see its body and trailers */
    SLUICE_RESPOND = 1,  /* it ends with the response of `respond`; in the body or trailers of a response, it is cut off */
    SLUICE_WAIT = 2,     /* it waits for `resume` with the ticket of `suspend`; then the hook `resumed` is called */
    SLUICE_FAIL = 3,     /* the library failed; `on_error` of the settings says what becomes of the request */
    /* Only after headers: */
    SLUICE_READ = 4,   /* it goes on; the hooks for its body and trailers read them */
    SLUICE_EDIT = 5,   /* it goes on; these hooks change them. A content-length is removed */
    SLUICE_BUFFER = 6, /* its body is received whole; the hook for the body gets all of it at once, and the headers may
                          still be changed. More than `body_max` of the settings is a 413 for requests, a 500 for responses */
    /* Only in hooks of connections, which may return SLUICE_CONTINUE, SLUICE_WAIT and SLUICE_FAIL besides: */
    SLUICE_CLOSE = 7, /* the connection is refused; once it is open, it ends with a reset to both sides */
    /* Only in hooks for datagrams, which may return SLUICE_CONTINUE, SLUICE_CLOSE and SLUICE_FAIL besides: */
    SLUICE_DROP = 8 /* the datagram is dropped */
};

/* Parts of messages that have headers or trailers. */
typedef int32_t sluice_part;
enum {
    SLUICE_REQUEST_HEADERS = 0,  /* to read: in every hook. With the names :method, :path, :authority, :scheme */
    SLUICE_REQUEST_TRAILERS = 1,
    SLUICE_RESPONSE_HEADERS = 2, /* with the name :status */
    SLUICE_RESPONSE_TRAILERS = 3
};

/* Hooks, as `resumed` names them. */
typedef int32_t sluice_hook;
enum {
    SLUICE_ON_REQUEST_HEADERS = 0,
    SLUICE_ON_REQUEST_BODY = 1,
    SLUICE_ON_REQUEST_TRAILERS = 2,
    SLUICE_ON_RESPONSE_HEADERS = 3,
    SLUICE_ON_RESPONSE_BODY = 4,
    SLUICE_ON_RESPONSE_TRAILERS = 5
};

/* Hooks of connections, as `connection_resumed` names them. */
enum {
    SLUICE_ON_OPENED = 0,
    SLUICE_ON_RECEIVED = 1,
    SLUICE_ON_SENT = 2
};

/* What a record is about. */
typedef int32_t sluice_record;
enum {
    SLUICE_RECORD_CONNECTION = 0,
    SLUICE_RECORD_FLOW = 1, /* a UDP flow */
    SLUICE_RECORD_REQUEST = 2,
    SLUICE_RECORD_HEALTH = 3 /* an event of an endpoint */
};

/* Facts about a request; about a connection, those that are known without a request. */
typedef int32_t sluice_fact;
enum {
    SLUICE_FACT_SOURCE = 0,   /* the address of the client, as the listener trusts it */
    SLUICE_FACT_PEER = 1,     /* the other end of the connection */
    SLUICE_FACT_LOCAL = 2,    /* this end of it */
    SLUICE_FACT_PROTOCOL = 3, /* HTTP/1.1, HTTP/2, HTTP/3 */
    SLUICE_FACT_ROUTE = 4,    /* the name of the rule */
    SLUICE_FACT_SNI = 5,      /* the server name of TLS */
    SLUICE_FACT_REQUEST = 6,  /* the number of the request, as in records and logs */
    SLUICE_FACT_LISTENER = 7  /* the name of the listener */
};

/* What is known of an endpoint, as a text. */
typedef int32_t sluice_endpoint_fact;
enum {
    SLUICE_ENDPOINT_ADDRESS = 0,  /* such as 192.0.2.1:80, [2001:db8::1]:80 or unix:///run/app; unique among the endpoints */
    SLUICE_ENDPOINT_HOST = 1,     /* the host name that it was resolved from */
    SLUICE_ENDPOINT_LOCALITY = 2  /* its zone, region/zone or region/zone/sub-zone */
};

/* What is known of an endpoint, as a number. */
typedef int32_t sluice_endpoint_number;
enum {
    SLUICE_ENDPOINT_WEIGHT = 0,   /* at least 1; only in proportion to those of the others */
    SLUICE_ENDPOINT_LOAD = 1,     /* its relayed connections and requests in flight, of all threads */
    SLUICE_ENDPOINT_PRIORITY = 2  /* the same for all endpoints of a balancer; 0 is the highest */
};

/* Levels of the log. */
enum {
    SLUICE_LOG_ERROR = 0,
    SLUICE_LOG_WARN = 1,
    SLUICE_LOG_INFO = 2,
    SLUICE_LOG_DEBUG = 3,
    SLUICE_LOG_TRACE = 4
};

/* The functions of the host. */
typedef struct sluice_host {
    uint32_t size;
    uint16_t major;
    uint16_t minor;

    /* At any time, on any thread. */

    /* Writes a line to the log (target sluice_module); of at most 4 KiB, at most 100 in one hook. */
    sluice_result (*log)(int32_t level, sluice_text line);
    /* Ends a wait. One that is over already is ignored, and counted (sluice_module_stale_resumes_total). */
    sluice_result (*resume)(sluice_ticket ticket);

    /* In config_new. */

    /* Says why the configuration is refused. Return something other than SLUICE_OK afterwards. */
    sluice_result (*config_refuse)(sluice_config config, sluice_text why);
    /* Declares a counter, sluice_module_counts_total{filter,counter}; at most 64. Names have a-z, 0-9 and _. */
    sluice_result (*config_counter)(sluice_config config, sluice_text name, uint32_t *counter);
    /* Declares that the filter may change :path or :authority. `check` warns if it does so behind a guard. */
    sluice_result (*config_edits_target)(sluice_config config);

    /* In hooks of a request. */

    /* The value of a header with an index from 0. */
    sluice_result (*header)(sluice_request request, sluice_part part, sluice_text name, size_t index, sluice_text *value);
    /* All headers, without those whose names begin with a colon: writes up to `room` of them, and their number to `count`. */
    sluice_result (*headers)(sluice_request request, sluice_part part, sluice_field *fields, size_t room, size_t *count);
    /* One more value. */
    sluice_result (*header_add)(sluice_request request, sluice_part part, sluice_text name, sluice_text value);
    /* This value in place of all. */
    sluice_result (*header_set)(sluice_request request, sluice_part part, sluice_text name, sluice_text value);
    sluice_result (*header_remove)(sluice_request request, sluice_part part, sluice_text name);
    /* The piece of the body in a hook for bodies; after SLUICE_BUFFER, all of it. */
    sluice_result (*body)(sluice_request request, sluice_text *bytes);
    /* Replaces it; after SLUICE_EDIT and SLUICE_BUFFER. */
    sluice_result (*body_set)(sluice_request request, sluice_text bytes);
    /* Makes a response, for SLUICE_RESPOND. `details` are for the record, and may be empty. */
    sluice_result (*respond)(sluice_request request, uint32_t status, const sluice_field *fields, size_t count,
                             sluice_text body, sluice_text details);
    /* A value that filters share about the request, as %VALUE(NAME)% prints it. */
    sluice_result (*value)(sluice_request request, sluice_text name, sluice_text *value);
    /* Shares a value: %VALUE(module.values.NAME)%. All together have room for 64 KiB. */
    sluice_result (*value_set)(sluice_request request, sluice_text name, sluice_text value);
    sluice_result (*fact)(sluice_request request, sluice_fact fact, sluice_text *value);
    sluice_result (*count)(sluice_request request, uint32_t counter, uint64_t amount);
    /* Has the route selected again, after the hook for the headers of the request. */
    sluice_result (*reroute)(sluice_request request);
    /* A ticket for this hook, which then returns SLUICE_WAIT. Any other step makes it stale. */
    sluice_result (*suspend)(sluice_request request, sluice_ticket *ticket);

    /* Since 1.1. In hooks of a request: calls of clusters. */

    /* Sends a request to a cluster that `clusters` of the settings name (else SLUICE_NOT_ALLOWED), when the hook returns SLUICE_WAIT;
       any other step drops it. `fields` have :method, :path and perhaps :authority. It ends after `timeout_ms` at the latest (0:
       with the time of a filter, `filter_wait_seconds`). One in a hook, which has no ticket then (else SLUICE_NOT_NOW). */
    sluice_result (*call)(sluice_request request, sluice_text cluster, const sluice_field *fields, size_t count,
                          sluice_text body, uint64_t timeout_ms);
    /* In `resumed` after a call: the status and body of the response. Without a response the status is 0 and the body says
       why. SLUICE_NOT_FOUND: no call has ended. */
    sluice_result (*call_answer)(sluice_request request, uint32_t *status, sluice_text *body);
    /* The value of a header of the response with an index from 0. */
    sluice_result (*call_header)(sluice_request request, sluice_text name, size_t index, sluice_text *value);

    /* Since 1.1. In hooks of a connection. */

    sluice_result (*connection_fact)(sluice_connection connection, sluice_fact fact, sluice_text *value);
    /* As `value` and `value_set`, about the connection, while it is opened. SLUICE_NOT_NOW: in the hooks for bytes, and if another
       library has shared values about it already. */
    sluice_result (*connection_value)(sluice_connection connection, sluice_text name, sluice_text *value);
    sluice_result (*connection_value_set)(sluice_connection connection, sluice_text name, sluice_text value);
    sluice_result (*connection_count)(sluice_connection connection, uint32_t counter, uint64_t amount);
    /* The bytes at hand, in the hooks for bytes; the datagram, in those for datagrams. */
    sluice_result (*connection_bytes)(sluice_connection connection, sluice_text *bytes);
    /* Replaces them by at most 1 MiB; none hold them back. A datagram has at most 65507 bytes, and may have none. */
    sluice_result (*connection_bytes_set)(sluice_connection connection, sluice_text bytes);
    /* Says for the record why the connection ends; the first time counts. */
    sluice_result (*connection_note)(sluice_connection connection, sluice_text why);
    sluice_result (*connection_suspend)(sluice_connection connection, sluice_ticket *ticket);

    /* Since 1.2. Of a balancer. */

    /* In balancer_new and balancer_pick: what is known of an endpoint. SLUICE_INVALID: there is none with this index. */
    sluice_result (*endpoint_fact)(sluice_balancer balancer, size_t index, sluice_endpoint_fact fact, sluice_text *value);
    sluice_result (*endpoint_number)(sluice_balancer balancer, size_t index, sluice_endpoint_number which, uint64_t *number);
    /* In balancer_pick: SLUICE_OK if the endpoint can be chosen now, SLUICE_NOT_FOUND if it is at a limit, or was attempted before. */
    sluice_result (*endpoint_open)(sluice_balancer balancer, size_t index);
    /* In balancer_pick: the hash of what `hash` of the rule or relay names. SLUICE_NOT_FOUND: there is none. */
    sluice_result (*pick_hash)(sluice_balancer balancer, uint64_t *hash);
    /* In balancer_pick: a random number below `bound`, which is not 0. */
    sluice_result (*pick_random)(sluice_balancer balancer, uint64_t bound, uint64_t *number);
} sluice_host;

/* The functions of a library. All but config_new may be NULL. */
typedef struct sluice_module {
    uint32_t size; /* sizeof(sluice_module) */
    uint16_t major; /* SLUICE_ABI_MAJOR */
    uint16_t minor; /* SLUICE_ABI_MINOR */
    /* Name and version of the library, for errors and the log. */
    sluice_text name;

    /* Checks a configuration, and makes an object of it. `filter` says which filter of the library is meant. Called when
       a configuration of Sluice is checked, by any thread. */
    sluice_result (*config_new)(sluice_config config, sluice_text filter, sluice_text text, void **object);
    /* Frees the object, when no request has it any more; by any thread. */
    void (*config_free)(void *config);

    /* A request begins. Anything but SLUICE_OK is a failure. */
    sluice_result (*request_new)(sluice_request request, void *config, void **state);
    /* The request has ended: frees the state. Values, facts and counters may still be used. Called once after each
       request_new that returned SLUICE_OK. */
    void (*request_end)(sluice_request request, void *config, void *state);

    /* The hooks. `end` is 1 if nothing of the message follows, as far as is known, else 0. Of a body, the last piece may
       be empty. Trailers may be none after SLUICE_EDIT: those that are added are sent. A response is one of an endpoint or
       of Sluice itself; of the latter, only the headers are shown, unless they are buffered. */
    sluice_step (*request_headers)(sluice_request request, void *config, void *state, int32_t end);
    sluice_step (*request_body)(sluice_request request, void *config, void *state, int32_t end);
    sluice_step (*request_trailers)(sluice_request request, void *config, void *state, int32_t end);
    sluice_step (*response_headers)(sluice_request request, void *config, void *state, int32_t end);
    sluice_step (*response_body)(sluice_request request, void *config, void *state, int32_t end);
    sluice_step (*response_trailers)(sluice_request request, void *config, void *state, int32_t end);
    /* A wait has ended: decides what `hook` left open, with the same part of the message. If NULL, it continues. */
    sluice_step (*resumed)(sluice_request request, void *config, void *state, sluice_hook hook);

    /* Since 1.1. A connection filter. */

    /* A connection begins. Anything but SLUICE_OK is a failure. */
    sluice_result (*connection_new)(sluice_connection connection, void *config, void **state);
    /* It has ended: frees the state. Called once after each connection_new that returned SLUICE_OK. */
    void (*connection_end)(sluice_connection connection, void *config, void *state);
    /* Whether it is served. `zero` is 0. */
    sluice_step (*connection_opened)(sluice_connection connection, void *config, void *state, int32_t zero);
    /* Bytes from the client, and to it. `end` is 1 if none follow; the last piece may be empty. A library with one of these
       can only be used where a relay moves the bytes, which are copied then. */
    sluice_step (*connection_received)(sluice_connection connection, void *config, void *state, int32_t end);
    sluice_step (*connection_sent)(sluice_connection connection, void *config, void *state, int32_t end);
    /* A wait has ended: decides what `hook` (SLUICE_ON_OPENED and so on) left open. If NULL, it continues. */
    sluice_step (*connection_resumed)(sluice_connection connection, void *config, void *state, int32_t hook);

    /* Since 1.1. An access logger. */

    /* A record in the format of the access log, without a line end. Called by one thread, which is no worker: it may block, and
       records are dropped meanwhile when the queue is full. Anything but SLUICE_OK counts the record as not written. */
    sluice_result (*record)(void *config, sluice_record kind, sluice_text line);
    /* No record follows for now: what was gathered can be written. */
    void (*records_done)(void *config);

    /* Since 1.2. A connection filter, for UDP. */

    /* A datagram of the client, and one to it, before it is forwarded: it can be read, replaced (`connection_bytes_set`) and dropped.
       There is no wait, and `zero` is 0. The flow begins and ends as a connection does, whose hooks may be set besides. */
    sluice_step (*datagram_received)(sluice_connection connection, void *config, void *state, int32_t zero);
    sluice_step (*datagram_sent)(sluice_connection connection, void *config, void *state, int32_t zero);

    /* Since 1.2. A balancer. */

    /* There are other endpoints to choose among, or they have other weights or states: so many, at least one. The state before
       is freed when no thread uses it any more. Anything but SLUICE_OK: connections and requests go to endpoints in turn. */
    sluice_result (*balancer_new)(sluice_balancer balancer, void *config, size_t count, void **state);
    /* Frees the state; by any thread. Called once after each balancer_new that returned SLUICE_OK. */
    void (*balancer_free)(void *config, void *state);
    /* Chooses an endpoint for a connection, flow or request. SLUICE_NOT_FOUND: the next in turn. Anything else but SLUICE_OK is a
       failure, and so is an endpoint that cannot be chosen: the next in turn is, and the failure is counted
       (sluice_cluster_balancer_failures_total). Several threads call it at once. */
    sluice_result (*balancer_pick)(sluice_balancer balancer, void *config, void *state, size_t *index);
} sluice_module;

/* What a library exports. Called once, when the library is loaded. The table must stay valid. NULL: the library cannot work
   with this host. */
SLUICE_EXPORT const sluice_module *sluice_module_init(const sluice_host *host);

#ifdef __cplusplus
}
#endif

#endif
