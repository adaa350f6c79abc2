//! The bootstrap of an area: the blocks of its file with what surrounds them, and with the placeholders replaced.
//!
//! Owns: the text that both proxies read. Refuses to know: what it means. Keeps: both get the same text, with port 0 for
//! every listener.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use crate::script::{Area, Block};

/// The name of the access log, in the folder of each proxy.
pub(crate) const LOG: &str = "access.log";

/// The folder for traces of taps, in that of each proxy.
pub(crate) const TAPS: &str = "taps";

/// The fields of a line of the access log, unless the file has a `log` block.
const LOG_FORMAT: &str = r#"json_format: { method: "%REQ(:METHOD)%", host: "%REQ(:AUTHORITY)%", path: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", protocol: "%PROTOCOL%", status: "%RESPONSE_CODE%", flags: "%RESPONSE_FLAGS%", details: "%RESPONSE_CODE_DETAILS%", route: "%ROUTE_NAME%", cluster: "%UPSTREAM_CLUSTER%", endpoint: "%UPSTREAM_HOST%", received: "%BYTES_RECEIVED%", sent: "%BYTES_SENT%" }"#;

const ROUTER: &str = r#"{ name: envoy.filters.http.router, typed_config: { "@type": t/envoy.extensions.filters.http.router.v3.Router } }"#;

const MANAGER: &str =
    "t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

const OF_ROUTE: &str = "t/envoy.extensions.filters.http.lua.v3.LuaPerRoute";

/// The whole text. Clusters `a`, `b`, `c`, `d` and `nobody` with one endpoint each are always there.
pub(crate) fn text(area: &Area, places: &Places<'_>) -> String {
    let mut text = String::from(
        "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n",
    );
    text += &area.bootstrap;
    text += "static_resources:\n  listeners:\n";
    let (on_connections, guests): (Vec<&Block>, Vec<&Block>) =
        area.guests.iter().partition(|guest| guest.yaml.contains(ON_CONNECTIONS));
    let relays: Vec<Block> = on_connections.into_iter().map(guest_relay).collect();
    for block in area.listeners.iter().chain(&relays) {
        let head = format!(
            "  - name: {0}\n    stat_prefix: {0}\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}\n",
            block.name
        );
        // Listeners for datagrams say their address themselves.
        let head = match block.yaml.contains("protocol: UDP") {
            true => format!("  - name: {}\n", block.name),
            false => head,
        };
        text += &(head + &indent(&block.yaml, 4));
    }
    let guests: Vec<Block> = guests.into_iter().map(guest_listener).collect();
    for block in area.http.iter().chain(&guests) {
        text += &format!(
            "  - name: {0}\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}\n    filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \"@type\": {MANAGER}\n          stat_prefix: {0}\n          access_log: @log@\n",
            block.name
        );
        text += &indent(&block.yaml, 10);
        if !block.yaml.contains("http_filters:") {
            text += "          http_filters: [@router@]\n";
        }
        if !["route_config:", "scoped_routes:"].iter().any(|of| block.yaml.contains(of)) {
            text += "          route_config: { name: r, virtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster: a } }] }] }\n";
        }
    }
    text += "  clusters:\n";
    for name in ["a", "b", "c", "d", "nobody"] {
        text += &format!("  - {{ name: {name}, load_assignment: @endpoints {name}@ }}\n");
    }
    text += &indent(&area.clusters, 2);
    let format = if area.log_format.is_empty() { LOG_FORMAT } else { area.log_format.trim_end() };
    let log = format!(
        r#"[{{ name: envoy.access_loggers.file, typed_config: {{ "@type": t/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {LOG}, log_format: {{ {format} }} }} }}]"#
    );
    let text = with_scripts(&text, &area.scripts);
    places.fill(&text.replace("@log@", &log))
}

/// The fields of a guest, which stand before its functions: `configuration`, `vm_config` and others of its messages.
const GUEST_FIELDS: [&str; 5] = ["config ", "plugin ", "vm ", "code ", ON_CONNECTIONS];

/// The line of a guest of connections, with the cluster that these are relayed to.
const ON_CONNECTIONS: &str = "relay ";

/// The language that a guest is built from, if it is not of functions.
pub(crate) fn language(guest: &Block) -> Option<&str> {
    guest.yaml.lines().find_map(|line| line.strip_prefix("built "))
}

/// The functions of a guest.
pub(crate) fn functions(guest: &Block) -> String {
    let lines =
        guest.yaml.lines().filter(|line| !GUEST_FIELDS.iter().any(|of| line.starts_with(of)));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The text of a field that stands before the functions of a guest.
fn field_of<'g>(guest: &'g Block, field: &str) -> Option<&'g str> {
    guest.yaml.lines().find_map(|line| line.strip_prefix(field))
}

