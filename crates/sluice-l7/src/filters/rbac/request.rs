//! Conditions on requests.
//!
//! Owns: what is known of a request that policies may be about, and how it is compared. Refuses to know: bodies. Keeps: a
//! path is compared in every way that a server may read it, a header with each of its values; where these differ, the
//! reading counts that refuses the request.

use std::cell::OnceCell;

use sluice_codec::Head;
use sluice_core::value::{HostPattern, NamePattern};
use sluice_core::values::SharedValue;
use sluice_core::{Cidr, SharedValues, section};
use sluice_expr::AttributeUse;
use sluice_l4::rbac::conn::expression::fulfils;
use sluice_l4::rbac::conn::{
    CertificateName, ConnCondition, ConnDimension, ConnSubject, combine, conn_conditions,
};
use sluice_l4::rbac::settings::ConditionSettings;
use sluice_l4::rbac::{Formula, Lean, PolicyCondition, PolicyKey, SubjectKey};
use smallvec::SmallVec;

use crate::expression::{RequestAttributes, RequestExpression};
use crate::host_name::bare_host;
use crate::hygiene;
use crate::identity::who;
use crate::path_match::{DEPTH_MAX, PathMatch, folders};
use crate::path_value::PathValue;
use crate::value_match::{ValueMatch, Values, ValuesOfFilters, texts_of};
use crate::words::MethodName;

section! {
    /// A condition on requests. All given fields must match, and of a list, any value.
    pub(in crate::filters) struct RequestCondition {
        /// Source addresses: that of the client, as trusted hops and PROXY headers report it.
        pub source: Vec<Cidr>,
        /// Remote addresses of the socket, whatever is reported.
        pub peer: Vec<Cidr>,
        /// Ports that the client connected to.
        pub port: Vec<u16>,
        /// Server names (SNI) of the client's TLS handshake: exact, or *.suffix for any name below it.
        pub sni: Vec<NamePattern>,
        /// Names in the client's certificate (URI or DNS name) or its subject: exact, prefix*, *suffix (of names only), or *
        /// for any certificate.
        pub certificate: Vec<CertificateName>,
        /// Who makes the request, as the filters that verify it and `%IDENTITY%` say: `jwt:PROVIDER/SUBJECT`, `oidc:PROVIDER/SUBJECT`, `basic:USER`,
        /// `api_key:NAME`, `certificate:NAME`; or { prefix: } and so on, as of headers.
        pub identity: Vec<ValueMatch>,
        /// Hosts, without ports: exact, *.suffix or prefix.*.
        pub host: Vec<HostPattern>,
        /// Paths: `/a` exactly, `/a/*` for it and everything below, or { regex: }, { template: }, { starts_with: }.
        pub path: Vec<PathValue>,
        /// Whether upper and lower case letters of the path are told apart. A regex says it itself: `(?i)`.
        pub case_sensitive: bool = "true",
        /// Methods.
        pub method: Vec<MethodName>,
        /// Headers: a value, or { present: }, { prefix: }, { suffix: }, { contains: }, { regex: }, { not: }.
        pub headers: Values,
        /// Values that filters share, by their names, matched like headers, as they are printed.
        pub values: ValuesOfFilters,
        /// An expression in CEL that must be true, over `request`, `source`, `destination`, `connection` and `metadata`.
        pub when: Option<RequestExpression>,
        /// All of these conditions.
        pub all: Vec<RequestCondition>,
        /// Any of these conditions.
        pub any: Vec<RequestCondition>,
        /// Not this condition.
        pub not: Option<Box<RequestCondition>>,
    }
}

impl ConditionSettings for RequestCondition {
    type Condition = RequestMatch;

    fn formula(&self) -> Formula<RequestMatch> {
        let Self { source, peer, port, sni, certificate, identity, host, path, .. } = self;
        let Self { case_sensitive, method, headers, values, when, all, any, not, .. } = self;
        let conn = conn_conditions(source, peer, port, sni, certificate).map(RequestMatch::Conn);
        let paths = path.iter().map(|path| match case_sensitive {
            true => path.0.clone(),
            false => path.0.clone().in_any_case().unwrap_or_else(|| path.0.clone()),
        });
        let methods = method.iter().map(|method| method.0.clone());
        let own = [
            (!identity.is_empty()).then(|| RequestMatch::Identity(identity.clone())),
            (!host.is_empty()).then(|| RequestMatch::Host(host.clone())),
            (!path.is_empty()).then(|| RequestMatch::Path(paths.collect())),
            (!method.is_empty()).then(|| RequestMatch::Method(methods.collect())),
            when.clone().map(|when| RequestMatch::When(Box::new(when))),
        ];
        let headers = headers.0.iter().cloned();
        let values = values.0.0.iter().cloned();
        let named = headers
            .map(|(name, wanted)| RequestMatch::Header(name, wanted))
            .chain(values.map(|(name, wanted)| RequestMatch::Value(name, wanted)));
        combine(conn.chain(own.into_iter().flatten()).chain(named), all, any, not.as_deref())
    }

