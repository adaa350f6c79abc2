//! The sections about load balancing: the balancer, failover between priorities, localities, slow start.
//!
//! Owns: their fields, defaults and documentation. Refuses to know: what a balancer does with them. Keeps: a balancer
//! written as a word and one written with its settings are the same type.

use std::num::NonZeroU32;
use std::time::Duration;

use sluice_core::settings::{
    Empty, OrNone, OrZero, Plain, ShortForm, bind_entries, bind_scalar, entries_of,
};
use sluice_core::value::{Decimal, FactorPercent, Percent};
use sluice_core::{Diags, Name, Node, Path, Setting, Shape, Span, Spanned, Value, section};
use sluice_module::BalancerLibrary;
use sluice_upstream::balance::{
    BalancePlan, LeastRequestPlan, LoadReportsPlan, MaglevPlan, PeakEwmaPlan, RingPlan,
};
use sluice_upstream::cluster::SESSION_MAX;
use sluice_upstream::endpoint::PRIORITY_MAX;
use sluice_upstream::{Balance, Locality};

section! {
    /// A balancer with its settings: exactly one of the fields.
    pub struct BalancerSettings {
        /// In turn, by weight.
        pub round_robin: Option<Empty>,
        /// The least loaded of some random endpoints.
        pub least_request: Option<LeastRequest>,
        /// The fastest of two random endpoints, by latency and load.
        pub peak_ewma: Option<PeakEwma>,
        /// In turn, by weight, which follows from the load that endpoints report with their responses (ORCA).
        pub load_reports: Option<LoadReports>,
        /// At random, by weight.
        pub random: Option<Empty>,
        /// By hash on a ring.
        pub ring_hash: Option<RingHash>,
        /// By hash in a table.
        pub maglev: Option<Maglev>,
        /// As a balancer of a loaded library says.
        pub module: Option<BalancerLibrary>,
    }
}

section! {
    /// The settings of `least_request`.
    pub struct LeastRequest {
        /// Number of random endpoints compared; `none` compares all.
        pub choices: OrNone<Choices> = "2",
        /// How strongly load counts against weight: 1 is proportional, 0 ignores load.
        pub bias: Decimal = "1",
    }
}

section! {
    /// The settings of `peak_ewma`.
    pub struct PeakEwma {
        /// How fast the average latency of an endpoint forgets: after this time, a measurement counts for about a third.
        pub decay: Duration = "10s",
    }
}

section! {
    /// The settings of `load_reports`.
    pub struct LoadReports {
        /// How long an endpoint must have reported before its weight counts.
        pub blackout: OrZero = "10s",
        /// How long after its last report the weight of an endpoint counts.
        pub expiry: Duration = "3m",
        /// The time between updates of the weights; at least 100ms.
        pub update: Duration = "1s",
        /// How much errors count against an endpoint: the utilization grows by this part of the share of errors.
        pub error_penalty: Decimal = "1",
        /// The metrics that tell the utilization where the application does not, such as `named_metrics.queue`; the highest
        /// counts. If omitted, that of the CPU.
        pub metrics: Vec<String>,
    }
}

section! {
    /// The settings of `ring_hash`.
    pub struct RingHash {
        /// Fewest points on the ring.
        pub min_size: RingSize = "1024",
        /// Most points on the ring.
        pub max_size: RingSize = "1048576",
        /// Bounded load: the most load of an endpoint, as a percentage of its fair share; what exceeds it goes to other
        /// endpoints.
        pub max_load: OrNone<FactorPercent> = "none",
        /// Whether endpoints have their places by the host names that they were resolved from, instead of their addresses:
        /// a host keeps its hashes when its address changes. Of several addresses of a host, one does.
        pub by_host: bool = "false",
    }
}

section! {
    /// The settings of `maglev`.
    pub struct Maglev {
        /// Slots of the table: a prime.
        pub table_size: TableSize = "65537",
        /// Bounded load: the most load of an endpoint, as a percentage of its fair share; what exceeds it goes to other
        /// endpoints.
        pub max_load: OrNone<FactorPercent> = "none",
        /// Whether endpoints have their places by the host names that they were resolved from, instead of their addresses:
        /// a host keeps its hashes when its address changes. Of several addresses of a host, one does.
        pub by_host: bool = "false",
    }
}

section! {
    /// How traffic moves between the priorities of a cluster (failover) and back.
    pub struct Failover {
        /// When traffic spills over to the next priority: a priority keeps all its traffic as long as its share of usable
        /// endpoints, times this, is at least 100%. With 140%, as in Envoy, it starts to spill when more than 28% are
        /// unusable; with `none`, when no endpoint is left.
        pub overprovisioning: OrNone<FactorPercent> = "none",
        /// Panic threshold: if the share of usable endpoints is below this, all endpoints are used, whatever their state.
        pub panic: OrNone<Percent> = "none",
        /// How long a priority must have a usable endpoint again before its traffic returns (failback).
        pub failback_delay: OrZero = "0s",
    }
}

