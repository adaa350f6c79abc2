use std::time::Duration;

use std::rc::Rc;

use super::*;
use crate::balance::BalancingPlan;
use crate::balance::subsets::{SelectorPlan, SubsetFallback, SubsetsPlan};
use crate::endpoint::{ConnectTo, EndpointTraits, Target};
use crate::metadata::{EndpointMetadata, SubsetKey};
use crate::plan::{BreakerClass, CheckKind, HealthPlan, ReusePlan};
use crate::reasons;
use sluice_core::Limits;
use sluice_core::clock::ClockOrigin;
use sluice_io::WorkerCx;
use sluice_io::descriptors::Budget;
use sluice_telemetry::{LogQueue, Registry};

pub(crate) fn plan(connections_max: Option<u64>) -> ClusterPlan {
    let bare = ClusterSettings::bare();
    let settings = ClusterSettings {
        connect_attempts: 3,
        reuse: ReusePlan {
            idle_timeout: Duration::from_secs(10),
            requests_max: Some(2),
            idle_max: 1,
            ..bare.reuse.clone()
        },
        connections_max,
        endpoint_connections_max: Some(2),
        ..(*bare).clone()
    };
    ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None }
}

pub(crate) fn member(port: u16) -> Member {
    Member {
        target: Target::Ip(([127, 0, 0, 1], port).into()),
        host: None,
        name: None,
        alternates: Vec::new(),
        traits: Arc::default(),
    }
}

#[test]
fn those_that_stay_keep_their_state_and_those_that_leave_are_named() {
    let cluster = Cluster::new(Arc::new(plan(None)));
    assert!(cluster.publish(&[member(1), member(2), member(2)]).is_empty());
    let members = cluster.members();
    assert_eq!((members.endpoints.len(), members.traits[1].weight), (2, 2));
    let lease = members.endpoints[0].lease();
    let left = cluster.publish(&[member(3), member(1)]);
    assert_eq!(left.iter().map(|e| &*e.name).collect::<Vec<_>>(), ["127.0.0.1:2"]);
    let now = cluster.members();
    assert_eq!((now.version, now.endpoints[1].active()), (2, 1));
    drop(lease);
    assert_eq!(now.endpoints[1].active(), 0);
}

#[test]
fn connections_outlive_changes_of_the_endpoints_unless_that_is_not_wanted() {
    for across_changes in [true, false] {
        let mut settings = ClusterSettings::clone(&ClusterSettings::bare());
        settings.reuse.across_changes = across_changes;
        let plan = ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None };
        let cluster = Cluster::new(Arc::new(plan));
        cluster.publish(&[member(1), member(2)]);
        let mut generation = cluster.generation();
        for (members, changes) in [
            (&[1, 2][..], false),
            (&[2, 1], false),
            (&[1, 2, 3], true),
            (&[1, 2], true),
            (&[1, 4], true),
        ] {
            cluster.publish(&members.iter().map(|port| member(*port)).collect::<Vec<_>>());
            let before = std::mem::replace(&mut generation, cluster.generation());
            assert_eq!(before != generation, changes && !across_changes, "{members:?}");
        }
    }
}

#[test]
fn an_endpoint_that_is_removed_stays_while_its_checks_succeed() {
    let mut settings = ClusterSettings::clone(&ClusterSettings::bare());
    settings.health = Some(HealthPlan {
        kind: CheckKind::Tcp(Vec::new()),
        connect_to: ConnectTo::default(),
        interval: Duration::from_secs(1),
        unhealthy_interval: Duration::from_secs(1),
        no_traffic_interval: None,
        jitter_percent: 0,
        timeout: Duration::from_secs(1),
        unhealthy_after: 1,
        healthy_after: 1,
        waits: false,
        keeps_removed: true,
    });
    let plan = ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None };
    let cluster = Arc::new(Cluster::new(Arc::new(plan)));
    let names = |of: &[Arc<EndpointState>]| -> Vec<u16> {
        of.iter().map(|one| one.name.rsplit(':').next().unwrap().parse().unwrap()).collect()
    };
    let members = || names(&cluster.members().endpoints);
    let endpoint = |place: usize| Arc::clone(&cluster.members().endpoints[place]);
    cluster.publish(&[member(1), member(2), member(3)]);
    (0..2).for_each(|place| _ = endpoint(place).note_checked());
    // The third has not been checked yet.
    assert_eq!(names(&cluster.publish(&[member(1)])), [3]);
    assert_eq!((members(), endpoint(1).is_leaving()), (vec![1, 2], true));
    assert!(cluster.dismiss().is_empty());
    // It comes back, and is removed again.
    cluster.publish(&[member(1), member(2)]);
    assert!(!endpoint(1).is_leaving());
    assert!(cluster.publish(&[member(1)]).is_empty());
    endpoint(0).set_health(Err("gone"));
    assert!(cluster.dismiss().is_empty(), "one that was not removed stays");
    endpoint(1).set_health(Err("gone"));
    assert_eq!(names(&cluster.dismiss()), [2]);
    assert_eq!(members(), [1]);
    endpoint(0).set_health(Ok(()));
    assert!(cluster.publish(&[]).is_empty());
    assert_eq!(names(&cluster.vacate()), [1], "all leave with their cluster");
}

