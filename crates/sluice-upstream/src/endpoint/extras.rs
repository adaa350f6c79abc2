//! What most endpoints never have.
//!
//! Owns: the box for it. Refuses to know: what it means. Keeps: an endpoint gets the box when something in it is first
//! set, and keeps it; to ask what is in it, or to set that there is nothing, makes none. So an endpoint that is only
//! balanced stays small: a control plane may name hundreds of thousands.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use once_cell::race::OnceBox;
use sluice_core::connection::EndpointPlace;
use tokio::time::Instant;

use super::load::EndpointQueueing;
use super::{EjectionKind, EndpointCheck, ReportedWeight, RequestCounts, Trouble};

/// The box, if there is one.
#[derive(Debug, Default)]
pub(super) struct EndpointExtras(OnceBox<Extras>);

/// What is in it.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// Its own limits, and what waits for it.
    pub queueing: EndpointQueueing,
    /// Why it takes no traffic, for people; written only by the thread that changes the state.
    pub why_unhealthy: ArcSwapOption<Trouble>,
    pub why_ejected: ArcSwapOption<Trouble>,
    pub ejected_for: ArcSwapOption<EjectionKind>,
    /// Set by the control thread, soon after the ejection.
    pub ejected_until: ArcSwapOption<Instant>,
    /// Other addresses, in order of preference.
    pub alternates: ArcSwapOption<Vec<SocketAddr>>,
    /// See [`super::EndpointTraits::check`].
    pub check: ArcSwapOption<EndpointCheck>,
    /// Where it is in its cluster; `None` if it has the highest priority and no locality.
    pub place: ArcSwapOption<EndpointPlace>,
    /// What it reports of its load.
    pub reported: ReportedWeight,
    /// What became of its requests.
    pub requests: RequestCounts,
}

impl EndpointExtras {
    /// What is in the box.
    pub(super) fn get(&self) -> Option<&Extras> {
        self.0.get()
    }

    /// The same; the box is made if there is none.
    pub(super) fn made(&self) -> &Extras {
        self.0.get_or_init(Box::default)
    }

    /// One thing in the box.
    pub(super) fn load<T>(&self, of: impl Fn(&Extras) -> &ArcSwapOption<T>) -> Option<Arc<T>> {
        self.get().and_then(|extras| of(extras).load_full())
    }

    /// Sets one thing in the box.
    pub(super) fn store<T>(
        &self,
        of: impl Fn(&Extras) -> &ArcSwapOption<T>,
        value: Option<Arc<T>>,
    ) {
        match (value, self.get()) {
            (None, None) => {}
            (None, Some(extras)) => of(extras).store(None),
            (some, _) => of(self.made()).store(some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EndpointLimits, EndpointState, EndpointTraits, Target};

    #[test]
    fn an_endpoint_that_is_only_balanced_has_no_box() {
        let endpoint = EndpointState::new(Target::Ip(([10, 0, 0, 1], 80).into()), None);
        endpoint.set_traits(&EndpointTraits::default());
        endpoint.set_limits(EndpointLimits::default());
        endpoint.set_alternates(&[]);
        endpoint.track_reports(false);
        endpoint.readmit();
        endpoint.set_health(Ok(()));
        let _ = (endpoint.place(), endpoint.why_unhealthy(), endpoint.request_totals());
        assert!(endpoint.extras.get().is_none());
        endpoint.set_traits(&EndpointTraits { priority: 1, ..EndpointTraits::default() });
        assert_eq!(endpoint.place().unwrap().priority, 1);
        endpoint.set_traits(&EndpointTraits::default());
        assert_eq!(endpoint.place(), None);
    }

    /// With the two counters of its `Arc`, what the allocator has a size for.
    #[test]
    fn an_endpoint_is_small() {
        assert!(size_of::<EndpointState>() + 16 <= 192, "{}", size_of::<EndpointState>());
    }
}
