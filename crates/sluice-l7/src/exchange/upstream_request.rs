//! The rule's changes to a request before it is sent to an endpoint.
//!
//! Owns: permission for upgrades and tunnels, rewriting of path and host, the deadline of a gRPC client, and the hash
//! for a hash balancer. Refuses to know: endpoints and attempts. Keeps: a rewrite happens once, before the first
//! attempt.

use std::time::Duration;

use sluice_codec::grpc::{parse_timeout, show_timeout};
use sluice_codec::h1::parse::is_authority;
use sluice_codec::{Known, Method};
use xxhash_rust::xxh3::xxh3_64;

use super::{RequestTask, Stop};
use crate::header_values::{cookie, query_parameter};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::{HashBy, HostRewrite, Rule, Timeouts};

impl RequestTask {
    /// The timeout that a gRPC client set, within the bounds of the rule; the endpoint is told of a cap. The header is
    /// ignored in other requests.
    pub(super) fn grpc_deadline(&mut self, bounds: &Timeouts) -> Option<Duration> {
        let timeout = self.request.get(Known::GrpcTimeout).filter(|_| self.request.is_grpc());
        let wanted = timeout.and_then(parse_timeout)?;
        let capped = bounds.grpc_max.map_or(wanted, |max| wanted.min(max));
        if capped < wanted {
            let text = show_timeout(capped);
            self.request.set(Known::GrpcTimeout.text().as_bytes(), text.as_bytes());
        }
        // A client that waits for less than the offset would get no time at all.
        Some(
            capped.checked_sub(bounds.grpc_offset).filter(|left| !left.is_zero()).unwrap_or(capped),
        )
    }

    /// Refuses upgrades and tunnels that the rule does not allow.
    pub(super) fn check_upgrade(&mut self, rule: &Rule) -> Result<(), Stop> {
        let detail = &mut self.summary.detail;
        let mut denied = |what: &str| {
            *detail = Some(format!("the rule does not allow {what}").into());
            let body = format!("this route does not allow {what}\n");
            let reply = Reply::new(403, reasons::UPGRADE_DENIED, "upgrade_failed", body);
            Err(Stop::reply(reply.closing()))
        };
        match self.request.upgrade() {
            Some(protocol) => {
                let listed = |known: &String| known.eq_ignore_ascii_case(protocol);
                if !rule.options.upgrades.iter().any(listed) {
                    return denied(&format!("an upgrade to {protocol}"));
                }
            }
            None if self.method == Method::Connect && !rule.options.connect => {
                return denied("CONNECT");
            }
            None => {}
        }
        Ok(())
    }

    /// Rewrites the path and host to those for the endpoint.
    pub(super) fn rewrite(&mut self, rule: &Rule) -> Result<(), Stop> {
        // `*` and the target of a tunnel are not paths.
        if let Some(rewrite) = &rule.options.path
            && self.request.path().starts_with('/')
        {
            let mut path = self.rewritten(rule, rewrite)?;
            if let Some(query) = self.request.query()
                && !path.contains('?')
            {
                path.push('?');
                path.push_str(query);
            }
            if self.summary.original_path.is_empty() {
                self.summary.original_path = self.request.path().to_owned();
            }
            self.request.set_path(path.as_bytes());
        }
        match &rule.options.host {
            HostRewrite::Keep | HostRewrite::Endpoint => {}
            HostRewrite::Literal(host) => {
                self.request.set_authority(host.as_bytes());
            }
            HostRewrite::Header(name) => {
                let value = self.request.get_named(name.as_bytes()).map(<[u8]>::to_vec);
                if let Some(value) = value.filter(|value| !value.is_empty())
                    && !(is_authority(&value) && self.request.set_authority(&value))
                {
                    let body = format!("the header {name} does not contain a valid host\n");
                    return Err(Stop::reply(Reply::malformed("host_header_malformed", body)));
                }
            }
        }
        Ok(())
    }

    /// The hash for a hash balancer; sets `new_cookie` if it is the hash of a new cookie.
    pub(super) fn hash(&self, by: &[HashBy], new_cookie: &mut Option<String>) -> Option<u64> {
        by.iter().find_map(|by| match by {
            HashBy::SourceIp => sluice_l4::Hash::of_source(self.summary.source),
            HashBy::Header(name) => self.request.get_named(name.as_bytes()).map(xxh3_64),
            HashBy::Query(name) => {
                let query = self.request.query().unwrap_or_default();
                query_parameter(query, name).map(|value| xxh3_64(value.as_bytes()))
            }
            HashBy::Cookie { name, ttl, path } => {
                let cookies = self.request.get(Known::Cookie).unwrap_or_default();
                if let Some(value) = cookie(cookies, name.as_bytes()) {
                    return Some(xxh3_64(value));
                }
                let ttl = (*ttl)?;
                let value =
                    format!("{:016x}", xxh3_64(&self.summary.id.to_le_bytes()) ^ self.random);
                let mut text = format!("{name}={value}; HttpOnly");
                if !ttl.is_zero() {
                    text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
                }
                text.push_str(&format!("; Path={}", path.as_deref().unwrap_or("/")));
                *new_cookie = Some(text);
                Some(xxh3_64(value.as_bytes()))
            }
        })
    }
}
