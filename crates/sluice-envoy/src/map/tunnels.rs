//! Relays through a proxy: connections that are requests of HTTP (`tunneling_config`).
//!
//! Owns: the request, and what of a relay its rule says. Refuses to know: relays. Keeps: a host that is not known before the
//! connection is refused.

use sluice_core::{Node, Value};

use super::Mapping;
use crate::message::ProtoMessage;
use crate::native::{NativeMap, single};

impl Mapping<'_> {
    /// HTTP with a `tunnel` in place of a relay.
    pub(super) fn tunnel(
        &mut self,
        tunnel: &ProtoMessage,
        mut relay: NativeMap,
        native: &mut NativeMap,
    ) {
        let host = tunnel.text("hostname").map_or("", |text| text);
        if host.contains('%') {
            self.unsupported(tunnel, "hostname", "a host and a port are, without operators");
            return;
        }
        let of_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        if !of_port && !tunnel.is("use_post") {
            self.unsupported(tunnel, "hostname", "CONNECT needs a port");
            return;
        }
        for field in ["propagate_response_headers", "propagate_response_trailers"] {
            self.only_false(tunnel, field, "headers of the response are of no use to a relay");
        }
        let mut request = NativeMap::new(tunnel.span);
        request.text("host", host, tunnel.place("hostname"));
        if tunnel.is("use_post") {
            let path = tunnel.text("post_path").map_or("/", |text| text);
            request.text("post", path, tunnel.place("use_post"));
        } else {
            tunnel.without_effect(&["use_post", "post_path"]);
        }
        let mut rule = NativeMap::new(tunnel.span);
        rule.word("connect", true, tunnel.span);
        if let Some(cluster) = relay.take("cluster") {
            rule.set("cluster", cluster);
        }
        if let Some(Node { value: Value::Map(shares), span }) = relay.take("split") {
            let mut split = NativeMap::new(span);
            for share in shares {
                split.set(&share.key, single("weight", share.node));
            }
            rule.map("split", split);
        }
        if let Some(hash) = relay.take("hash") {
            let by = single("by", hash);
            rule.list("hash", vec![by], tunnel.span);
        }
        let mut http = NativeMap::new(tunnel.span);
        let mut timeout = NativeMap::new(tunnel.span);
        timeout.word("response", "none", tunnel.span);
        if let Some(idle) = relay.take("idle_timeout") {
            // That of bodies is needed for POST.
            if !idle.is_word("none") {
                http.set("body_timeout", idle.clone());
            }
            timeout.set("idle", idle);
        }
        rule.map("timeout", timeout);
        if let Some(most) = relay.take("max_duration") {
            http.set("max_stream_duration", most);
            if relay.take("max_duration_jitter").is_some() {
                let how = "`max_downstream_connection_duration` has no jitter";
                self.differs(tunnel, "hostname", how);
            }
        }
        let name = self.name_of_routes("tunnel");
        let rules = Node { value: Value::List(vec![rule.node()]), span: tunnel.span };
        self.routes.push(&name, rules);
        http.text("routes", &name, tunnel.span);
        http.map("tunnel", request);
        let options: Vec<&ProtoMessage> = tunnel.messages("headers_to_add").collect();
        let mut edits = NativeMap::new(tunnel.span);
        self.header_options(&options, "request", &mut edits);
        if !edits.is_empty() {
            http.list("filters", vec![single("set_headers", edits.node())], tunnel.span);
        }
        native.map("http", http);
    }
}
