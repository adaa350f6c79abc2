//! Conditions on connections.
//!
//! Owns: what is known of a connection that policies may be about, and how it is compared. Refuses to know: requests.
//! Keeps: what is not known of a connection fulfils no condition; only an address that a trusted hop garbled counts
//! against its client.

use sluice_core::connection::{ClientCertFacts, ConnInfo, Peer, TlsFacts};
use sluice_core::value::NamePattern;
use sluice_core::{Cidr, ConnValues, section};
use sluice_expr::Expression;

use self::expression::ConnExpression;
use super::settings::ConditionSettings;
use super::{Formula, Lean, PolicyCondition, PolicyKey, SubjectKey};
use crate::inspect::tls;

pub mod expression;

section! {
    /// A condition on connections. All given fields must match, and of a list, any value.
    pub struct ConnectionCondition {
        /// Source addresses: those of a trusted PROXY header or, without one, of the socket.
        pub source: Vec<Cidr>,
        /// Remote addresses of the socket, whatever a PROXY header says.
        pub peer: Vec<Cidr>,
        /// Ports that the client connected to.
        pub port: Vec<u16>,
        /// Server names (SNI) of the client's TLS handshake: exact, or *.suffix for any name below it.
        pub sni: Vec<NamePattern>,
        /// Names in the client's certificate (URI or DNS name) or its subject: exact, prefix*, *suffix (of names only), or *
        /// for any certificate.
        pub certificate: Vec<CertificateName>,
        /// An expression in CEL that must be true, over `source`, `destination`, `connection` and `metadata`.
        pub when: Option<ConnExpression>,
        /// All of these conditions.
        pub all: Vec<ConnectionCondition>,
        /// Any of these conditions.
        pub any: Vec<ConnectionCondition>,
        /// Not this condition.
        pub not: Option<Box<ConnectionCondition>>,
    }
}

/// The names that a client's certificate may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// Any certificate, whatever its names are.
    Any,
    /// Its subject or one of its alternative names is this.
    Exact(String),
    /// One of them begins with this.
    Prefix(String),
    /// One of its alternative names ends with this.
    Suffix(String),
}

sluice_core::text_setting! {
    CertificateName, "a name in a certificate, prefix* or *suffix", "spiffe://example.com/shop/*", parse_certificate_name, |name| match name {
        CertificateName::Any => "*".into(),
        CertificateName::Exact(name) => name.clone(),
        CertificateName::Prefix(start) => format!("{start}*"),
        CertificateName::Suffix(end) => format!("*{end}"),
    };
}

fn parse_certificate_name(text: &str) -> Result<CertificateName, String> {
    let inner = text.strip_prefix('*').unwrap_or(text);
    let inner = inner.strip_suffix('*').unwrap_or(inner);
    let stars = text.matches('*').count();
    match (stars, text.starts_with('*'), text.ends_with('*')) {
        _ if text.is_empty() => Err("expected a name such as spiffe://example.com/shop".into()),
        (1, true, true) => Ok(CertificateName::Any),
        (0, ..) => Ok(CertificateName::Exact(text.to_owned())),
        (1, true, false) => Ok(CertificateName::Suffix(inner.to_owned())),
        (1, false, true) => Ok(CertificateName::Prefix(inner.to_owned())),
        _ => Err(format!(
            "`*` may only be at the beginning or the end, and once, not as in `{text}`"
        )),
    }
}

impl CertificateName {
    fn fits(&self, client: &ClientCertFacts) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => texts_of(client).any(|text| text == exact),
            Self::Prefix(start) => texts_of(client).any(|text| text.starts_with(start.as_str())),
            // The end of a subject is that of a common name, which may look like a host.
            Self::Suffix(end) => names_of(client).any(|name| name.ends_with(end.as_str())),
        }
    }
}

/// The alternative names of a certificate.
fn names_of(client: &ClientCertFacts) -> impl Iterator<Item = &str> {
    client.uris.iter().chain(&client.names).map(|name| &**name)
}