section! {
    /// Slow start: an endpoint that joins the cluster or recovers gets less traffic at first. The short form is the
    /// window.
    pub struct SlowStart {
        /// How long it takes until the endpoint has its full weight.
        pub window: Duration,
        /// How fast the weight grows: 1 is linear, more is faster at first.
        pub aggression: Decimal = "1",
        /// The part of its weight that an endpoint has at least.
        pub min_weight: Percent = "10%",
    }
}

impl ShortForm for SlowStart {
    const KEY: &'static str = "window";
}

section! {
    /// Zone-aware routing: endpoints in the zone of this process (`node`) are preferred, as far as every endpoint still gets
    /// its share. The short form is whether it is used.
    pub struct ZoneAware {
        /// Whether it is used.
        pub enabled: bool = "true",
        /// Number of healthy endpoints below which zones are ignored.
        pub min_endpoints: NonZeroU32 = "6",
        /// The share of traffic that is routed by zones.
        pub routing: Percent = "100%",
    }
}

impl ShortForm for ZoneAware {
    const KEY: &'static str = "enabled";
}

section! {
    /// This process among others of its kind, for `zone_aware` and `aperture` of clusters.
    pub struct OwnNode {
        /// Its name among them, for `aperture`; if omitted, the host name of the machine.
        pub id: Option<Spanned<String>>,
        /// Where it is: a zone, region/zone or region/zone/sub-zone.
        pub locality: Option<Spanned<LocalityName>>,
        /// The cluster whose endpoints are all processes of its kind, this one included, with their localities.
        pub cluster: Option<Spanned<Name>>,
    }
}

/// A balancer: a word, or a map with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Balancer {
    /// One of Sluice.
    Own(BalancePlan),
    /// One of a library, which is loaded when the cluster is.
    Library(BalancerLibrary),
}

impl Balancer {
    /// The balancer without its settings; `None` for one of a library.
    pub const fn kind(&self) -> Option<Balance> {
        match self {
            Self::Own(plan) => plan.kind(),
            Self::Library(_) => None,
        }
    }

    /// The balancer as it is written.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Own(plan) => plan.word(),
            Self::Library(_) => BalancerLibrary::WORD,
        }
    }

    /// Whether the balancer chooses by hash alone.
    pub const fn hashes(&self) -> bool {
        matches!(self, Self::Own(plan) if plan.hashes())
    }

    /// Whether the balancer may make use of a hash.
    pub const fn uses_hash(&self) -> bool {
        self.hashes() || self.is_of_library()
    }

    /// Whether a library has it.
    pub const fn is_of_library(&self) -> bool {
        matches!(self, Self::Library(_))
    }

    /// The most load of an endpoint, in percent of its fair share, if it is bounded.
    pub const fn load_max(&self) -> Option<u32> {
        match self {
            Self::Own(plan) => plan.load_max(),
            Self::Library(_) => None,
        }
    }
}

impl Setting for Balancer {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if !matches!(node.value, Value::Map(_)) {
            return Balance::bind(node, at, diags).map(|kind| Self::Own(kind.into()));
        }
        let settings = BalancerSettings::bind(node, at, diags)?;
        let chosen = settings.chosen();
        if let ([], Some(library)) = (&*chosen, &settings.module) {
            return Some(Self::Library(library.clone()));
        }
        if let ([plan], None) = (&*chosen, &settings.module) {
            return plan.clone().map(Self::Own).or_else(|| {
                let (key, message) = match settings.load_reports {
                    Some(_) => {
                        ("load_reports", "`update` must be at least 100ms, and less than `expiry`")
                    }
                    None => ("ring_hash", "`max_size` must not be less than `min_size`"),
                };
                diags.error("bad-value", node.span, at.key(key), message);
                None
            });
        }
        diags
            .error("short-and-long", node.span, at, "`balance` must name one balancer")
            .help(
                "write one of round_robin, least_request, peak_ewma, load_reports, random, ring_hash, maglev, module",
            );
        None
    }

    fn shape() -> Shape {
        Shape::Either(vec![Balance::shape(), BalancerSettings::shape()])
    }

    fn show(&self) -> Plain {
        let word = self.word();
        let plan = match self {
            Self::Own(plan) => plan,
            Self::Library(library) => return Plain::Map(vec![(word.into(), library.show())]),
        };
        if plan.kind().is_some_and(|kind| *plan == BalancePlan::from(kind)) {
            return Plain::Text(word.into());
        }
        let settings = match plan {
            BalancePlan::LoadReports(plan) => LoadReports {
                blackout: OrZero(plan.blackout),
                expiry: plan.expiry,
                update: plan.update,
                error_penalty: Decimal(plan.error_penalty),
                metrics: plan.metrics.iter().map(ToString::to_string).collect(),
            }
            .show(),
            &BalancePlan::LeastRequest(LeastRequestPlan { choices, bias }) => {
                LeastRequest { choices: OrNone(choices.map(Choices)), bias: Decimal(bias) }.show()
            }
            &BalancePlan::PeakEwma(PeakEwmaPlan { decay }) => PeakEwma { decay }.show(),
            &BalancePlan::RingHash(RingPlan { size_min, size_max, load_max, by_host }) => {
                RingHash {
                    min_size: RingSize(size_min),
                    max_size: RingSize(size_max),
                    max_load: OrNone(load_max.map(FactorPercent)),
                    by_host,
                }
                .show()
            }
            &BalancePlan::Maglev(MaglevPlan { slots, load_max, by_host }) => Maglev {
                table_size: TableSize(slots),
                max_load: OrNone(load_max.map(FactorPercent)),
                by_host,
            }
            .show(),
            BalancePlan::RoundRobin | BalancePlan::Random | BalancePlan::Extension(_) => {
                Plain::Map(Vec::new())
            }
        };
        Plain::Map(vec![(word.into(), settings)])
    }
}

