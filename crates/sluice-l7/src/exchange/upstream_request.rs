//! The rule's changes to a request before it is sent to an endpoint.
//!
//! Owns: permission for upgrades and tunnels, rewriting of path and host, the deadline of a gRPC client, and the hash
//! for a hash balancer. Refuses to know: endpoints and attempts. Keeps: a rewrite happens once, before the first
//! attempt.

use std::borrow::Cow;
use std::time::Duration;

use sluice_codec::grpc::{parse_timeout, show_timeout};
use sluice_codec::h1::parse::is_authority;
use sluice_codec::{Known, Method};
use sluice_l4::rbac::conn::ConnSubject;
use xxhash_rust::xxh3::xxh3_64;

use super::{RequestTask, Stop};
use crate::expression::RequestAttributes;
use crate::header_values::{cookie, query_parameter};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::{HashBy, HostRewrite, Originals, RegexSubstitution, Rule, Timeouts};

const ORIGINAL_PATH: &[u8] = b"x-envoy-original-path";
const ORIGINAL_HOST: &[u8] = b"x-envoy-original-host";
const FORWARDED_HOST: &[u8] = b"x-forwarded-host";

impl RequestTask {
    /// The timeout that a gRPC client set, within the bounds of the rule; the endpoint is told of a cap. The header is
    /// ignored in other requests.
    pub(super) fn grpc_deadline(&mut self, bounds: &Timeouts) -> Option<Duration> {
        let timeout = self.request.get(Known::GrpcTimeout).filter(|_| self.request.is_grpc());
        let wanted = timeout.and_then(parse_timeout)?;
        let capped = bounds.grpc_max.map_or(wanted, |max| wanted.min(max));
        if capped < wanted {
            let text = show_timeout(capped);
            self.request.set_known(Known::GrpcTimeout, text.as_bytes());
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
            // A connection that does not carry HTTP is a tunnel by its own settings.
            None if self.manager.plan.options.tunnel.is_some() => {}
            None if self.method == Method::Connect && !rule.options.connect => {
                return denied("CONNECT");
            }
            None => {}
        }
        Ok(())
    }

    /// Rewrites the path and host to those for the endpoint.
    pub(super) fn rewrite(&mut self, rule: &Rule) -> Result<(), Stop> {
        let Originals { path: tell_path, host: tell_host, forwarded_host } = rule.options.originals;
        if tell_path {
            self.request.remove(ORIGINAL_PATH);
        }
        // The host may be made of the path that the client sent.
        let host = self.rewritten_host(&rule.options.host)?;
        if tell_host {
            self.request.remove(ORIGINAL_HOST);
            if host.is_some() || matches!(rule.options.host, HostRewrite::Endpoint) {
                let original = self.request.authority().as_bytes().to_vec();
                self.request.set(ORIGINAL_HOST, &original);
            }
        }
        if forwarded_host && (host.is_some() || matches!(rule.options.host, HostRewrite::Endpoint))
        {
            self.forward_host();
        }
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
            if tell_path {
                let path = self.request.path().as_bytes().to_vec();
                self.request.set(ORIGINAL_PATH, &path);
            }
            self.request.set_path(path.as_bytes());
        }
        if let Some(host) = host {
            self.request.set_authority(&host);
        }
        Ok(())
    }

    /// Adds the host to those that proxies in front have added, unless it is the last of them.
    fn forward_host(&mut self) {
        let own = self.request.authority().as_bytes();
        let known: Vec<&[u8]> = self.request.values(FORWARDED_HOST).collect();
        let mut all = known.join(&b","[..]);
        if own.is_empty() || all.rsplit(|byte| *byte == b',').next() == Some(own) {
            return;
        }
        if !all.is_empty() {
            all.push(b',');
        }
        all.extend_from_slice(own);
        self.request.set(FORWARDED_HOST, &all);
    }

    /// The host for the endpoint, if it is known before an endpoint is, and is another than the client sent.
    fn rewritten_host(&self, rewrite: &HostRewrite) -> Result<Option<Vec<u8>>, Stop> {
        let substituted = |text: &str, by: &RegexSubstitution| match by.apply(text) {
            Cow::Borrowed(_) => None,
            Cow::Owned(host) => Some(host.into_bytes()),
        };
        let (host, from) = match rewrite {
            HostRewrite::Keep | HostRewrite::Endpoint => return Ok(None),
            HostRewrite::Literal(host) => return Ok(Some(host.as_bytes().to_vec())),
            HostRewrite::Header(name) => {
                let value = self.request.get_named(name.as_bytes());
                (value.filter(|value| !value.is_empty()).map(<[u8]>::to_vec), Some(name))
            }
            HostRewrite::OfPath(by) => (substituted(self.request.path_only(), by), None),
            HostRewrite::OfHeader(of) => {
                let value = self.request.get_named(of.0.as_bytes());
                let value = value.and_then(|value| std::str::from_utf8(value).ok());
                (value.and_then(|value| substituted(value, &of.1)), Some(&of.0))
            }
        };
        if host.as_deref().is_none_or(is_authority) {
            return Ok(host);
        }
        let body = match from {
            Some(name) => format!("the header {name} does not contain a valid host\n"),
            None => "the path does not contain a valid host\n".to_owned(),
        };
        Err(Stop::reply(Reply::malformed("host_header_malformed", body)))
    }

    /// Removes what the endpoint of a redirect was told of the request before it.
    pub(super) fn forget_originals(&mut self, told: Originals) {
        for (name, told) in [(ORIGINAL_PATH, told.path), (ORIGINAL_HOST, told.host)] {
            if told {
                self.request.remove(name);
            }
        }
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
            HashBy::Cel(expression) => {
                let conn = ConnSubject::of(&self.downstream.conn.info);
                let conn = ConnSubject { source: self.summary.source, ..conn };
                let (head, values) = (&*self.request, Some(&self.values));
                let (path, conn) = (head.path_only(), Some(&conn));
                let request = RequestAttributes { head, path, values, conn, response: None };
                expression.text(&request).map(|text| xxh3_64(text.as_bytes()))
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