/// The alternative names and the subject of a certificate.
fn texts_of(client: &ClientCertFacts) -> impl Iterator<Item = &str> {
    names_of(client).chain([&*client.subject])
}

/// A condition on a connection.
#[derive(Clone, Debug)]
pub enum ConnCondition {
    /// The source, any of these.
    Source(Vec<Cidr>),
    /// The remote address of the socket, any of these.
    Peer(Vec<Cidr>),
    /// The port that the client connected to, any of these.
    Port(Vec<u16>),
    /// The server name, any of these.
    Sni(Vec<NamePattern>),
    /// The names of the client's certificate, any of these.
    Certificate(Vec<CertificateName>),
    /// An expression.
    When(Box<Expression>),
}

/// What conditions on connections compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnDimension {
    /// The source.
    Source,
    /// The remote address of the socket.
    Peer,
    /// The server name and the domains that it is in.
    Sni,
    /// Names of the client's certificate.
    Certificate,
}

/// A connection as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct ConnSubject<'a> {
    /// The number of the connection.
    pub id: u64,
    /// The source.
    pub source: Peer,
    /// The remote address of the socket.
    pub peer: Peer,
    /// The address that the client connected to.
    pub local: Peer,
    /// The server name in the ClientHello, in lower case.
    pub sni: Option<&'a str>,
    /// What TLS termination found.
    pub tls: Option<&'a TlsFacts>,
    /// What filters share about the connection.
    pub values: &'a ConnValues,
}

impl<'a> ConnSubject<'a> {
    /// A connection of any kind.
    pub fn of(info: &'a ConnInfo) -> Self {
        Self {
            id: info.id,
            source: info.source(),
            peer: info.peer,
            local: info.destination(),
            sni: info.nearest_facts().and_then(|facts| facts.get(&tls::SNI)),
            tls: info.tls.get().map(|tls| &**tls),
            values: &info.values,
        }
    }

    fn client(&self) -> Option<&'a ClientCertFacts> {
        self.tls?.client.as_deref()
    }
}

/// The conditions that the fields of a section stand for; all must be fulfilled.
pub fn conn_conditions(
    source: &[Cidr],
    peer: &[Cidr],
    port: &[u16],
    sni: &[NamePattern],
    certificate: &[CertificateName],
) -> impl Iterator<Item = ConnCondition> {
    [
        (!source.is_empty()).then(|| ConnCondition::Source(source.into())),
        (!peer.is_empty()).then(|| ConnCondition::Peer(peer.into())),
        (!port.is_empty()).then(|| ConnCondition::Port(port.into())),
        (!sni.is_empty()).then(|| ConnCondition::Sni(sni.into())),
        (!certificate.is_empty()).then(|| ConnCondition::Certificate(certificate.into())),
    ]
    .into_iter()
    .flatten()
}

/// The formula of a section: its own conditions, and those that it contains.
pub fn combine<T: ConditionSettings>(
    own: impl Iterator<Item = T::Condition>,
    all: &[T],
    any: &[T],
    not: Option<&T>,
) -> Formula<T::Condition> {
    let mut parts: Vec<_> = own.map(Formula::Is).collect();
    parts.extend(all.iter().map(T::formula));
    if !any.is_empty() {
        parts.push(Formula::Any(any.iter().map(T::formula).collect()));
    }
    parts.extend(not.map(|not| Formula::Not(Box::new(not.formula()))));
    Formula::All(parts)
}

impl ConditionSettings for ConnectionCondition {
    type Condition = ConnCondition;

    fn formula(&self) -> Formula<ConnCondition> {
        let Self { source, peer, port, sni, certificate, when, all, any, not } = self;
        let own = conn_conditions(source, peer, port, sni, certificate);
        let when = when.clone().map(|when| ConnCondition::When(Box::new(when.0)));
        combine(own.chain(when), all, any, not.as_deref())
    }
}