/// `PluginConfig` of a guest.
fn guest_config(guest: &Block) -> String {
    let of = |field| field_of(guest, field);
    let name = &guest.name;
    let config = of("config ").map(|text| {
        // A text, or the fields of a message.
        match text.starts_with('{') {
            true => format!(", configuration: {text}"),
            false => format!(
                ", configuration: {{ \"@type\": t/google.protobuf.StringValue, value: {text} }}"
            ),
        }
    });
    let code = of("code ").map_or_else(
        || format!("{{ local: {{ filename: @folder@/{name}.wasm }} }}"),
        str::to_owned,
    );
    format!(
        "{{ name: {name}{}{}, vm_config: {{ runtime: envoy.wasm.runtime.v8, vm_id: {name}{}, code: {code} }} }}",
        config.unwrap_or_default(),
        of("plugin ").map(|more| format!(", {more}")).unwrap_or_default(),
        of("vm ").map(|more| format!(", {more}")).unwrap_or_default(),
    )
}

/// A listener with the filter of a guest, which has its name.
fn guest_listener(guest: &Block) -> Block {
    let config = guest_config(guest);
    let yaml = format!(
        "http_filters:\n- {{ name: envoy.filters.http.wasm, typed_config: {{ \"@type\": t/envoy.extensions.filters.http.wasm.v3.Wasm, config: {config} }} }}\n- @router@\n",
    );
    Block { name: guest.name.clone(), yaml }
}

/// As [`guest_listener`], of connections.
fn guest_relay(guest: &Block) -> Block {
    let (config, cluster) =
        (guest_config(guest), field_of(guest, ON_CONNECTIONS).unwrap_or_default());
    let yaml = format!(
        "filter_chains:\n- filters:\n  - {{ name: wasm, typed_config: {{ \"@type\": t/envoy.extensions.filters.network.wasm.v3.Wasm, config: {config} }} }}\n  - {{ name: tcp, typed_config: {{ \"@type\": t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: {cluster}, access_log: @log@ }} }}\n",
    );
    Block { name: guest.name.clone(), yaml }
}

/// The text with `@scripts@`, the value of `source_codes`, and `@script routes@`, a route to `a` for each script, which runs
/// there.
fn with_scripts(text: &str, scripts: &[Block]) -> String {
    let source = |script: &Block| {
        let code = serde_json::to_string(&script.yaml).expect("a text is JSON");
        format!("{}: {{ inline_string: {code} }}", script.name)
    };
    let sources: Vec<String> = scripts.iter().map(source).collect();
    let mut out = String::new();
    for line in text.lines() {
        let Some(before) = line.strip_suffix("@script routes@") else {
            out += line;
            out.push('\n');
            continue;
        };
        for Block { name, .. } in scripts {
            out += &format!(
                "{before}- {{ name: {name}, match: {{ path: /{name} }}, route: {{ cluster: a }}, typed_per_filter_config: {{ envoy.filters.http.lua: {{ \"@type\": {OF_ROUTE}, name: {name} }} }} }}\n"
            );
        }
    }
    out.replace("@scripts@", &format!("{{ {} }}", sources.join(", ")))
}

fn indent(yaml: &str, by: usize) -> String {
    let lines = yaml.lines().filter(|line| !line.is_empty());
    lines.map(|line| format!("{:by$}{line}\n", "")).collect()
}

/// What stands for placeholders.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub(crate) endpoints: &'a BTreeMap<&'static str, SocketAddr>,
    /// The folder with certificates.
    pub(crate) folder: &'a Path,
    /// Texts by name.
    pub(crate) texts: &'a BTreeMap<&'static str, String>,
}

impl Places<'_> {
    /// The text with `@NAME@` (an endpoint or a text), `@address NAME@`, `@port NAME@`, `@endpoints NAME NAME@` (a load assignment), `@folder@` and
    /// `@router@` replaced.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut out = text
            .replace("@router@", ROUTER)
            .replace("@folder@", &self.folder.display().to_string());
        while let Some((before, rest)) = out.split_once("@endpoints ") {
            let (names, after) = rest.split_once('@').expect("`@endpoints NAME ...@`");
            let all: Vec<String> =
                names.split(' ').map(|name| format!("{{ endpoint: @{name}@ }}")).collect();
            let list = all.join(", ");
            out = format!(
                "{before}{{ cluster_name: c, endpoints: [{{ lb_endpoints: [{list}] }}] }}{after}"
            );
        }
        for (name, address) in self.endpoints {
            let (ip, port) = (address.ip(), address.port());
            let endpoint = format!(
                "{{ address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }} }}"
            );
            out = out.replace(&format!("@{name}@"), &endpoint);
            out = out.replace(&format!("@address {name}@"), &address.to_string());
            out = out.replace(&format!("@port {name}@"), &port.to_string());
        }
        for (name, text) in self.texts {
            out = out.replace(&format!("@{name}@"), text);
        }
        out
    }
}
