use std::time::Duration;

use super::*;
use crate::plan::ReusePlan;
use crate::reasons;
use sluice_core::clock::ClockOrigin;
use sluice_io::WorkerCx;

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

fn member(port: u16) -> Member {
    Member {
        target: Target::Ip(([127, 0, 0, 1], port).into()),
        host: None,
        alternates: Vec::new(),
        traits: EndpointTraits::default(),
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
fn a_pick_keeps_to_limits_health_and_what_was_tried() {
    let worker = WorkerCx::solitary(ClockOrigin::read().clock());
    let cluster = Arc::new(Cluster::new(Arc::new(plan(Some(3)))));
    let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
    let why = |tried: &[Arc<str>]| handle.pick(&worker, None, tried).unwrap_err();
    assert_eq!(why(&[]), reasons::NO_ENDPOINT);
    cluster.note_name(&"db.test".into(), NameState::waiting());
    assert_eq!(why(&[]), reasons::DNS);

    cluster.publish(&[member(1), member(2)]);
    let names: Vec<Arc<str>> =
        cluster.members().endpoints.iter().map(|endpoint| Arc::clone(&endpoint.name)).collect();
    assert_eq!(why(&names), reasons::NO_HEALTHY);
    let first = handle.pick(&worker, None, &names[..1]).unwrap();
    assert_eq!(first.endpoint().name, names[1]);
    let _second = handle.pick(&worker, None, &names[..1]).unwrap();
    assert_eq!(handle.pick(&worker, None, &names[..1]).map(drop), Err(reasons::LIMIT));
    let _third = handle.pick(&worker, None, &[]).unwrap();
    assert_eq!((why(&[]), cluster.active()), (reasons::LIMIT, 3));
    drop(first);
    cluster.members().endpoints.iter().for_each(|endpoint| {
        endpoint.set_health(Err("refused"));
    });
    assert_eq!(why(&[]), reasons::NO_HEALTHY);
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
    let request =
        |class| handle.pick_for_request(&worker, class, None, &[]).map(|(_, claim)| claim);
    let endpoint = Arc::clone(&cluster.members().endpoints[0]);
    let connection = |class| handle.claim_shared(class, &endpoint);

    let both = [request(TrafficClass::Request), request(TrafficClass::Request)];
    assert!(both.iter().all(Result::is_ok), "nothing is reserved before the first side call");
    drop(both);
    cluster.reserve_for_side_calls();
    let one = (request(TrafficClass::Request).unwrap(), connection(TrafficClass::Request).unwrap());
    assert_eq!(request(TrafficClass::Request).map(drop), Err(reasons::LIMIT));
    assert_eq!(connection(TrafficClass::Request).map(drop), Err(reasons::LIMIT));
    assert_eq!(handle.pick(&worker, None, &[]).map(drop), Err(reasons::LIMIT));
    let other = (request(TrafficClass::SideCall), connection(TrafficClass::SideCall));
    assert!(other.0.is_ok() && other.1.is_ok());
    assert_eq!(request(TrafficClass::SideCall).map(drop), Err(reasons::LIMIT));
    drop(one);
}