    fn problem(&self) -> Option<&'static str> {
        let inner = self.all.iter().chain(&self.any).chain(self.not.as_deref());
        if self.headers.0.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            return Some("the host of a request is no header here; write `host:`");
        }
        if !self.case_sensitive {
            let is_moot = |path: &PathValue| path.0.clone().in_any_case().is_none();
            if self.path.is_empty() || self.path.iter().any(is_moot) {
                return Some(
                    "`case_sensitive: false` has no effect here: it is for paths that are no regex, and not /*",
                );
            }
        }
        inner.into_iter().find_map(Self::problem)
    }
}

/// A condition on a request.
#[derive(Clone, Debug)]
pub(in crate::filters) enum RequestMatch {
    /// On its connection.
    Conn(ConnCondition),
    /// Who makes the request, any of these.
    Identity(Vec<ValueMatch>),
    /// The host, any of these.
    Host(Vec<HostPattern>),
    /// The path, any of these.
    Path(Vec<PathMatch>),
    /// The method, any of these.
    Method(Vec<String>),
    /// A header.
    Header(String, ValueMatch),
    /// A value that filters share.
    Value(String, ValueMatch),
    /// An expression.
    When(Box<RequestExpression>),
}

/// What conditions on requests compare.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::filters) enum RequestDimension {
    /// Something of the connection.
    Conn(ConnDimension),
    /// Who makes the request.
    Identity,
    /// The host, and the domains that it is in.
    Host,
    /// The path.
    Path {
        /// Its folders rather than the whole path.
        folders: bool,
        /// In lower case.
        any_case: bool,
    },
    /// The method.
    Method,
    /// A header.
    Header(String),
    /// A value that filters share.
    Value(String),
}

/// A request as policies see it.
#[derive(Debug)]
pub(in crate::filters) struct RequestSubject<'a> {
    /// Its connection.
    pub conn: ConnSubject<'a>,
    /// Its head.
    pub head: &'a Head,
    /// What filters share about it.
    pub values: &'a SharedValues,
    /// How servers may read the path besides as it is.
    pub readings: OnceCell<SmallVec<[String; 1]>>,
}

impl RequestSubject<'_> {
    /// Whether the request fulfils an expression.
    fn fulfils(&self, expression: &RequestExpression, lean: Lean) -> bool {
        let is_of_path =
            |of: &AttributeUse| of.root == "request" && matches!(&*of.field, "path" | "url_path");
        let fits = |path| {
            let (values, conn) = (Some(self.values), Some(&self.conn));
            let request = RequestAttributes { head: self.head, path, values, conn, response: None };
            fulfils(&expression.0, &request, lean)
        };
        match expression.0.uses().iter().any(is_of_path) {
            true => lean.of_readings(self.paths().map(fits)),
            false => fits(self.head.path_only()),
        }
    }
}

/// Readings of a path that are compared, besides the path itself: a server may decode it once more.
const READINGS_MAX: usize = 3;

impl RequestSubject<'_> {
    /// The path in every way that a server may read it.
    fn paths(&self) -> impl Iterator<Item = &str> {
        let path = self.head.path_only();
        let readings = self.readings.get_or_init(|| {
            let next = |path: &String| hygiene::lenient(path);
            std::iter::successors(hygiene::lenient(path), next).take(READINGS_MAX).collect()
        });
        std::iter::once(path).chain(readings.iter().map(String::as_str))
    }

    fn identity(&self) -> Option<String> {
        who(self.values, self.conn.tls).map(|who| who.to_string())
    }

    fn shared(&self, name: &str) -> Option<&dyn SharedValue> {
        self.values.named(name).or_else(|| self.conn.values.named(name))
    }
}

impl PolicyCondition for RequestMatch {
    type Subject<'a> = RequestSubject<'a>;
    type Dimension = RequestDimension;

    fn fits(&self, subject: &RequestSubject<'_>, lean: Lean) -> bool {
        match self {
            Self::Conn(condition) => condition.fits(&subject.conn, lean),
            Self::Identity(wanted) => {
                let who = subject.identity();
                let who = who.as_deref().map(str::as_bytes);
                wanted.iter().any(|wanted| wanted.fits(who))
            }
            Self::Host(hosts) => {
                let host = bare_host(subject.head.authority());
                hosts.iter().any(|pattern| pattern.fits(&host))
            }
            Self::Path(paths) => {
                let fits = |path: &str| paths.iter().any(|wanted| wanted.fits(path));
                lean.of_readings(subject.paths().map(fits))
            }
            Self::Method(methods) => methods.iter().any(|one| one == subject.head.method_text()),
            Self::Header(name, wanted) => {
                let mut values = subject.head.values(name.as_bytes()).peekable();
                match values.peek() {
                    None => wanted.fits(None),
                    Some(_) => lean.of_readings(values.map(|value| wanted.fits(Some(value)))),
                }
            }
            Self::Value(name, wanted) => wanted.fits_shared(subject.shared(name)),
            Self::When(expression) => subject.fulfils(expression, lean),
        }
    }

