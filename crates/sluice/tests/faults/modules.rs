//! Requests and connections for which a filter of a loaded library fails, or which it ends.

use std::io::{Read as _, Write as _};

use sluice_testkit::peers::connect;
use sluice_testkit::{Origin, Sluice, libraries};

use crate::kit::{Fault, Seen, nobody, send};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A filter of a loaded library fails",
        reason: "module.error",
        inject: || {
            let (origin, sluice) = with_library();
            let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: shop.test\r\nX-Fail: yes\r\n\r\n");
            assert!(origin.requests().is_empty());
            Seen::request(&sluice, "module.error")
                .heard(heard)
                .at("\"web\"")
                .at("tag: request_headers")
        },
    },
    Fault {
        name: "A filter of a loaded library cuts a response off",
        reason: "module.cut",
        inject: || {
            let (origin, sluice) = with_library();
            let mut client = connect(sluice.addr("web"));
            client.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").expect("it is sent");
            let mut heard = Vec::new();
            // The connection ends without the rest of the response.
            let _ = client.read_to_end(&mut heard);
            let heard = String::from_utf8_lossy(&heard);
            let heard =
                format!("{}, and the connection ends", heard.lines().next().unwrap_or("nothing"));
            Seen::request(&sluice, "module.cut").heard(heard).at("\"web\"").endpoint(origin.addr())
        },
    },
    Fault {
        name: "A filter of a loaded library refuses a connection",
        reason: "module.closed",
        inject: || {
            let kit = Sluice::new().workers(1);
            libraries::compile_text("gate", GATE, kit.folder())
                .expect("a compiler of C is installed");
            let listener = "name: tcp, address: 127.0.0.1:0, filters: [{ module: { library: libgate.so } }], relay: up";
            let sluice = kit.start(&format!(
                "listeners: [{{ {listener} }}]\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\naccess_log: [{{ sink: records.json }}]\n",
                nobody()
            ));
            let mut client = connect(sluice.addr("tcp"));
            let mut heard = Vec::new();
            // The connection ends without a byte.
            let _ = client.read_to_end(&mut heard);
            assert!(heard.is_empty());
            Seen::of(&sluice, "module.closed")
                .heard("nothing, and the connection ends")
                .at("\"tcp\"")
                .at("gate: not today")
        },
    },
];

/// Refuses every connection.
const GATE: &str = r#"
#include "sluice_filter.h"
static const sluice_host *host;
static sluice_result config_new(sluice_config c, sluice_text f, sluice_text t, void **o) {
    (void)c, (void)f, (void)t, (void)o;
    return SLUICE_OK;
}
static sluice_step opened(sluice_connection c, void *o, void *s, int32_t zero) {
    (void)o, (void)s, (void)zero;
    host->connection_note(c, (sluice_text){"not today", 9});
    return SLUICE_CLOSE;
}
const sluice_module *sluice_module_init(const sluice_host *of) {
    static const sluice_module module = {
        .size = sizeof module, .major = SLUICE_ABI_MAJOR, .minor = SLUICE_ABI_MINOR, .name = {"gate 1.0", 8},
        .config_new = config_new, .connection_opened = opened,
    };
    host = of;
    return &module;
}
"#;

/// Fails for requests with `x-fail`, and cuts off the responses to others.
const LIBRARY: &str = r#"
#include "sluice_filter.h"
static const sluice_host *host;
static sluice_result config_new(sluice_config c, sluice_text f, sluice_text t, void **o) {
    (void)c, (void)f, (void)t, (void)o;
    return SLUICE_OK;
}
static sluice_step request_headers(sluice_request r, void *c, void *s, int32_t end) {
    (void)c, (void)s, (void)end;
    sluice_text value;
    const sluice_text name = {"x-fail", 6};
    return host->header(r, SLUICE_REQUEST_HEADERS, name, 0, &value) == SLUICE_OK ? SLUICE_FAIL : SLUICE_CONTINUE;
}
static sluice_step response_headers(sluice_request r, void *c, void *s, int32_t end) {
    (void)r, (void)c, (void)s, (void)end;
    return SLUICE_READ;
}
static sluice_step response_body(sluice_request r, void *c, void *s, int32_t end) {
    (void)r, (void)c, (void)s, (void)end;
    return SLUICE_RESPOND;
}
const sluice_module *sluice_module_init(const sluice_host *of) {
    static const sluice_module module = {
        .size = sizeof module, .major = SLUICE_ABI_MAJOR, .name = {"tag 1.0", 7}, .config_new = config_new,
        .request_headers = request_headers, .response_headers = response_headers, .response_body = response_body,
    };
    host = of;
    return &module;
}
"#;

/// A listener `web` with that library.
fn with_library() -> (Origin, sluice_testkit::Running) {
    let origin = Origin::start("a");
    let kit = Sluice::new().workers(1).expect_warning("module.error");
    libraries::compile_text("tag", LIBRARY, kit.folder()).expect("a compiler of C is installed");
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ module: {{ library: libtag.so }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\naccess_log: [{{ sink: records.json }}]\n",
        origin.addr()
    ));
    (origin, sluice)
}
