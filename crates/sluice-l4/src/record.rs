//! The record of an ended connection or flow, and the operators for its values.
//!
//! Owns: the content of a record. Refuses to know: where it is written. Keeps: made once, when the connection ends;
//! plain values, read on the log thread.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::connection::{Attempt, ConnInfo, PathFacts, Peer, TlsFacts};
use sluice_core::{Clock, ConnValues, Facts, Moment, Name, Protocol, Reason, values};
use sluice_expr::Expression;
use sluice_telemetry::{Argument, Operator, Record, RecordKind, TemplateField};

use crate::inspect::{tls, word_facts};
use crate::rbac::conn::ConnSubject;
use crate::rbac::conn::expression::{CONN_ATTRIBUTES, parse_expression};

sluice_telemetry::operators! {
    BEFORE_FACTS:
    START_TIME = "START_TIME", "The start time, RFC 3339 in UTC.";
    CONNECTION_ID = "CONNECTION_ID", "The number of the connection or flow, unique within the process.";
    LISTENER = "LISTENER", "The listener.";
    CHAIN = "FILTER_CHAIN_NAME", "The filter chain.";
    REMOTE = "DOWNSTREAM_REMOTE_ADDRESS", "The source address: the peer, or the source in a trusted PROXY header.";
    REMOTE_IP = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "The same without its port.";
    PEER = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", "The remote address of the socket.";
    PEER_IP = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", "The same without its port.";
    LOCAL = "DOWNSTREAM_LOCAL_ADDRESS", "The address that the client connected to.";
    LOCAL_IP = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "The address that the client connected to, without its port.";
    PROTOCOL = "PROTOCOL", "The protocol of the stream, if inspected.";
    SNI = "REQUESTED_SERVER_NAME", "The server name in the ClientHello.";
    TLS_VERSION = "DOWNSTREAM_TLS_VERSION", "The TLS version, if TLS was terminated.";
    TLS_CIPHER = "DOWNSTREAM_TLS_CIPHER", "The cipher suite, if TLS was terminated.";
    CLIENT_SUBJECT = "DOWNSTREAM_PEER_SUBJECT", "The subject of the client's certificate.";
    QUIC_VERSION = "QUIC_VERSION", "The QUIC version, if QUIC was terminated.";
    RTT = "DOWNSTREAM_RTT", "The round-trip time to the client at the end, in milliseconds, if QUIC was terminated.";
    PACKETS_SENT = "QUIC_PACKETS_SENT", "QUIC packets sent to the client.";
    PACKETS_LOST = "QUIC_PACKETS_LOST", "QUIC packets sent to the client that were considered lost.";
    MIGRATIONS = "QUIC_MIGRATIONS", "Migrations of the QUIC client to another address that was validated.";
    EARLY_DATA = "DOWNSTREAM_EARLY_DATA", "Whether a request arrived before the handshake was complete (0-RTT), if TLS or QUIC was terminated: `true` or `false`.";
}

sluice_telemetry::operators! {
    AFTER_FACTS:
    CLUSTER = "UPSTREAM_CLUSTER", "The cluster.";
    UPSTREAM = "UPSTREAM_HOST", "The endpoint of the connection or flow.";
    UPSTREAM_LOCAL = "UPSTREAM_LOCAL_ADDRESS", "The local address of the connection to the endpoint.";
    ATTEMPTS = "UPSTREAM_HOSTS_ATTEMPTED", "Every endpoint that was attempted, with the failure.";
    RECEIVED = "BYTES_RECEIVED", "Bytes from the client.";
    SENT = "BYTES_SENT", "Bytes to the client.";
    DATAGRAMS_RECEIVED = "DATAGRAMS_RECEIVED", "Datagrams from the client.";
    DATAGRAMS_SENT = "DATAGRAMS_SENT", "Datagrams to the client.";
    DURATION = "DURATION", "Milliseconds from accept to end.";
    REASON = "REASON", "The reason for the end; `sluice explain --reasons` describes each.";
    PHASE = "PHASE", "The phase in which it ended.";
    SIDE = "SIDE", "The side that caused the end: downstream, upstream or local.";
    DETAIL = "DETAIL", "Details of the end, from the system or TLS.";
    FLAGS = "RESPONSE_FLAGS", "Envoy's response flag for the reason.";
    VALUE = "VALUE"("NAME", values::check_name), "A value that a filter shared, by its name.";
    CEL = "CEL"("EXPRESSION" => conn_expression), "What an expression in CEL makes.";
}

/// An expression over a connection.
fn conn_expression(text: &str) -> Result<Arc<dyn Any + Send + Sync>, String> {
    Ok(Arc::new(parse_expression(text, CONN_ATTRIBUTES)?))
}

/// Every operator of connections and flows, with those for the facts of protocols.
pub fn operators() -> impl Iterator<Item = &'static Operator> {
    let facts = word_facts().map(|fact| &fact.operator);
    BEFORE_FACTS.iter().copied().chain(facts).chain(AFTER_FACTS.iter().copied())
}

