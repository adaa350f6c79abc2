//! The HTTP connection manager.
//!
//! Owns: its limits and time-outs, the client's address, normalisation, which filters are implied. Refuses to know:
//! what a filter does. Keeps: where a field is not set, the native form says what Envoy does.

use sluice_core::{Node, Span};

use super::cases::FilterCases;
use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

/// What the routes of a connection manager take from it.
pub(super) struct HttpDefaults {
    /// How long a stream may be idle.
    pub(super) idle: Node,
    /// The protocols that clients may upgrade to.
    pub(super) upgrades: Vec<Node>,
    /// Whether CONNECT is passed on.
    pub(super) connect: bool,
    /// Filters that are off where a host or route has no settings for them.
    pub(super) off: Vec<String>,
    /// Filters whose settings depend on the request.
    pub(super) cases: Vec<FilterCases>,
}

/// Fields that say how Envoy counts, buffers, drains or tells inside from outside.
const WITHOUT_EFFECT: [&str; 8] = [
    "stat_prefix",
    "internal_address_config",
    "drain_timeout",
    "drain_timeout_jitter",
    "stream_flush_timeout",
    "stream_error_on_invalid_http_message",
    "http1_safe_max_connection_duration",
    "append_local_overload",
];

impl Mapping<'_> {
    /// HTTP, from an `HttpConnectionManager`.
    pub(super) fn http(&mut self, hcm: &ProtoMessage, native: &mut NativeMap) {
        let mut http = NativeMap::new(hcm.span);
        hcm.without_effect(&WITHOUT_EFFECT);
        if let Some(config) = hcm.message("internal_address_config") {
            config.without_effect(&["unix_sockets"]);
            self.blocks(config, "cidr_ranges");
        }
        match &*hcm.choice("codec_type") {
            "HTTP1" => http.word("versions", "http1", hcm.place("codec_type")),
            "HTTP2" => http.word("versions", "http2", hcm.place("codec_type")),
            _ => {}
        }
        self.client_address(hcm, &mut http);
        if let Some(of) = hcm.message("scheme_header_transformation") {
            self.only_false(of, "match_upstream", "endpoints are told the scheme of the client");
            if let Some(scheme) = of.text("scheme_to_overwrite") {
                http.text("scheme", scheme, of.place("scheme_to_overwrite"));
            }
        }
        self.path_hygiene(hcm, &mut http);
        self.http_limits(hcm, &mut http);
        self.http_versions(hcm, &mut http);
        self.without_counterpart(hcm);
        let cases = self.filter_cases(hcm);
        let of_chain = self.http_filters(hcm);
        // These may read what filters note.
        self.local_replies(hcm, &mut http);
        let defaults = self.http_defaults(hcm, cases);
        let table = hcm.message("route_config");
        let routes = match table {
            Some(table) => Some(self.route_table(table, &defaults)),
            None if hcm.has("rds") => {
                self.unsupported(hcm, "rds", "write the routes as `route_config`");
                None
            }
            None => {
                let scoped = hcm.message("scoped_routes");
                scoped.and_then(|scoped| self.scoped_table(scoped, &defaults, &mut http))
            }
        };
        let mut filters = self.implied_filters(hcm);
        filters.extend(of_chain);
        if let Some(routes) = routes {
            http.text("routes", &routes.name, routes.span);
            // What the router does comes last: on the way in after every filter, on the way out before.
            if routes.edits || routes.edited_below {
                filters.push(routes.headers);
            }
        }
        if let Some(wait) = self.on_demand.take() {
            http.set("on_demand", wait);
        }
        let waits = std::mem::take(&mut self.hosts_on_demand);
        if !waits {
            http.take("scopes_on_demand");
        }
        if let Some(table) = table.filter(|table| waits && table.has("vhds")) {
            let mut hosts = NativeMap::new(table.place("vhds"));
            hosts.text("table", table.text("name").map_or("", |name| name), table.place("name"));
            http.map("hosts_on_demand", hosts);
        }
        self.join_edits(&mut filters, hcm);
        http.list("filters", filters, hcm.place("http_filters"));
        self.logs_of(hcm, "request");
        native.set("http", http.node());
    }

    /// The client's address. With `use_remote_address`, it is the peer, or what trusted hops report; without, what the
    /// peer reports.
    fn client_address(&mut self, hcm: &ProtoMessage, http: &mut NativeMap) {
        let hops = hcm.number("xff_num_trusted_hops").unwrap_or(0);
        let edge = hcm.is("use_remote_address");
        http.word(
            "trusted_hops",
            if edge { hops } else { hops + 1 },
            hcm.place("use_remote_address"),
        );
        self.only_false(hcm, "skip_xff_append", "the client's address is always appended");
    }

    fn path_hygiene(&mut self, hcm: &ProtoMessage, http: &mut NativeMap) {
        let mut path = NativeMap::new(hcm.span);
        if let Some(normalize) = hcm.bool("normalize_path") {
            path.word("normalize", normalize, hcm.place("normalize_path"));
        }
        if hcm.is("merge_slashes") {
            path.word("merge_slashes", true, hcm.place("merge_slashes"));
        }
        let word = match &*hcm.choice("path_with_escaped_slashes_action") {
            "REJECT_REQUEST" => "reject",
            "UNESCAPE_AND_REDIRECT" => "redirect",
            "UNESCAPE_AND_FORWARD" => "unescape",
            _ => "keep",
        };
        path.word("escaped_slashes", word, hcm.place("path_with_escaped_slashes_action"));
        http.map("path", path);
    }

    fn http_limits(&mut self, hcm: &ProtoMessage, http: &mut NativeMap) {
        let kilobytes = hcm.number("max_request_headers_kb").unwrap_or(60);
        http.word("head_bytes", format!("{kilobytes}KiB"), hcm.place("max_request_headers_kb"));
        // The native form has limits here in any case.
        for (field, key) in [
            ("request_headers_timeout", "head_timeout"),
            ("delayed_close_timeout", "delayed_close"),
        ] {
            if hcm.duration(field).is_some_and(|timeout| timeout.0 == 0) {
                continue;
            }
            if let Some(timeout) = self.duration(hcm, field, Zero::Refused) {
                http.set(key, timeout);
            }
        }
        if hcm.duration("request_timeout").is_some_and(|timeout| timeout.0 != 0) {
            let how = "the limit is on each pause within a request (`body_timeout`), not on the whole of it";
            self.differs(hcm, "request_timeout", how);
            if let Some(timeout) = self.duration(hcm, "request_timeout", Zero::Refused) {
                http.set("body_timeout", timeout);
            }
        }
        let common = hcm.message("common_http_protocol_options");
        let mut idle = plain("1h", hcm.span);
        let mut fields = 100;
        let mut max_age = None;
        if let Some(common) = common {
            if let Some(found) = self.duration(common, "idle_timeout", Zero::Word("none")) {
                idle = found;
            }
            max_age = self.duration(common, "max_connection_duration", Zero::Word("none"));
            fields = common.number("max_headers_count").unwrap_or(fields);
            if let Some(requests) =
                common.number("max_requests_per_connection").filter(|requests| *requests > 0)
            {
                http.word(
                    "requests_per_connection",
                    requests,
                    common.place("max_requests_per_connection"),
                );
            }
            if let Some(jitter) = self.percent(common, "max_connection_duration_jitter") {
                http.set("max_age_jitter", jitter);
            } else if max_age.is_some() {
                http.word("max_age_jitter", "0%", common.span);
            }
            match &*common.choice("headers_with_underscores_action") {
                "REJECT_REQUEST" => http.word("underscores", "reject", common.span),
                "DROP_HEADER" => http.word("underscores", "drop", common.span),
                _ => {}
            }
            if let Some(max) = self.duration(common, "max_stream_duration", Zero::Word("none")) {
                http.set("max_stream_duration", max);
            }
        }
        http.set("idle_timeout", idle);
        if let Some(age) = max_age {
            http.set("max_age", age);
        }
        http.word(
            "head_fields",
            fields,
            common.map_or(hcm.span, |common| common.place("max_headers_count")),
        );
    }

    fn http_versions(&mut self, hcm: &ProtoMessage, http: &mut NativeMap) {
        if let Some(options) = hcm.message("http_protocol_options") {
            self.http1_options(options, http);
        }
        let options = hcm.message("http2_protocol_options");
        let mut http2 = NativeMap::new(options.map_or(hcm.span, |options| options.span));
        let mut streams = 1024;
        // Envoy's windows of 16 and 24 MiB bound what a client may have in flight, not what is buffered.
        let mut windows = ["16MiB".to_owned(), "24MiB".to_owned()];
        if let Some(options) = options {
            streams = options.number("max_concurrent_streams").unwrap_or(streams);
            for (window, field) in windows
                .iter_mut()
                .zip(["initial_stream_window_size", "initial_connection_window_size"])
            {
                if let Some(size) = options.number(field) {
                    *window = size.to_string();
                }
            }
            self.http2_options(options, &mut http2);
        }
        let span = http2_span(options, hcm);
        http2.word("streams", streams, span);
        http2.word("stream_window", &windows[0], span);
        http2.word("connection_window", &windows[1], span);
        http.map("http2", http2);
        if let Some(options) = hcm.message("http3_protocol_options") {
            options.without_effect(&["allow_extended_connect"]);
        }
    }

    /// Options of HTTP/1, on either side.
    pub(super) fn http1_options(&mut self, options: &ProtoMessage, native: &mut NativeMap) {
        // Both are always so.
        options.without_effect(&[
            "accept_http_10",
            "allow_absolute_url",
            "use_balsa_parser",
            "override_stream_error_on_invalid_http_message",
            "enable_trailers",
        ]);
        self.only_false(options, "allow_chunked_length", "it is how requests are smuggled");
        let Some(format) = options.message("header_key_format") else { return };
        let keeps = format
            .message("stateful_formatter")
            .and_then(|of| {
                of.without_effect(&["name"]);
                of.message("typed_config")
            })
            .filter(|config| config.descriptor.name() == "PreserveCaseFormatterConfig");
        match keeps {
            Some(config) => {
                config.without_effect(&["forward_reason_phrase"]);
                native.word("header_case", "keep", format.span);
            }
            None => {
                format.all_without_effect();
                self.unsupported(options, "header_key_format", "only `preserve_case` is");
            }
        }
    }

    /// Pings of HTTP/2, on either side. What bounds floods is always on.
    pub(super) fn http2_options(&mut self, options: &ProtoMessage, native: &mut NativeMap) {
        options.without_effect(&[
            "allow_connect",
            "hpack_table_size",
            "max_outbound_frames",
            "max_outbound_control_frames",
            "max_consecutive_inbound_frames_with_empty_payload",
            "max_inbound_priority_frames_per_stream",
            "max_inbound_window_update_frames_per_data_frame_sent",
            "stream_error_on_invalid_http_messaging",
            "override_stream_error_on_invalid_http_message",
            "use_oghttp2_codec",
            "enable_huffman_encoding",
        ]);
        match options.message("connection_keepalive") {
            None => native.word("ping_interval", "none", options.span),
            Some(keepalive) => {
                let interval = self.duration(keepalive, "interval", Zero::Refused);
                native.set(
                    "ping_interval",
                    interval.unwrap_or_else(|| plain("none", keepalive.span)),
                );
                if let Some(timeout) = self.duration(keepalive, "timeout", Zero::Refused) {
                    native.set("ping_timeout", timeout);
                }
                if let Some(jitter) = keepalive.message("interval_jitter") {
                    jitter.all_without_effect();
                }
            }
        }
    }

    fn without_counterpart(&mut self, hcm: &ProtoMessage) {
        if let Some(tracing) = hcm.message("tracing") {
            tracing.all_without_effect();
            self.differs(
                hcm,
                "tracing",
                "no spans are reported; headers about traces are passed on",
            );
        }
        for field in ["server_name", "server_header_transformation"] {
            if hcm.has(field) && &*hcm.choice("server_header_transformation") != "PASS_THROUGH" {
                hcm.field(field);
                self.differs(hcm, field, "the header `server` of endpoints is passed on");
            }
        }
        for field in ["strip_matching_host_port", "strip_any_host_port", "strip_trailing_host_dot"]
        {
            if hcm.is(field) {
                self.differs(
                    hcm,
                    field,
                    "hosts are compared without their ports; endpoints get them as they were sent",
                );
            }
        }
    }

    fn http_defaults(&mut self, hcm: &ProtoMessage, cases: Vec<FilterCases>) -> HttpDefaults {
        let idle = self.duration(hcm, "stream_idle_timeout", Zero::Word("none"));
        let mut defaults = HttpDefaults {
            idle: idle.unwrap_or_else(|| plain("5m", hcm.span)),
            upgrades: Vec::new(),
            connect: false,
            off: super::switches::switched_on_below(hcm),
            cases,
        };
        let disabled = std::mem::take(&mut self.filters_off);
        // Filters with cases of their own are off by these.
        let by_case = |name: &String| defaults.cases.iter().any(|of| of.filter == *name);
        defaults.off.extend(disabled.into_iter().filter(|name| !by_case(name)));
        for upgrade in hcm.messages("upgrade_configs") {
            if upgrade.has("filters") {
                self.unsupported(
                    upgrade,
                    "filters",
                    "an upgraded stream has passed the filters of its request",
                );
            }
            let on = upgrade.bool("enabled") != Some(false);
            match upgrade.text("upgrade_type") {
                Some(protocol) if on && protocol.eq_ignore_ascii_case("connect") => {
                    defaults.connect = true
                }
                Some(protocol) if on => {
                    defaults.upgrades.push(quoted(&protocol.to_ascii_lowercase(), upgrade.span));
                }
                _ => {}
            }
        }
        defaults
    }

    /// Filters for what the connection manager does itself.
    fn implied_filters(&mut self, hcm: &ProtoMessage) -> Vec<Node> {
        let mut filters = Vec::new();
        if hcm.bool("generate_request_id") != Some(false) {
            let mut settings = NativeMap::new(hcm.span);
            let keep = hcm.is("preserve_external_request_id") || !hcm.is("use_remote_address");
            settings.word("keep", keep, hcm.span);
            settings.word("respond", hcm.is("always_set_request_id_in_response"), hcm.span);
            filters.push(single("request_id", settings.node()));
        } else {
            hcm.without_effect(&[
                "preserve_external_request_id",
                "always_set_request_id_in_response",
            ]);
        }
        if let Some(via) = hcm.text("via") {
            let mut edits = NativeMap::new(hcm.place("via"));
            let written = via.replace('%', "%%");
            for side in ["add_request", "add_response"] {
                edits.set(side, single("via", quoted(&written, hcm.place("via"))));
            }
            filters.push(single("set_headers", edits.node()));
        }
        let header = match &*hcm.choice("forward_client_cert_details") {
            "SANITIZE" => "remove",
            "APPEND_FORWARD" => "append",
            "SANITIZE_SET" => "set",
            _ => return filters,
        };
        if let Some(details) = hcm.message("set_current_client_cert_details") {
            details.without_effect(&["subject", "dns", "uri"]);
        }
        let mut settings = NativeMap::new(hcm.span);
        settings.word("header", header, hcm.place("forward_client_cert_details"));
        filters.push(single("client_cert", settings.node()));
        filters
    }
}

fn http2_span(options: Option<&ProtoMessage>, hcm: &ProtoMessage) -> Span {
    options.map_or(hcm.span, |options| options.span)
}