impl LoadReports {
    /// The plan, unless the settings contradict each other.
    fn plan(&self) -> Option<BalancePlan> {
        let Self { blackout, expiry, update, error_penalty, metrics } = self;
        let plan = LoadReportsPlan {
            blackout: blackout.0,
            expiry: *expiry,
            update: *update,
            error_penalty: error_penalty.0,
            metrics: metrics.iter().map(|name| name.as_str().into()).collect(),
        };
        let fits = plan.update >= UPDATE_MIN && plan.update < plan.expiry;
        fits.then(|| BalancePlan::LoadReports(plan.into()))
    }
}

/// The shortest time between updates of weights, as in Envoy.
const UPDATE_MIN: Duration = Duration::from_millis(100);

impl BalancerSettings {
    /// The balancers of Sluice that are given; `None` for one whose settings contradict each other.
    fn chosen(&self) -> Vec<Option<BalancePlan>> {
        let Self {
            round_robin,
            least_request,
            peak_ewma,
            load_reports,
            random,
            ring_hash,
            maglev,
            module: _,
        } = self;
        let load_reports = load_reports.as_ref().map(LoadReports::plan);
        let round_robin = round_robin.map(|Empty| Some(BalancePlan::RoundRobin));
        let random = random.map(|Empty| Some(BalancePlan::Random));
        let least_request = least_request.as_ref().map(|LeastRequest { choices, bias }| {
            let choices = choices.0.map(|choices| choices.0);
            Some(BalancePlan::LeastRequest(LeastRequestPlan { choices, bias: bias.0 }))
        });
        let peak_ewma = peak_ewma.as_ref();
        let peak_ewma = peak_ewma
            .map(|PeakEwma { decay }| Some(BalancePlan::PeakEwma(PeakEwmaPlan { decay: *decay })));
        let ring_hash = ring_hash.as_ref().map(|of: &RingHash| {
            let RingHash { min_size, max_size, max_load, by_host } = *of;
            let load_max = max_load.0.map(|percent| percent.0);
            let plan = RingPlan { size_min: min_size.0, size_max: max_size.0, load_max, by_host };
            (plan.size_min <= plan.size_max).then_some(BalancePlan::RingHash(plan))
        });
        let maglev = maglev.as_ref().map(|of: &Maglev| {
            let Maglev { table_size, max_load, by_host } = *of;
            let load_max = max_load.0.map(|percent| percent.0);
            Some(BalancePlan::Maglev(MaglevPlan { slots: table_size.0, load_max, by_host }))
        });
        [round_robin, least_request, peak_ewma, load_reports, random, ring_hash, maglev]
            .into_iter()
            .flatten()
            .collect()
    }
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($ty:ty): $min:literal to $max:expr, $what:literal, $also:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub $ty);

        impl Setting for $name {
            fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
                bind_scalar(node, at, diags, $what, |text| {
                    let fits: fn($ty) -> bool = $also;
                    let number = text.parse::<$ty>().ok();
                    let number = number.filter(|n| ($min..=$max).contains(n) && fits(*n));
                    number.map(Self).ok_or_else(|| {
                        format!("expected {} from {} to {}, not `{text}`", $what, $min, $max)
                    })
                })
            }

            fn shape() -> Shape {
                let max: $ty = $max;
                Shape::Count { min: $min, max: max.into() }
            }

            fn show(&self) -> Plain {
                Plain::Number(self.0.into())
            }
        }
    };
}