#[test]
fn a_pick_keeps_to_limits_health_and_what_was_tried() {
    let registry = Registry::new();
    let shard = registry.shard(1);
    let (clock, log) = (ClockOrigin::read().clock(), LogQueue::nowhere(&shard));
    let worker = WorkerCx::new(0, clock, shard, log, Limits::default(), &Budget::unlimited());
    let cluster = Arc::new(Cluster::new(Arc::new(plan(Some(3)))));
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let why = |tried: &[Arc<str>]| {
        handle.pick(&worker, Affinity::default(), tried, WhenFull::Refuse).unwrap_err()
    };
    assert_eq!(why(&[]), reasons::NO_ENDPOINT);
    cluster.note_name(&"db.test".into(), NameState::waiting());
    assert_eq!(why(&[]), reasons::DNS);

    cluster.publish(&[member(1), member(2)]);
    let names: Vec<Arc<str>> =
        cluster.members().endpoints.iter().map(|endpoint| Arc::clone(&endpoint.name)).collect();
    assert_eq!(why(&names), reasons::NO_HEALTHY);
    let first = handle.pick(&worker, Affinity::default(), &names[..1], WhenFull::Refuse).unwrap();
    assert_eq!(first.endpoint().name, names[1]);
    let _second = handle.pick(&worker, Affinity::default(), &names[..1], WhenFull::Refuse).unwrap();
    assert_eq!(
        handle.pick(&worker, Affinity::default(), &names[..1], WhenFull::Refuse).map(drop),
        Err(reasons::LIMIT)
    );
    let _third = handle.pick(&worker, Affinity::default(), &[], WhenFull::Refuse).unwrap();
    assert_eq!((why(&[]), cluster.active()), (reasons::LIMIT, 3));
    let refusals = |limit| {
        let labels = ["c", limit];
        registry.value(crate::metrics::BREAKER_REFUSALS.name, &labels)
    };
    assert_eq!(
        (refusals("connections_per_endpoint"), refusals("connections")),
        (Some(1), Some(1)),
        "each refusal counts for the limit that refused"
    );
    drop(first);
    cluster.members().endpoints.iter().for_each(|endpoint| {
        endpoint.set_health(Err("refused"));
    });
    assert_eq!(why(&[]), reasons::NO_HEALTHY);
}

#[test]
fn a_pick_passes_over_the_priorities_of_what_was_tried() {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let cluster = Arc::new(Cluster::new(Arc::new(plan(None))));
    let of_priority = |port, priority| Member {
        traits: Arc::new(EndpointTraits { priority, ..EndpointTraits::default() }),
        ..member(port)
    };
    cluster.publish(&[of_priority(1, 0), of_priority(2, 0), of_priority(3, 1), of_priority(4, 2)]);
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let mut tried: Vec<Arc<str>> = Vec::new();
    let pick = |tried: &[Arc<str>]| {
        let tried = Tried::priorities_of(tried);
        let picked = handle.pick_for_request(
            &worker,
            TrafficClass::Request,
            Affinity::default(),
            tried,
            WhenFull::Refuse,
        );
        picked.map(|(endpoint, _)| Arc::clone(&endpoint.name))
    };
    for expected in [&["127.0.0.1:1", "127.0.0.1:2"][..], &["127.0.0.1:3"], &["127.0.0.1:4"]] {
        let picked = pick(&tried).unwrap();
        assert!(expected.contains(&&*picked), "{picked} of {expected:?}");
        tried.push(picked);
    }
    assert_eq!(pick(&tried), Err(reasons::NO_HEALTHY));
}

