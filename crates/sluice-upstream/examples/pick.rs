//! Picks endpoints, so that the instructions of a pick can be counted:
//! `valgrind --tool=callgrind --callgrind-out-file=/dev/null pick BALANCE ENDPOINTS COUNT [rich|subsets|weighted]`.
//!
//! Owns: clusters of any size, plain, with weights, with priorities, localities and ejected endpoints, or with subsets.
//! Refuses to know: how instructions are counted. Keeps: the work apart from the picks depends only on the size, so that
//! the difference between two counts is that of the picks.
#![allow(clippy::unwrap_used, reason = "a wrong argument ends the program")]

use std::net::SocketAddr;
use std::sync::Arc;

use sluice_core::clock::ClockOrigin;
use sluice_io::WorkerCx;
use sluice_upstream::balance::subsets::{SelectorPlan, SubsetFallback, SubsetsPlan};
use sluice_upstream::balance::{BalancePlan, BalancingPlan, FailoverPlan, LocalityPlan};
use sluice_upstream::cluster::{Affinity, Member, TrafficClass, Tried, WhenFull};
use sluice_upstream::endpoint::EjectionKind;
use sluice_upstream::{
    Balance, Cluster, ClusterHandle, ClusterPlan, ClusterSettings, EndpointMetadata,
    EndpointTraits, Locality, SubsetKey, Target,
};

const ALL: [Balance; 7] = [
    Balance::RoundRobin,
    Balance::LeastRequest,
    Balance::PeakEwma,
    Balance::LoadReports,
    Balance::Random,
    Balance::RingHash,
    Balance::Maglev,
];

/// The subsets of a divided cluster.
const SUBSETS: u16 = 10;

/// What the endpoints of a subset have.
fn subset(number: u16) -> SubsetKey {
    let version = format!("v{number}").into();
    SubsetKey::new([("stage".into(), "prod".into()), ("version".into(), version)])
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let balance = ALL.iter().find(|balance| balance.word() == arguments[0]).unwrap();
    let size: u16 = arguments[1].parse().unwrap();
    let count: u64 = arguments[2].parse().unwrap();
    let kind = arguments.get(3).map(String::as_str);
    let (rich, divided) = (kind == Some("rich"), kind == Some("subsets"));
    let weights = if kind == Some("weighted") { 97 } else { 1 };
    let cluster = cluster(BalancePlan::from(*balance), size, rich, divided, weights);
    let asked: Vec<SubsetKey> = (0..SUBSETS).map(subset).collect();
    let mut asked = asked.iter().cycle();
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    for number in 0..count {
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let subset = if divided { asked.next() } else { None };
        let affinity = Affinity { subset, ..Affinity::hashed(Some(hash)) };
        let (class, tried) = (TrafficClass::Request, Tried::NOTHING);
        let picked = handle.pick_for_request(&worker, class, affinity, tried, WhenFull::Refuse);
        std::hint::black_box(picked.unwrap());
    }
}

/// A cluster of `size` endpoints. A rich one has three priorities and two localities, and a tenth of the endpoints of
/// the highest priority are ejected. A divided one has two keys that make [`SUBSETS`] subsets. There are so many `weights`.
fn cluster(
    balance: BalancePlan,
    size: u16,
    rich: bool,
    divided: bool,
    weights: u16,
) -> Arc<Cluster> {
    let failover =
        FailoverPlan { overprovisioning: Some(140), panic: 50, ..FailoverPlan::default() };
    let localities = if rich { LocalityPlan::Weighted } else { LocalityPlan::Ignored };
    let keys = vec!["stage".into(), "version".into()];
    let subsets = divided.then(|| SubsetsPlan {
        selectors: vec![SelectorPlan { keys, fallback: None }],
        fallback: SubsetFallback::Refuse,
        default_subset: SubsetKey::new([]),
        count_max: 1024,
    });
    let subsets = subsets.map(Arc::new);
    let balancing =
        BalancingPlan { balance, failover, localities, subsets, ..BalancingPlan::default() };
    let settings = ClusterSettings { balancing, ..(*ClusterSettings::bare()).clone() };
    let plan = ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None };
    let cluster = Arc::new(Cluster::new(Arc::new(plan)));
    let zones =
        ["a", "b"].map(|zone| Arc::new(Locality { zone: zone.into(), ..Locality::default() }));
    let member = |number: u16| {
        let traits = EndpointTraits {
            priority: if rich { u32::from(number % 3) } else { 0 },
            locality: Some(Arc::clone(&zones[usize::from(number) / 3 % 2])),
            locality_weight: 1,
            weight: u32::from(number % weights) + 1,
            metadata: divided.then(|| {
                let own = subset(number % SUBSETS);
                let entries = own.iter().cloned().map(|(key, value)| (key, [value].into()));
                Arc::new(EndpointMetadata::new(entries))
            }),
            ..EndpointTraits::default()
        };
        let address = SocketAddr::from(([127, 0, 0, 1], number + 1));
        Member {
            target: Target::Ip(address),
            host: None,
            traits: Arc::new(traits),
            name: None,
            alternates: Vec::new(),
        }
    };
    let members: Vec<Member> = (0..size).map(member).collect();
    cluster.publish(&members);
    if rich {
        for endpoint in cluster.members().endpoints.iter().step_by(30) {
            endpoint.eject(EjectionKind::ConnectFailures, "it failed");
        }
        // The states are taken into account.
        cluster.publish(&members);
    }
    cluster
}
