//! The types of resources.
//!
//! Owns: their URLs and words, and the order in which they are asked for. Refuses to know: their content. Keeps: what
//! others refer to comes first, so that nothing is used before what it needs (make before break).

use std::fmt;

/// A type of resource that a plane is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XdsType {
    /// Clusters (CDS).
    Cluster,
    /// The endpoints of clusters (EDS).
    Assignment,
    /// Listeners (LDS).
    Listener,
    /// Scopes of route tables (SRDS).
    Scope,
    /// Route tables (RDS).
    Routes,
    /// Virtual hosts of route tables (VHDS).
    VirtualHost,
    /// Certificates, authorities and other secrets (SDS).
    Secret,
    /// Settings of filters (ECDS).
    Extension,
    /// Runtime values (RTDS).
    Runtime,
}

impl XdsType {
    /// Every type, in order.
    pub const ALL: [Self; 9] = [
        Self::Cluster,
        Self::Assignment,
        Self::Listener,
        Self::Scope,
        Self::Routes,
        Self::VirtualHost,
        Self::Secret,
        Self::Extension,
        Self::Runtime,
    ];

    /// Those that others need, in order.
    pub const PARTS: [Self; 6] = [
        Self::Assignment,
        Self::Scope,
        Self::Routes,
        Self::VirtualHost,
        Self::Secret,
        Self::Extension,
    ];

    /// The URL that names it on the wire.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Assignment => {
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            }
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Scope => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        }
    }

    /// The type with this URL.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// The word for one of them.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Assignment => "endpoints",
            Self::Listener => "listener",
            Self::Scope => "scope",
            Self::Routes => "routes",
            Self::VirtualHost => "virtual host",
            Self::Secret => "secret",
            Self::Extension => "extension",
            Self::Runtime => "runtime",
        }
    }

    /// The word for the discovery of them, as in Envoy's documentation.
    pub const fn discovery(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Assignment => "eds",
            Self::Listener => "lds",
            Self::Scope => "srds",
            Self::Routes => "rds",
            Self::VirtualHost => "vhds",
            Self::Secret => "sds",
            Self::Extension => "ecds",
            Self::Runtime => "rtds",
        }
    }

    /// Whether a response in the state-of-the-world form has all there are, so that what is missing is gone.
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::Scope)
    }
}

impl fmt::Display for XdsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