#[test]
fn what_is_reserved_for_side_calls_is_not_open_to_requests() {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let limited = plan(Some(2));
    let settings = ClusterSettings { requests_max: Some(2), ..(*limited.settings).clone() };
    let settings = ClusterPlan { settings: Arc::new(settings), ..limited };
    let cluster = Arc::new(Cluster::new(Arc::new(settings)));
    cluster.publish(&[member(1)]);
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let request = |class| {
        let picked = handle.pick_for_request(
            &worker,
            class,
            Affinity::default(),
            Tried::NOTHING,
            WhenFull::Refuse,
        );
        picked.map(|(_, claim)| claim)
    };
    let endpoint = Arc::clone(&cluster.members().endpoints[0]);
    let connection = |class| handle.claim_shared(class, &endpoint);

    let both = [request(TrafficClass::Request), request(TrafficClass::Request)];
    assert!(both.iter().all(Result::is_ok), "nothing is reserved before the first side call");
    drop(both);
    cluster.reserve_for_side_calls();
    let one = (request(TrafficClass::Request).unwrap(), connection(TrafficClass::Request).unwrap());
    assert_eq!(request(TrafficClass::Request).map(drop), Err(reasons::LIMIT));
    assert_eq!(connection(TrafficClass::Request).map(drop), Err(reasons::LIMIT));
    assert_eq!(
        handle.pick(&worker, Affinity::default(), &[], WhenFull::Refuse).map(drop),
        Err(reasons::LIMIT)
    );
    let other = (request(TrafficClass::SideCall), connection(TrafficClass::SideCall));
    assert!(other.0.is_ok() && other.1.is_ok());
    assert_eq!(request(TrafficClass::SideCall).map(drop), Err(reasons::LIMIT));
    drop(one);
}

#[test]
fn a_session_leads_to_its_endpoint_while_that_can_be_used() {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    for size in [3, 40] {
        let cluster = Arc::new(Cluster::new(Arc::new(plan(None))));
        cluster.publish(&(1..=size).map(member).collect::<Vec<_>>());
        let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
        let endpoint = Arc::clone(&cluster.members().endpoints[1]);
        let named = |id, strict| Affinity {
            session: Some(ClientSession::Endpoint(PreferredEndpoint { id, strict })),
            ..Affinity::default()
        };
        let pick = |affinity| {
            let picked = handle.pick(&worker, affinity, &[], WhenFull::Refuse);
            picked.map(|claim| Arc::clone(claim.endpoint()))
        };
        for _ in 0..5 {
            let picked = pick(named(endpoint.id, false)).unwrap();
            assert!(Arc::ptr_eq(&picked, &endpoint));
        }
        let gone = EndpointId::of("127.0.0.1:99");
        assert!(pick(named(gone, false)).is_ok());
        assert_eq!(pick(named(gone, true)).map(drop), Err(reasons::SESSION));
        let tried = [Arc::clone(&endpoint.name)];
        let other =
            handle.pick(&worker, named(endpoint.id, false), &tried, WhenFull::Refuse).unwrap();
        assert!(!Arc::ptr_eq(other.endpoint(), &endpoint));
        // At its limit of two connections.
        let _full = (endpoint.lease(), endpoint.lease());
        assert!(!Arc::ptr_eq(&pick(named(endpoint.id, false)).unwrap(), &endpoint));
        assert_eq!(pick(named(endpoint.id, true)).map(drop), Err(reasons::SESSION));
    }
}

#[test]
fn a_source_comes_back_to_its_endpoint() {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let cluster = Arc::new(Cluster::new(Arc::new(plan(None))));
    cluster.publish(&(1..=5).map(member).collect::<Vec<_>>());
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let pick = |source: u64, tried: &[Arc<str>]| {
        let session = Some(ClientSession::Source { source, ttl: SESSION_MAX });
        let affinity = Affinity { session, ..Affinity::default() };
        let picked = handle.pick(&worker, affinity, tried, WhenFull::Refuse);
        Arc::clone(&picked.unwrap().endpoint().name)
    };
    let sources: Vec<u64> = (1..50_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let first: Vec<_> = sources.iter().map(|source| pick(*source, &[])).collect();
    // New endpoints take nothing away.
    cluster.publish(&(1..=9).map(member).collect::<Vec<_>>());
    let again: Vec<_> = sources.iter().map(|source| pick(*source, &[])).collect();
    assert_eq!(first, again);
    let moved = pick(sources[0], std::slice::from_ref(&first[0]));
    assert_ne!(moved, first[0]);
    assert_eq!(pick(sources[0], &[]), moved, "it stays where it went");
}

/// A cluster with subsets by `version`, and its handle; endpoint `n` has version `v{n % 3}` and priority `n / 6`.
fn of_versions(worker: &WorkerCx, fallback: SubsetFallback) -> (Arc<Cluster>, Rc<ClusterHandle>) {
    let keys = vec!["version".into()];
    let subsets = SubsetsPlan {
        selectors: vec![SelectorPlan { keys, fallback: None }],
        fallback,
        default_subset: version(0),
        count_max: 10,
    };
    let balancing = BalancingPlan { subsets: Some(Arc::new(subsets)), ..BalancingPlan::default() };
    let settings = ClusterSettings { balancing, ..(*ClusterSettings::bare()).clone() };
    let plan = ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None };
    let cluster = Arc::new(Cluster::new(Arc::new(plan)));
    let members: Vec<Member> = (0..12_u16)
        .map(|number| {
            let values = [format!("v{}", number % 3).into()];
            let metadata = EndpointMetadata::new([("version".into(), values.into())]);
            let metadata = Some(Arc::new(metadata));
            let priority = u32::from(number / 6);
            let traits =
                Arc::new(EndpointTraits { metadata, priority, ..EndpointTraits::default() });
            Member { traits, ..member(number + 1) }
        })
        .collect();
    cluster.publish(&members);
    let handle = ClusterHandle::new(Arc::clone(&cluster), worker);
    (cluster, handle)
}