    fn keys(&self) -> Option<Vec<(RequestDimension, PolicyKey)>> {
        let text = |text: &str| PolicyKey::Text(text.as_bytes().into());
        let exact = |dimension: RequestDimension, wanted: &ValueMatch| match wanted {
            ValueMatch::Exact(value) => Some(vec![(dimension, text(value))]),
            _ => None,
        };
        match self {
            Self::Conn(condition) => {
                let of_conn = |(dimension, key)| (RequestDimension::Conn(dimension), key);
                Some(condition.keys()?.into_iter().map(of_conn).collect())
            }
            Self::Identity(wanted) => {
                let keys = wanted.iter().map(|wanted| exact(RequestDimension::Identity, wanted));
                Some(keys.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
            }
            Self::Host(hosts) => {
                let keys = hosts.iter().map(|host| match host {
                    HostPattern::Exact(host) => Some((RequestDimension::Host, text(host))),
                    HostPattern::Suffix(domain) => {
                        Some((RequestDimension::Host, text(&format!(".{domain}"))))
                    }
                    HostPattern::Any | HostPattern::Prefix(_) => None,
                });
                keys.collect()
            }
            Self::Path(paths) => paths.iter().map(path_key).collect(),
            Self::Method(methods) => {
                Some(methods.iter().map(|one| (RequestDimension::Method, text(one))).collect())
            }
            Self::Header(name, wanted) => exact(RequestDimension::Header(name.clone()), wanted),
            Self::Value(name, wanted) => exact(RequestDimension::Value(name.clone()), wanted),
            Self::When(_) => None,
        }
    }

    fn look_up(
        dimension: &RequestDimension,
        subject: &RequestSubject<'_>,
        found: &mut dyn FnMut(SubjectKey<'_>),
    ) {
        match dimension {
            RequestDimension::Conn(dimension) => {
                ConnCondition::look_up(dimension, &subject.conn, found);
            }
            RequestDimension::Identity => {
                if let Some(who) = subject.identity() {
                    found(SubjectKey::Text(who.as_bytes()));
                }
            }
            RequestDimension::Host => {
                let host = bare_host(subject.head.authority());
                found(SubjectKey::Text(host.as_bytes()));
                let dots = host.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
                dots.for_each(|(at, _)| found(SubjectKey::Text(&host.as_bytes()[at..])));
            }
            RequestDimension::Path { folders: of_folders, any_case } => {
                for path in subject.paths() {
                    let lower = any_case.then(|| path.to_ascii_lowercase());
                    let path = lower.as_deref().unwrap_or(path);
                    if *of_folders {
                        folders(path).for_each(|folder| found(SubjectKey::Text(folder.as_bytes())));
                    } else {
                        found(SubjectKey::Text(path.as_bytes()));
                    }
                }
            }
            RequestDimension::Method => {
                found(SubjectKey::Text(subject.head.method_text().as_bytes()));
            }
            RequestDimension::Header(name) => {
                let values = subject.head.values(name.as_bytes());
                values.for_each(|value| found(SubjectKey::Text(value)));
            }
            RequestDimension::Value(name) => {
                let texts = subject.shared(name).map(texts_of).unwrap_or_default();
                texts.iter().for_each(|text| found(SubjectKey::Text(text.as_bytes())));
            }
        }
    }
}

/// The key that finds a path; `None` if no look-up does.
fn path_key(path: &PathMatch) -> Option<(RequestDimension, PolicyKey)> {
    let key = |folders, text: &str| {
        let dimension = RequestDimension::Path { folders, any_case: false };
        Some((dimension, PolicyKey::Text(text.as_bytes().into())))
    };
    match path {
        PathMatch::Exact(path) => key(false, path),
        PathMatch::Prefix(path) if path.matches('/').count() <= DEPTH_MAX => key(true, path),
        // What starts like this is in the last folder that is written out.
        PathMatch::StartsWith(start) => {
            key(true, folders(start).take_while(|folder| folder.len() < start.len()).last()?)
        }
        PathMatch::AnyCase(inner) => {
            let (RequestDimension::Path { folders, .. }, PolicyKey::Text(text)) = path_key(inner)?
            else {
                return None;
            };
            let dimension = RequestDimension::Path { folders, any_case: true };
            Some((dimension, PolicyKey::Text(text.to_ascii_lowercase().into())))
        }
        _ => None,
    }
}
