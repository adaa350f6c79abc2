//! Active health checks.
//!
//! Owns: HTTP, gRPC and TCP checks and their times. Refuses to know: what becomes of an unhealthy endpoint.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

impl Mapping<'_> {
    /// The `health` of a cluster.
    pub(super) fn health_checks(&mut self, cluster: &ProtoMessage, native: &mut NativeMap) {
        let waits = native.take("unchecked");
        let checks: Vec<&ProtoMessage> = cluster.messages("health_checks").collect();
        let [check] = checks.as_slice() else {
            if !checks.is_empty() {
                self.unsupported(cluster, "health_checks", "a cluster has one kind of check");
            }
            return;
        };
        let mut health = NativeMap::new(check.span);
        check.without_effect(&[
            "initial_jitter",
            "interval_jitter",
            "event_log_path",
            "event_logger",
            "always_log_health_check_failures",
            "always_log_health_check_success",
        ]);
        for field in
            ["healthy_edge_interval", "unhealthy_edge_interval", "no_traffic_healthy_interval"]
        {
            if check.field(field).is_some() {
                self.differs(check, field, "`interval` and `unhealthy_interval` count");
            }
        }
        check.field("event_logger").into_iter().for_each(|field| {
            field.value.messages(&mut ProtoMessage::all_without_effect);
        });
        for (field, key) in [
            ("timeout", "timeout"),
            ("interval", "interval"),
            ("unhealthy_interval", "unhealthy_interval"),
        ] {
            if let Some(time) = self.duration(check, field, Zero::Refused) {
                health.set(key, time);
            }
        }
        // Sixty seconds without traffic is Envoy's default.
        let no_traffic = self.duration(check, "no_traffic_interval", Zero::Refused);
        health.set("no_traffic_interval", no_traffic.unwrap_or_else(|| plain("60s", check.span)));
        let jitter = check.number("interval_jitter_percent").unwrap_or(0);
        health.word("jitter", format!("{jitter}%"), check.place("interval_jitter_percent"));
        for (field, key) in
            [("unhealthy_threshold", "unhealthy_after"), ("healthy_threshold", "healthy_after")]
        {
            if let Some(count) = check.number(field) {
                health.word(key, count.max(1), check.place(field));
            }
        }
        if let Some(port) = check.number("alt_port") {
            health.word("port", port, check.place("alt_port"));
        }
        if let Some(waits) = waits {
            health.set("unchecked", waits);
        }
        if let Some(http) = check.message("http_health_check") {
            let section = self.http_check(http, check);
            health.set("http", section);
        } else if let Some(tcp) = check.message("tcp_health_check") {
            let section = self.tcp_check(tcp);
            health.set("tcp", section);
        } else if let Some(grpc) = check.message("grpc_health_check") {
            let mut section = NativeMap::new(grpc.span);
            for (field, key) in [("service_name", "service"), ("authority", "authority")] {
                if let Some(text) = grpc.text(field) {
                    section.text(key, text, grpc.place(field));
                }
            }
            health.set("grpc", section.node());
        } else {
            self.unsupported(check, "custom_health_check", "");
        }
        check.without_effect(&["reuse_connection"]);
        native.set("health", health.node());
    }

    fn http_check(&mut self, http: &ProtoMessage, check: &ProtoMessage) -> Node {
        let mut section = NativeMap::new(http.span);
        for (field, key) in [("host", "host"), ("path", "path")] {
            if let Some(text) = http.text(field) {
                section.text(key, text, http.place(field));
            }
        }
        let method = http.choice("method");
        if &*method != "METHOD_UNSPECIFIED" {
            section.text("method", &method, http.place("method"));
        }
        for (field, key) in [("expected_statuses", "expect"), ("retriable_statuses", "retriable")] {
            let ranges: Vec<Node> = http.messages(field).filter_map(status_range).collect();
            section.list(key, ranges, http.place(field));
        }
        if !section.has("expect") {
            section.word("expect", "200", http.span);
        }
        let mut headers = NativeMap::new(http.place("request_headers_to_add"));
        for option in http.messages("request_headers_to_add") {
            option.without_effect(&["append", "append_action", "keep_empty_value"]);
            let Some(header) = option.message("header") else { continue };
            if let Some(name) = header.text("key") {
                headers.text(name, header.text("value").map_or("", |text| text), header.span);
            }
        }
        section.map("headers", headers);
        let bodies: Vec<&ProtoMessage> = http.messages("receive").collect();
        match bodies.as_slice() {
            [] => {}
            [one] => {
                if let Some(payload) = self.payload(one) {
                    section.set("body", payload);
                }
            }
            _ => self.unsupported(http, "receive", "one text is compared"),
        }
        if &*http.choice("codec_client_type") != "HTTP1" {
            self.differs(http, "codec_client_type", "checks speak the version of the cluster");
        }
        http.without_effect(&["response_buffer_size"]);
        if check.bool("reuse_connection") == Some(false) {
            section.word("reuse", false, check.place("reuse_connection"));
        }
        section.node()
    }

    fn tcp_check(&mut self, tcp: &ProtoMessage) -> Node {
        let mut section = NativeMap::new(tcp.span);
        if let Some(send) = tcp.message("send").and_then(|of| self.payload(of)) {
            section.set("send", send);
        }
        let expected: Vec<&ProtoMessage> = tcp.messages("receive").collect();
        match expected.as_slice() {
            [] => {}
            [one] => {
                if let Some(payload) = self.payload(one) {
                    section.set("expect", payload);
                }
            }
            _ => self.unsupported(tcp, "receive", "one text is compared"),
        }
        section.node()
    }

    /// Bytes that are sent or expected: in hexadecimal digits, as Envoy has them.
    fn payload(&mut self, payload: &ProtoMessage) -> Option<Node> {
        if let Some(text) = payload.text("text") {
            return Some(single("hex", quoted(text, payload.span)));
        }
        let field = payload.field("binary")?;
        let ProtoValue::Bytes(bytes) = &field.value else { return None };
        let hex = data_encoding::HEXLOWER.encode(bytes);
        Some(single("hex", quoted(&hex, payload.span)))
    }
}

/// A range of statuses, whose end is not in it.
fn status_range(range: &ProtoMessage) -> Option<Node> {
    let field = |name| match range.field(name)?.value {
        ProtoValue::Int(value) => u16::try_from(value).ok(),
        _ => None,
    };
    let (start, end) = (field("start")?, field("end")?);
    let last = end.checked_sub(1)?;
    let text = if start == last { start.to_string() } else { format!("{start}-{last}") };
    Some(plain(text, range.span))
}