/// The format that `format: text` selects.
pub const DEFAULT_TEXT: &str = "[%START_TIME%] %LISTENER%/%FILTER_CHAIN_NAME% %DOWNSTREAM_REMOTE_ADDRESS% -> %UPSTREAM_HOST% %PROTOCOL% %REQUESTED_SERVER_NAME% in=%BYTES_RECEIVED% out=%BYTES_SENT% %DURATION%ms %REASON% %DETAIL%";

/// An address without its port.
pub fn without_port(peer: Peer) -> String {
    peer.ip().map_or_else(|| peer.to_string(), |ip| ip.to_string())
}

/// The record of an ended connection or flow.
#[derive(Debug)]
pub struct ConnectionRecord {
    kind: RecordKind,
    id: u64,
    started: Duration,
    lasted: Duration,
    listener: Name,
    chain: Option<Name>,
    source: Peer,
    peer: Peer,
    local: Peer,
    facts: Facts,
    tls: Option<Box<TlsFacts>>,
    path: Option<Box<PathFacts>>,
    cluster: Option<Name>,
    attempts: Vec<Attempt>,
    upstream_local: Option<std::net::SocketAddr>,
    received: u64,
    sent: u64,
    datagrams: Option<(u64, u64)>,
    reason: Reason,
    detail: Option<Box<str>>,
    values: ConnValues,
}

impl ConnectionRecord {
    /// The record of `info`, which ended at `now` for `reason`. For a flow, `datagrams` are the numbers received and
    /// sent.
    pub fn new(
        info: &ConnInfo,
        clock: &Clock,
        now: Moment,
        reason: Reason,
        datagrams: Option<(u64, u64)>,
    ) -> Self {
        Self {
            kind: if datagrams.is_some() { RecordKind::Flow } else { RecordKind::Connection },
            id: info.id,
            started: clock.wall(info.started),
            lasted: now.since(info.started),
            listener: info.listener.clone(),
            chain: info.chain.get().cloned(),
            source: info.source(),
            peer: info.peer,
            local: info.destination(),
            facts: info.nearest_facts().cloned().unwrap_or_default(),
            tls: info.tls.get().cloned(),
            path: info.path.get().map(|path| Box::new(path.facts())),
            cluster: info.cluster().cloned(),
            attempts: info
                .reached()
                .map_or_else(Vec::new, |reached| reached.attempts.borrow().to_vec()),
            upstream_local: info.reached().and_then(|reached| reached.upstream_local.get()),
            received: info.received.get(),
            sent: info.sent.get(),
            datagrams,
            reason,
            detail: info.detail.get().cloned(),
            values: info.values.clone(),
        }
    }
}

impl Record for ConnectionRecord {
    fn kind(&self) -> RecordKind {
        self.kind
    }

