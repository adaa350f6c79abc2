//! The TCP proxy.
//!
//! Owns: clusters, time-outs and hashing of relays. Refuses to know: how a chain is selected.

use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain};

impl Mapping<'_> {
    /// A relay, from a `TcpProxy`.
    pub(super) fn tcp_proxy(&mut self, proxy: &ProtoMessage, native: &mut NativeMap) {
        let mut relay = NativeMap::new(proxy.span);
        proxy.without_effect(&["stat_prefix", "check_drain_close"]);
        if let Some(cluster) = proxy.text("cluster") {
            let name = self.cluster_or_none(cluster, proxy, "cluster");
            relay.text("cluster", &name, proxy.place("cluster"));
        }
        if let Some(weighted) = proxy.message("weighted_clusters") {
            let mut split = NativeMap::new(weighted.span);
            for cluster in weighted.messages("clusters") {
                let Some(name) = cluster.text("name") else { continue };
                let name = self.cluster_or_none(name, cluster, "name");
                if split.has(&name) {
                    self.unsupported(cluster, "name", "the cluster is in the list already");
                }
                split.word(&name, cluster.number("weight").unwrap_or(0), cluster.span);
            }
            relay.map("split", split);
        }
        let idle = self.duration(proxy, "idle_timeout", Zero::Word("none"));
        relay.set("idle_timeout", idle.unwrap_or_else(|| plain("1h", proxy.span)));
        if let Some(max) = self.duration(proxy, "max_downstream_connection_duration", Zero::Refused)
        {
            relay.set("max_duration", max);
            if let Some(jitter) =
                self.percent(proxy, "max_downstream_connection_duration_jitter_percentage")
            {
                relay.set("max_duration_jitter", jitter);
            }
        }
        if proxy.has("max_connect_attempts") {
            // One attempt is Envoy's default; here another endpoint is tried.
            proxy.field("max_connect_attempts");
            self.differs(
                proxy,
                "max_connect_attempts",
                "`connect_attempts` of the cluster counts instead, 3 unless it says otherwise",
            );
        }
        let policies: Vec<&ProtoMessage> = proxy.messages("hash_policy").collect();
        for policy in policies {
            if policy.message("source_ip").is_some() {
                relay.word("hash", "source_ip", policy.span);
            } else {
                self.unsupported(policy, "filter_state", "");
            }
        }
        self.logs_of(proxy, "connection");
        match proxy.message("tunneling_config") {
            Some(tunnel) => self.tunnel(tunnel, relay, native),
            None => native.set("relay", relay.node()),
        }
    }
}
