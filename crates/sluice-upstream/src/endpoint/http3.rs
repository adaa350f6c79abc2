//! What is known of HTTP/3 at an endpoint whose requests may also go over TCP.
//!
//! Owns: where the endpoint says that it speaks HTTP/3, and how often it did not. Refuses to know: how it said so, and
//! what is attempted. Keeps: one entry per endpoint, shared by all workers, so that nothing grows with what endpoints
//! say; a failure is remembered for twice as long as the one before, up to a maximum.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sluice_core::Moment;

/// What is known of HTTP/3 at an endpoint.
#[derive(Debug, Default)]
pub struct Http3Memory(ArcSwapOption<Http3Facts>);

/// The same at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http3Facts {
    /// Where the endpoint says that it speaks HTTP/3.
    pub advertised: Option<Http3Advert>,
    /// The port on which its DNS name says so, for as long as that says it.
    pub named: Option<u16>,
    /// Set if the last attempt failed.
    pub broken: Option<Http3Failure>,
}

/// An advertisement of HTTP/3 (`alt-svc`, RFC 7838).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http3Advert {
    /// The UDP port, at the address of the endpoint.
    pub port: u16,
    /// When it expires.
    pub until: Moment,
}

/// Attempts in a row that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http3Failure {
    /// How many.
    pub count: u32,
    /// Before this, none is made.
    pub until: Moment,
    /// Why the last failed.
    pub cause: Arc<str>,
}

/// What an advertisement changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdvertChange {
    /// HTTP/3 was not known there.
    Learned,
    /// It was known there, and still is.
    Renewed,
    /// It is known no longer.
    Cleared,
}

/// HTTP/3 beside TCP: when it is attempted, and what follows if that fails. Only clusters whose TLS negotiates the version have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RacePlan {
    /// When it is attempted.
    pub when: Http3When,
    /// Whether endpoints are believed where they say that they speak HTTP/3: only if they are verified.
    pub heeds_adverts: bool,
    /// The head start of HTTP/3 before a connection over TCP is made too.
    pub tcp_delay: Duration,
    /// The pause after a failure; it doubles with each further one.
    pub retry: Duration,
    /// The longest pause.
    pub retry_max: Duration,
}

impl RacePlan {
    /// The pause after a failure that followed on `failed` others.
    pub fn pause(&self, failed: u32) -> Duration {
        self.retry.saturating_mul(1 << failed.min(30)).min(self.retry_max)
    }
}

impl Default for RacePlan {
    fn default() -> Self {
        Self {
            when: Http3When::Advertised,
            heeds_adverts: true,
            tcp_delay: Duration::from_millis(300),
            retry: Duration::from_secs(300),
            retry_max: Duration::from_secs(86_400),
        }
    }
}

/// When HTTP/3 is attempted at an endpoint that may also be reached over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Http3When {
    /// Once the endpoint has advertised it.
    Advertised,
    /// From the beginning.
    Always,
}

impl Http3Memory {
    /// What is known.
    pub fn facts(&self) -> Option<Arc<Http3Facts>> {
        self.0.load_full()
    }

    /// The port to attempt HTTP/3 on; `own` is that of the endpoint. `None` if there is no reason to, or the last attempt
    /// failed too recently.
    pub fn port(&self, plan: &RacePlan, own: u16, now: Moment) -> Option<u16> {
        let known = self.0.load();
        let Some(facts) = &*known else { return (plan.when == Http3When::Always).then_some(own) };
        if facts.broken.as_ref().is_some_and(|broken| now < broken.until) {
            return None;
        }
        let advert = facts.advertised.filter(|advert| now < advert.until);
        let port = advert.map(|advert| advert.port).or(facts.named);
        port.or_else(|| (plan.when == Http3When::Always).then_some(own))
    }

    /// Notes that the endpoint speaks HTTP/3 on `port`, for `lifetime` from `now`. A renewal is noted only if it counts,
    /// since every response may bring one.
    pub fn advertise(&self, port: u16, lifetime: Duration, now: Moment) -> AdvertChange {
        let until = now.after(lifetime);
        let known = self.0.load().as_ref().and_then(|facts| facts.advertised);
        let same = known.filter(|known| known.port == port && now < known.until);
        if let Some(same) = same
            && until.since(same.until) <= lifetime / 16
            && same.until.since(until) <= lifetime / 16
        {
            return AdvertChange::Renewed;
        }
        self.change(|facts| facts.advertised = Some(Http3Advert { port, until }));
        if same.is_some() { AdvertChange::Renewed } else { AdvertChange::Learned }
    }

    /// Notes what the DNS name of the endpoint says.
    pub fn set_named(&self, port: Option<u16>) {
        if self.0.load().as_ref().and_then(|facts| facts.named) != port {
            self.change(|facts| facts.named = port);
        }
    }

    /// Notes that the endpoint takes back what it said; `None` if it had said nothing.
    pub fn clear(&self) -> Option<AdvertChange> {
        let known = self.0.load().as_ref().is_some_and(|facts| facts.advertised.is_some());
        known.then(|| {
            self.change(|facts| facts.advertised = None);
            AdvertChange::Cleared
        })
    }