impl ConnCondition {
    /// Whether it is about what only the selection of a chain or TLS reveals.
    pub fn needs_chain(&self) -> bool {
        match self {
            Self::Sni(_) => true,
            Self::When(when) => expression::needs_chain(when),
            _ => self.is_of_certificate(),
        }
    }

    /// Whether it is about the client's certificate.
    pub fn is_of_certificate(&self) -> bool {
        match self {
            Self::When(when) => expression::is_of_certificate(when),
            _ => matches!(self, Self::Certificate(_)),
        }
    }
}

fn holds(blocks: &[Cidr], peer: Peer, lean: Lean) -> bool {
    match peer {
        Peer::Ip(address) => blocks.iter().any(|block| block.holds(address.ip())),
        // It is some address, perhaps one of these.
        Peer::Unknown => lean == Lean::ToMatch,
        Peer::Unix => false,
    }
}

impl PolicyCondition for ConnCondition {
    type Subject<'a> = ConnSubject<'a>;
    type Dimension = ConnDimension;

    fn fits(&self, subject: &ConnSubject<'_>, lean: Lean) -> bool {
        match self {
            Self::Source(blocks) => holds(blocks, subject.source, lean),
            Self::Peer(blocks) => holds(blocks, subject.peer, lean),
            Self::Port(ports) => {
                subject.local.socket().is_some_and(|local| ports.contains(&local.port()))
            }
            Self::Sni(names) => {
                subject.sni.is_some_and(|name| names.iter().any(|pattern| pattern.fits(name)))
            }
            Self::Certificate(names) => {
                let client = subject.client();
                client.is_some_and(|client| names.iter().any(|name| name.fits(client)))
            }
            Self::When(when) => expression::fulfils(when, subject, lean),
        }
    }

    fn keys(&self) -> Option<Vec<(ConnDimension, PolicyKey)>> {
        let blocks = |of: ConnDimension, blocks: &[Cidr]| {
            let keys = blocks.iter().map(|block| (of.clone(), PolicyKey::Block(*block)));
            Some(keys.collect())
        };
        let text = |text: &str| PolicyKey::Text(text.as_bytes().into());
        match self {
            Self::Source(of) => blocks(ConnDimension::Source, of),
            Self::Peer(of) => blocks(ConnDimension::Peer, of),
            Self::Port(_) | Self::When(_) => None,
            Self::Sni(names) => {
                let keys = names.iter().map(|name| match name {
                    NamePattern::Exact(name) => text(name),
                    // As the domains of a name are looked up.
                    NamePattern::Suffix(domain) => text(&format!(".{domain}")),
                });
                Some(keys.map(|key| (ConnDimension::Sni, key)).collect())
            }
            Self::Certificate(names) => {
                let keys = names.iter().map(|name| match name {
                    CertificateName::Exact(name) => Some((ConnDimension::Certificate, text(name))),
                    _ => None,
                });
                keys.collect()
            }
        }
    }

    fn look_up(
        dimension: &ConnDimension,
        subject: &ConnSubject<'_>,
        found: &mut dyn FnMut(SubjectKey<'_>),
    ) {
        match dimension {
            ConnDimension::Source => address(subject.source, found),
            ConnDimension::Peer => address(subject.peer, found),
            ConnDimension::Sni => {
                let name = subject.sni.unwrap_or_default();
                found(SubjectKey::Text(name.as_bytes()));
                let dots = name.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
                dots.for_each(|(at, _)| found(SubjectKey::Text(&name.as_bytes()[at..])));
            }
            ConnDimension::Certificate => {
                let texts = subject.client().into_iter().flat_map(texts_of);
                texts.for_each(|text| found(SubjectKey::Text(text.as_bytes())));
            }
        }
    }
}

fn address(peer: Peer, found: &mut dyn FnMut(SubjectKey<'_>)) {
    match peer {
        Peer::Ip(address) => found(SubjectKey::Address(address.ip())),
        Peer::Unknown => found(SubjectKey::Any),
        Peer::Unix => {}
    }
}
