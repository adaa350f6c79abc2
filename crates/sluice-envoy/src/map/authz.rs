//! External authorisation.
//!
//! Owns: the services that are asked, over gRPC and HTTP, and settings of routes. Refuses to know: where the filter
//! stands. Keeps: what would let in a client that Envoy refuses is an error.

use sluice_core::Node;

use super::{Mapping, Zero};
use crate::message::{ProtoMessage, ProtoValue};
use crate::native::{NativeMap, plain, quoted, single};

impl Mapping<'_> {
    /// The filter `ext_authz` of requests, from `ExtAuthz`.
    pub(super) fn ext_authz(&mut self, config: &ProtoMessage) -> Option<Node> {
        let mut native = NativeMap::new(config.span);
        let told = "ext_authz.metadata".to_owned();
        self.metadata.below("envoy.filters.http.ext_authz", "", told);
        config.without_effect(&[
            "transport_api_version",
            "stat_prefix",
            "charge_cluster_response_stats",
            "include_tls_session",
            "encode_raw_headers",
            "bootstrap_metadata_labels_key",
            "emit_filter_state_stats",
            "emit_client_span",
            "validate_mutations",
        ]);
        if config.is("include_peer_certificate") {
            native.word("client_certificate", true, config.place("include_peer_certificate"));
        }
        if config.has("deny_at_disable") || !self.always(config, "filter_enabled")? {
            self.unsupported(config, "filter_enabled", "the filter is on for all requests");
        }
        if let Some(service) = config.message("grpc_service") {
            self.grpc_service(service, &mut native);
        } else if let Some(service) = config.message("http_service") {
            native.word("protocol", "http", service.span);
            self.http_service(service, &mut native);
        } else {
            self.unsupported(config, "grpc_service", "a service is required");
            return None;
        }
        if config.is("failure_mode_allow") {
            native.word("allow_on_error", true, config.place("failure_mode_allow"));
        }
        if config.is("clear_route_cache") {
            native.word("reroute", true, config.place("clear_route_cache"));
        }
        if let Some(status) = config.message("status_on_error")
            && let Some(field) = status.field("code")
            && let ProtoValue::Enum(code, _) = field.value
        {
            native.word("error_status", code, status.span);
        }
        if let Some(body) = config.message("with_request_body") {
            if config.has("grpc_service") && body.is("pack_as_bytes") {
                native.word("body_as_bytes", true, body.place("pack_as_bytes"));
            }
            body.without_effect(&["pack_as_bytes"]);
            authz_body(body, &mut native);
        }
        if let Some(headers) = config.message("allowed_headers") {
            let names = self.exact_names(headers);
            native.list("request_headers", names, headers.span);
        }
        Some(single("ext_authz", native.node()))
    }

    /// The settings of a route or host, from `ExtAuthzPerRoute`.
    pub(super) fn ext_authz_override(&mut self, config: &ProtoMessage) -> Option<Node> {
        if config.is("disabled") {
            return Some(plain("skip", config.span));
        }
        let settings = config.message("check_settings")?;
        let mut native = NativeMap::new(settings.span);
        let mut context = NativeMap::new(settings.span);
        for (key, item) in settings.map("context_extensions") {
            if let ProtoValue::Text(text) = &item.value {
                context.text(key, text, item.span);
            }
        }
        native.map("context", context);
        if let Some(body) = settings.message("with_request_body") {
            if body.is("pack_as_bytes") {
                let why = "it is as the filter of the chain says";
                self.differs(body, "pack_as_bytes", why);
            }
            body.without_effect(&["pack_as_bytes"]);
            authz_body(body, &mut native);
        }
        settings.without_effect(&["emit_client_span"]);
        Some(native.node())
    }

    fn grpc_service(&mut self, service: &ProtoMessage, native: &mut NativeMap) {
        self.grpc_cluster(service, "cluster", native);
        let timeout = self.duration(service, "timeout", Zero::Refused);
        native.set("timeout", timeout.unwrap_or_else(|| plain("200ms", service.span)));
    }

    fn http_service(&mut self, service: &ProtoMessage, native: &mut NativeMap) {
        if let Some(uri) = service.message("server_uri") {
            // The cluster says where it is.
            uri.without_effect(&["uri"]);
            if let Some(name) = uri.text("cluster") {
                let name = self.cluster(name, uri, "cluster");
                native.text("cluster", &name, uri.place("cluster"));
            }
            if let Some(timeout) = self.duration(uri, "timeout", Zero::Refused) {
                native.set("timeout", timeout);
            }
        }
        if let Some(prefix) = service.text("path_prefix") {
            native.text("path_prefix", prefix, service.place("path_prefix"));
        }
        if let Some(request) = service.message("authorization_request") {
            if let Some(headers) = request.message("allowed_headers") {
                let names = self.exact_names(headers);
                native.list("request_headers", names, headers.span);
            }
            let mut context = NativeMap::new(request.span);
            for header in request.messages("headers_to_add") {
                if let (Some(key), Some(value)) = (header.text("key"), header.text("value")) {
                    context.text(key, value, header.span);
                }
            }
            native.map("context", context);
        }
        let response = service.message("authorization_response");
        for (field, key) in [
            ("allowed_upstream_headers", "upstream_headers"),
            ("allowed_client_headers_on_success", "allowed_client_headers"),
        ] {
            if let Some(headers) = response.and_then(|response| response.message(field)) {
                let names = self.exact_names(headers);
                native.list(key, names, headers.span);
            }
        }
        let listed = response.and_then(|response| response.message("allowed_client_headers"));
        let mut names = listed.map_or_else(Vec::new, |headers| self.exact_names(headers));
        if listed.is_none() {
            let how = "of a refusal, the client gets status, body, `content-type`, `location` and challenges; list others in `allowed_client_headers`";
            self.differs(service, "authorization_response", how);
        }
        for name in ALWAYS_FOR_CLIENTS {
            if !names.iter().any(|known| known.text() == Some(name)) {
                names.push(quoted(name, service.span));
            }
        }
        native.list("denied_client_headers", names, service.span);
    }

    /// The names in a list of which each is exact.
    pub(super) fn exact_names(&mut self, list: &ProtoMessage) -> Vec<Node> {
        let mut names = Vec::new();
        for matcher in list.messages("patterns") {
            matcher.without_effect(&["ignore_case"]);
            match matcher.text("exact") {
                Some(name) => names.push(quoted(&name.to_ascii_lowercase(), matcher.span)),
                None => self.unsupported(list, "patterns", "only exact names are"),
            }
        }
        names
    }
}

/// Headers of a refusal that clients get besides those that are listed.
const ALWAYS_FOR_CLIENTS: [&str; 3] = ["location", "www-authenticate", "proxy-authenticate"];

fn authz_body(body: &ProtoMessage, native: &mut NativeMap) {
    let Some(max) = body.number("max_request_bytes") else { return };
    let mut asked = NativeMap::new(body.span);
    asked.word("max", max, body.place("max_request_bytes"));
    if body.is("allow_partial_message") {
        asked.word("partial", true, body.place("allow_partial_message"));
    }
    native.map("with_body", asked);
}
