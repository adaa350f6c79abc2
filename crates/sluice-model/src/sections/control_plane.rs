//! A control plane that sends resources beside those of the files.
//!
//! Owns: the fields. Refuses to know: the protocol, and what is sent.

use sluice_core::settings::OrZero;
use sluice_core::{Name, Spanned, choice, section};

choice! {
    /// What a control plane sends on its own.
    pub enum PlaneResource {
        /// Listeners, with their routes, secrets and settings of filters (LDS, RDS, SDS, ECDS).
        Listeners = "listeners",
        /// Clusters, with their endpoints and secrets (CDS, EDS, SDS).
        Clusters = "clusters",
    }
}

section! {
    /// A control plane, which sends resources in Envoy's form (xDS) over one stream (ADS). They are in force beside those of
    /// the files; a name that both have is refused where it comes second.
    pub struct ControlPlane {
        /// Its cluster, one of the files, with `protocol: http2`.
        pub cluster: Spanned<Name>,
        /// What it is asked for; if omitted, both.
        pub resources: Vec<PlaneResource>,
        /// Whether its responses say only what has changed (delta), or everything there is each time.
        pub incremental: bool = "true",
        /// The name by which it knows this process; if omitted, `id` of `node`, or the host name of the machine.
        pub id: Option<Spanned<String>>,
        /// The group of processes that this one belongs to: `cluster` of the node, in the words of the protocol.
        pub group: Spanned<String> = "sluice",
        /// How long the start waits for the first clusters, and then for the first listeners; `0s` for ever.
        pub timeout: OrZero = "15s",
    }
}

impl ControlPlane {
    /// Whether it is asked for this.
    pub fn sends(&self, resource: PlaneResource) -> bool {
        self.resources.is_empty() || self.resources.contains(&resource)
    }
}