fn version(number: usize) -> SubsetKey {
    SubsetKey::new([("version".into(), format!("v{number}").into())])
}

/// The number of the endpoint that a pick gets.
fn picked(
    handle: &Rc<ClusterHandle>,
    worker: &WorkerCx,
    affinity: Affinity<'_>,
) -> Result<usize, sluice_core::Reason> {
    let claim = handle.pick(worker, affinity, &[], WhenFull::Refuse)?;
    let port = claim.endpoint().name.rsplit_once(':').unwrap().1.parse::<usize>().unwrap();
    Ok(port - 1)
}

#[test]
fn a_pick_stays_in_its_subset_whatever_the_states_are() {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let (cluster, handle) = of_versions(&worker, SubsetFallback::Refuse);
    let endpoints = Arc::clone(&cluster.members().endpoints);
    for seed in 0..200 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let usable: Vec<bool> = endpoints.iter().map(|_| rng.usize(..3) > 0).collect();
        for (endpoint, usable) in endpoints.iter().zip(&usable) {
            endpoint.set_health(if *usable { Ok(()) } else { Err("refused") });
        }
        // Before the tables are built again, and after.
        for round in 0..2 {
            for asked in 0..3 {
                let key = version(asked);
                let affinity = Affinity { subset: Some(&key), ..Affinity::default() };
                let of = |priority: usize| {
                    let mut own = (0..12).filter(|n| n % 3 == asked && n / 6 == priority);
                    own.any(|number| usable[number])
                };
                for _ in 0..4 {
                    match picked(&handle, &worker, affinity) {
                        Ok(number) => {
                            assert!(number % 3 == asked && usable[number], "seed {seed}");
                            assert!(round == 0 || number < 6 || !of(0), "seed {seed}: {number}");
                        }
                        Err(why) => {
                            assert_eq!(why, reasons::NO_HEALTHY);
                            assert!(round == 0 || !of(0) && !of(1), "seed {seed}");
                        }
                    }
                }
            }
            cluster.rebalance();
        }
    }
}

#[test]
fn a_pick_without_its_subset_gets_the_fallback_and_keeps_no_session_elsewhere() {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let (none, first, other) = (version(9), version(0), version(1));
    for (fallback, expected) in [
        (SubsetFallback::Refuse, Err(reasons::NO_SUBSET)),
        (SubsetFallback::AnyEndpoint, Ok(1)),
        (SubsetFallback::DefaultSubset, Ok(3)),
    ] {
        let (cluster, handle) = of_versions(&worker, fallback);
        for subset in [None, Some(&none)] {
            let affinity = Affinity { subset, ..Affinity::default() };
            for _ in 0..10 {
                // In the default subset, numbers are multiples of 3.
                let found = picked(&handle, &worker, affinity);
                match (found, expected) {
                    (Ok(number), Ok(step)) => assert_eq!(number % step, 0),
                    (found, expected) => assert_eq!(found.err(), expected.err()),
                }
            }
        }
        let detail = cluster.shortage(reasons::NO_SUBSET, BreakerClass::Default).unwrap();
        assert!(detail.starts_with("the subsets are { version: v0 }, { version: v1 }"), "{detail}");
        // Endpoint 4 has version v1.
        let id = cluster.members().endpoints[4].id;
        let session = |strict| Some(ClientSession::Endpoint(PreferredEndpoint { id, strict }));
        let to = |subset, strict| {
            let affinity = Affinity { subset: Some(subset), session: session(strict), hash: None };
            picked(&handle, &worker, affinity)
        };
        assert_eq!(to(&other, true), Ok(4));
        assert_eq!(to(&first, true), Err(reasons::SESSION));
        assert_eq!(to(&first, false).map(|number| number % 3), Ok(0));
    }
}

#[test]
fn a_cluster_without_endpoints_says_so_although_it_has_subsets() {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let (cluster, handle) = of_versions(&worker, SubsetFallback::Refuse);
    cluster.publish(&[]);
    assert_eq!(picked(&handle, &worker, Affinity::default()), Err(reasons::NO_ENDPOINT));
}
