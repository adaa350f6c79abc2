//! The sections of forwarded requests: copies of them, redirects, attempt counts.
//!
//! Owns: what a rule says of them. Keeps: each short form is equivalent to one long form.

use std::num::NonZeroU32;

use sluice_core::fine_percent::FinePercent;
use sluice_core::settings::{Plain, ShortForm, Status};
use sluice_core::{Diags, Name, Node, Path, Setting, Shape, Spanned, choice, section};
use sluice_l7::expression::RequestExpression;

use super::HeaderName;

choice! {
    /// The schemes that a redirect may lead to.
    pub enum RedirectScheme {
        /// That of the request.
        Same = "same",
        /// That of the request, or https.
        Safer = "safer",
        /// Any.
        Any = "any",
    }
}

section! {
    /// Redirects of endpoints that Sluice follows itself: by its own routes, through the guards of the new rule. One that
    /// cannot be followed goes to the client.
    pub struct FollowRedirects {
        /// Their statuses: of 301, 302, 303, 307 and 308; 302 if omitted.
        pub statuses: Vec<Status>,
        /// Maximum number of redirects of a request.
        pub max: NonZeroU32 = "1",
        /// The schemes that they may lead to.
        pub scheme: RedirectScheme = "same",
        /// The names of the rules that they may lead to; if omitted, any.
        pub routes: Vec<Spanned<Name>>,
        /// Whether they may only lead to rules that the request has not matched yet.
        pub new_routes_only: bool = "false",
        /// Response headers that are copied to the next request.
        pub copy_headers: Vec<HeaderName>,
    }
}

choice! {
    /// Where `x-envoy-attempt-count` is added.
    pub enum AttemptCount {
        /// To the request: the number of the attempt.
        Request = "request",
        /// To the response of the endpoint: how many attempts there were.
        Response = "response",
    }
}

choice! {
    /// Which limits of a cluster apply to the requests of a rule.
    pub enum RulePriority {
        /// `limits`.
        Default = "default",
        /// `limits.high`.
        High = "high",
    }
}

/// What becomes of CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectMode {
    /// It is refused.
    Refuse,
    /// It is passed on to an endpoint of the cluster, which must be a proxy.
    Pass,
    /// The tunnel ends here.
    Terminate,
    /// The same, and POST is a tunnel, too.
    TerminatePost,
}

/// The word for a tunnel that ends here.
const TERMINATE: &str = "terminate";

/// The word for tunnels that end here, of which some begin with POST.
const TERMINATE_POST: &str = "terminate_post";

impl ConnectMode {
    /// Whether tunnels end here.
    pub fn terminates(self) -> bool {
        matches!(self, Self::Terminate | Self::TerminatePost)
    }
}

impl Setting for ConnectMode {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        match node.text() {
            Some(TERMINATE) => return Some(Self::Terminate),
            Some(TERMINATE_POST) => return Some(Self::TerminatePost),
            _ => {}
        }
        bool::bind(node, at, diags).map(|passes| if passes { Self::Pass } else { Self::Refuse })
    }

    fn shape() -> Shape {
        let doc = "The tunnel ends here: its bytes go to an endpoint of the cluster, as those of a connection.";
        let of_post =
            "The same, also for POST: the bodies of the request and of its response are the bytes.";
        let words = vec![(TERMINATE, doc), (TERMINATE_POST, of_post)];
        Shape::Either(vec![bool::shape(), Shape::Choice(words)])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Terminate => Plain::Text(TERMINATE.to_owned()),
            Self::TerminatePost => Plain::Text(TERMINATE_POST.to_owned()),
            Self::Pass | Self::Refuse => (*self == Self::Pass).show(),
        }
    }
}

section! {
    /// A cluster that gets copies of requests. The short form is its name. Exactly one of cluster, cluster_header
    /// and cluster_from is set.
    pub struct Mirror {
        /// The cluster.
        pub cluster: Option<Spanned<Name>>,
        /// The request header that names the cluster. A request without it, or with an unknown name, is not copied.
        pub cluster_header: Option<HeaderName>,
        /// An expression that makes the name of the cluster. Where it makes none, or an unknown one, the request is not
        /// copied.
        pub cluster_from: Option<RequestExpression>,
        /// The share of requests that are copied.
        pub share: FinePercent = "100%",
        /// The runtime value that sets the share in percent.
        pub runtime: Option<String>,
        /// What is added to the host name of the copy, such as `-shadow`.
        pub host_suffix: Option<Spanned<String>>,
    }
}

impl ShortForm for Mirror {
    const KEY: &'static str = "cluster";
}