    fn field(&self, operator: &Operator, argument: &Argument) -> TemplateField<'_> {
        let text = |text: Option<&str>| {
            TemplateField::from(text.map(|t| TemplateField::Text(Cow::Owned(t.to_owned()))))
        };
        let counted = |of: fn(&PathFacts) -> u64| {
            self.path
                .as_ref()
                .map_or(TemplateField::Missing, |path| TemplateField::Number(of(path)))
        };
        match operator.name {
            name if name == START_TIME.name => TemplateField::Time(self.started),
            name if name == CONNECTION_ID.name => TemplateField::Number(self.id),
            name if name == LISTENER.name => TemplateField::from(&*self.listener),
            name if name == CHAIN.name => text(self.chain.as_deref()),
            name if name == REMOTE.name => TemplateField::from(self.source.to_string()),
            name if name == REMOTE_IP.name => TemplateField::from(without_port(self.source)),
            name if name == PEER.name => TemplateField::from(self.peer.to_string()),
            name if name == PEER_IP.name => TemplateField::from(without_port(self.peer)),
            name if name == LOCAL.name => TemplateField::from(self.local.to_string()),
            name if name == LOCAL_IP.name => TemplateField::from(without_port(self.local)),
            name if name == PROTOCOL.name => text(self.facts.protocol.map(Protocol::word)),
            name if name == SNI.name => text(self.facts.get(&tls::SNI)),
            name if name == TLS_VERSION.name => text(self.tls.as_ref().map(|tls| tls.version)),
            name if name == TLS_CIPHER.name => text(self.tls.as_ref().map(|tls| tls.cipher)),
            name if name == CLIENT_SUBJECT.name => {
                text(self.tls.as_ref().and_then(|tls| tls.client_subject()))
            }
            name if name == QUIC_VERSION.name => text(self.path.as_ref().map(|path| path.version)),
            name if name == RTT.name => self
                .path
                .as_ref()
                .map_or(TemplateField::Missing, |path| TemplateField::Millis(path.rtt)),
            name if name == PACKETS_SENT.name => counted(|path| path.packets_sent),
            name if name == PACKETS_LOST.name => counted(|path| path.packets_lost),
            name if name == MIGRATIONS.name => counted(|path| path.migrations),
            name if name == EARLY_DATA.name => {
                let over_quic = self.path.as_ref().map(|path| path.early_data);
                let early = over_quic.or_else(|| self.tls.as_ref().map(|tls| tls.early));
                text(early.map(|early| if early { "true" } else { "false" }))
            }
            name if name == CLUSTER.name => text(self.cluster.as_deref()),
            name if name == UPSTREAM.name => {
                text(self.attempts.last().filter(|a| a.failure.is_none()).map(|a| &*a.endpoint))
            }
            name if name == UPSTREAM_LOCAL.name => {
                TemplateField::from(self.upstream_local.map(|a| a.to_string()))
            }
            name if name == ATTEMPTS.name => {
                TemplateField::List(self.attempts.iter().map(ToString::to_string).collect())
            }
            name if name == RECEIVED.name => TemplateField::Number(self.received),
            name if name == SENT.name => TemplateField::Number(self.sent),
            name if name == DATAGRAMS_RECEIVED.name => self
                .datagrams
                .map_or(TemplateField::Missing, |(received, _)| TemplateField::Number(received)),
            name if name == DATAGRAMS_SENT.name => self
                .datagrams
                .map_or(TemplateField::Missing, |(_, sent)| TemplateField::Number(sent)),
            name if name == DURATION.name => TemplateField::Millis(self.lasted),
            name if name == REASON.name => TemplateField::from(self.reason.code()),
            name if name == PHASE.name => TemplateField::from(self.reason.def().phase.word()),
            name if name == SIDE.name => TemplateField::from(self.reason.def().side.word()),
            name if name == DETAIL.name => text(self.detail.as_deref()),
            name if name == FLAGS.name => TemplateField::from(self.reason.def().envoy_flag),
            name if name == CEL.name => {
                let conn = ConnSubject {
                    id: self.id,
                    source: self.source,
                    peer: self.peer,
                    local: self.local,
                    sni: self.facts.get(&tls::SNI),
                    tls: self.tls.as_deref(),
                    values: &self.values,
                };
                let expression = argument.parsed::<Expression>();
                expression.and_then(|expression| expression.text(&conn).ok()).into()
            }
            name if name == VALUE.name => {
                self.values.named(argument).map_or(TemplateField::Missing, TemplateField::shared)
            }
            name => {
                let fact = word_facts().find(|fact| fact.operator.name == name);
                text(fact.and_then(|fact| self.facts.get(&fact.key)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::connection::{ClientCertFacts, QuicPath};
    use sluice_telemetry::Template;

    use super::*;
    use crate::inspect::postgres;

    sluice_core::values! {
        SHARED: String = "test.shared", "A value of a test.";
    }

    #[derive(Debug)]
    struct Still;

    impl QuicPath for Still {
        fn facts(&self) -> PathFacts {
            PathFacts {
                version: "v1",
                client: ([127, 0, 0, 1], 9).into(),
                rtt: Duration::from_millis(3),
                mtu: 1200,
                packets_sent: 7,
                packets_lost: 0,
                migrations: 1,
                early_data: false,
            }
        }

        fn note_early(&self) {}
    }

    #[test]
    fn every_operator_is_answered() {
        values::declare(VALUES);
        let clock = Clock::held();
        let peer = Peer::Ip(([127, 0, 0, 1], 9).into());
        let info = ConnInfo::new(7, "l".into(), peer, peer, clock.now());
        let tls = TlsFacts {
            version: "1.3",
            cipher: "c",
            alpn: None,
            client: Some(Arc::new(ClientCertFacts {
                subject: "CN=x".into(),
                ..Default::default()
            })),
            resumed: false,
            early: false,
        };
        let _ = info.tls.set(Box::new(tls));
        let _ = info.path.set(Box::new(Still));
        let facts = Facts::of(postgres::POSTGRES)
            .with(&tls::SNI, "a.test".into())
            .with(&postgres::DATABASE.key, "d".into())
            .with(&postgres::USER.key, "u".into());
        let _ = (
            info.facts.set(Box::new(facts)),
            info.chain.set("c".into()),
            info.reach().cluster.set("u".into()),
        );
        info.reach().upstream_local.set(peer.socket());
        info.reach().attempts.borrow_mut().push(Attempt::reached("e".into()));
        info.note("because");
        assert!(info.values.set(&SHARED, "v".to_owned()));
        let end = sluice_core::reason::end::DONE;
        let record = ConnectionRecord::new(&info, &clock, clock.now(), end, Some((1, 2)));
        for operator in operators() {
            let text = match operator.name {
                "VALUE" => format!("%VALUE({})%", SHARED.name()),
                "CEL" => "%CEL(connection.requested_server_name)%".to_owned(),
                name => format!("%{name}%"),
            };
            let mut line = String::new();
            Template::fields([("field", &*text)], &[operator]).unwrap().fill(&record, &mut line);
            assert!(line.contains("\"field\":"), "{text} is not answered: {line}");
        }
    }
}