    /// Notes an attempt that failed.
    pub fn note_failed(&self, plan: &RacePlan, now: Moment, cause: &str) {
        let cause: Arc<str> = cause.into();
        self.change(|facts| {
            let before = facts.broken.as_ref().map_or(0, |broken| broken.count);
            let until = now.after(plan.pause(before));
            let count = before.saturating_add(1);
            facts.broken = Some(Http3Failure { count, until, cause: Arc::clone(&cause) });
        });
    }

    /// Notes an attempt that succeeded.
    pub fn note_worked(&self) {
        if self.0.load().as_ref().is_some_and(|facts| facts.broken.is_some()) {
            self.change(|facts| facts.broken = None);
        }
    }

    fn change(&self, change: impl Fn(&mut Http3Facts)) {
        self.0.rcu(|known| {
            let mut facts =
                known.as_ref().map_or_else(Http3Facts::default, |known| (**known).clone());
            change(&mut facts);
            (facts != Http3Facts::default()).then(|| Arc::new(facts))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn plan(when: Http3When) -> RacePlan {
        RacePlan { when, retry: 5 * MINUTE, retry_max: 30 * MINUTE, ..RacePlan::default() }
    }

    fn at(minutes: u32) -> Moment {
        Moment::default().after(minutes * MINUTE)
    }

    #[test]
    fn an_advertisement_counts_until_it_expires_or_is_taken_back() {
        let (memory, plan) = (Http3Memory::default(), plan(Http3When::Advertised));
        assert_eq!(memory.port(&plan, 443, at(0)), None);
        assert_eq!(memory.clear(), None);
        assert_eq!(memory.advertise(8443, 60 * MINUTE, at(0)), AdvertChange::Learned);
        assert_eq!(memory.port(&plan, 443, at(59)), Some(8443));
        assert_eq!(memory.port(&plan, 443, at(60)), None);
        // One that says little new is not noted; a shorter one is.
        assert_eq!(memory.advertise(8443, 60 * MINUTE, at(3)), AdvertChange::Renewed);
        assert_eq!(memory.port(&plan, 443, at(61)), None);
        assert_eq!(memory.advertise(8443, 60 * MINUTE, at(30)), AdvertChange::Renewed);
        assert_eq!(memory.port(&plan, 443, at(89)), Some(8443));
        assert_eq!(memory.advertise(8443, MINUTE, at(31)), AdvertChange::Renewed);
        assert_eq!(memory.port(&plan, 443, at(32)), None);
        assert_eq!(memory.advertise(443, MINUTE, at(32)), AdvertChange::Learned);
        assert_eq!(memory.clear(), Some(AdvertChange::Cleared));
        assert_eq!(memory.port(&plan, 443, at(32)), None);
        assert_eq!(memory.facts(), None);
    }

    #[test]
    fn without_waiting_for_one_the_port_is_the_endpoints_own() {
        let (memory, plan) = (Http3Memory::default(), plan(Http3When::Always));
        assert_eq!(memory.port(&plan, 443, at(0)), Some(443));
        memory.advertise(8443, MINUTE, at(0));
        assert_eq!(memory.port(&plan, 443, at(0)), Some(8443));
        assert_eq!(memory.port(&plan, 443, at(1)), Some(443));
    }

    #[test]
    fn what_a_dns_name_says_counts_until_it_says_so_no_longer() {
        let (memory, plan) = (Http3Memory::default(), plan(Http3When::Advertised));
        memory.set_named(Some(8443));
        assert_eq!(memory.port(&plan, 443, at(60)), Some(8443));
        // The endpoint itself knows better.
        memory.advertise(444, MINUTE, at(60));
        assert_eq!(memory.port(&plan, 443, at(60)), Some(444));
        assert_eq!(memory.port(&plan, 443, at(61)), Some(8443));
        memory.note_failed(&plan, at(61), "refused");
        assert_eq!(memory.port(&plan, 443, at(62)), None);
        memory.note_worked();
        memory.clear();
        memory.set_named(None);
        assert_eq!(memory.facts(), None);
    }

    #[test]
    fn after_each_failure_the_pause_is_twice_as_long_until_an_attempt_succeeds() {
        let (memory, plan) = (Http3Memory::default(), plan(Http3When::Always));
        let mut now = 0;
        for pause in [5, 10, 20, 30, 30] {
            memory.note_failed(&plan, at(now), "refused");
            assert_eq!(memory.port(&plan, 443, at(now + pause - 1)), None);
            now += pause;
            assert_eq!(memory.port(&plan, 443, at(now)), Some(443));
        }
        let broken = memory.facts().unwrap().broken.clone().unwrap();
        assert_eq!((broken.count, &*broken.cause), (5, "refused"));
        memory.note_worked();
        assert_eq!(memory.facts(), None);
        memory.note_failed(&plan, at(now), "refused");
        assert_eq!(memory.port(&plan, 443, at(now + 5)), Some(443));
    }
}