bounded! {
    /// A priority; 0 is the highest.
    Priority(u32): 0 to PRIORITY_MAX, "a whole number", |_| true
}

bounded! {
    /// A number of endpoints to compare.
    Choices(u32): 2 to 1024, "a whole number", |_| true
}

bounded! {
    /// A number of endpoints that a process uses.
    ApertureSize(u32): 2 to 65_536, "a whole number", |_| true
}

bounded! {
    /// A number of points on a ring, up to that of Envoy.
    RingSize(u64): 1 to 8_388_608, "a whole number", |_| true
}

bounded! {
    /// The size of a Maglev table, up to that of Envoy.
    TableSize(u32): 2 to 5_000_011, "a prime", is_prime
}

fn is_prime(number: u32) -> bool {
    let divisors = 2..=number.isqrt();
    number > 1 && divisors.into_iter().all(|divisor| !number.is_multiple_of(divisor))
}

/// How long a client may be away and still return to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTtl(pub Duration);

impl Setting for SessionTtl {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let ttl = Duration::bind(node, at, diags)?;
        if ttl > SESSION_MAX {
            diags.error("bad-value", node.span, at, "a source is remembered for at most 1d");
            return None;
        }
        Some(Self(ttl))
    }

    fn shape() -> Shape {
        Duration::shape()
    }

    fn show(&self) -> Plain {
        self.0.show()
    }
}

/// Where an endpoint is: `zone`, `region/zone` or `region/zone/sub-zone`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalityName(pub Locality);

impl LocalityName {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let fits = |part: &&str| {
            (1..=128).contains(&part.len())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let locality = |region: &str, zone: &str, sub_zone: &str| Locality {
            region: region.into(),
            zone: zone.into(),
            sub_zone: sub_zone.into(),
        };
        let known = match parts.as_slice() {
            [zone] => Some(locality("", zone, "")),
            [region, zone] => Some(locality(region, zone, "")),
            [region, zone, sub_zone] => Some(locality(region, zone, sub_zone)),
            _ => None,
        };
        known.filter(|_| parts.iter().all(fits)).map(Self).ok_or_else(|| {
            format!("expected a zone, region/zone or region/zone/sub-zone, not `{text}`")
        })
    }
}

impl Setting for LocalityName {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "a locality", Self::parse)
    }

    fn shape() -> Shape {
        Shape::Text { what: "a zone, region/zone or region/zone/sub-zone", example: "eu/eu-1a" }
    }

    fn show(&self) -> Plain {
        Plain::Text(self.0.to_string())
    }
}

/// The weights of localities, as written: `{ eu-1a: 3, eu-1b: 1 }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityWeights(pub Vec<(Spanned<Locality>, u32)>);

impl LocalityWeights {
    /// The weight of a locality, if it has one.
    pub fn of(&self, locality: &Locality) -> Option<u32> {
        self.0.iter().find(|(known, _)| known.value == *locality).map(|(_, weight)| *weight)
    }
}

impl Setting for LocalityWeights {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = entries_of(node, at, diags, "a map of localities and their weights")?;
        let weights: Vec<_> = bind_entries(entries, at, diags, |entry, here, diags| {
            let locality = bind_key(&entry.key, entry.key_span, here, diags);
            let weight = NonZeroU32::bind(&entry.node, here, diags);
            locality.zip(weight.map(NonZeroU32::get))
        })?;
        Some(Self(weights))
    }

    fn shape() -> Shape {
        Shape::Named(Box::new(NonZeroU32::shape()))
    }

    fn show(&self) -> Plain {
        let entry = |(locality, weight): &(Spanned<Locality>, u32)| {
            (locality.value.to_string(), Plain::Number(u64::from(*weight)))
        };
        Plain::Map(self.0.iter().map(entry).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

fn bind_key(key: &str, span: Span, at: &Path<'_>, diags: &mut Diags) -> Option<Spanned<Locality>> {
    match LocalityName::parse(key) {
        Ok(name) => Some(Spanned { value: name.0, span }),
        Err(message) => {
            diags.error("bad-value", span, at, message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_is_printed_as_it_is_written() {
        for text in ["a", "eu/eu-1a", "eu/eu-1a/rack.7"] {
            assert_eq!(LocalityName::parse(text).map(|name| name.0.to_string()), Ok(text.into()));
        }
        for text in ["", "/", "a/", "/a", "a//b", "a/b/c/d", "a b", "ü"] {
            assert!(LocalityName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn primes() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(5_000_011) && !is_prime(65_535));
    }
}
