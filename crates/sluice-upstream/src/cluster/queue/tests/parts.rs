use super::*;
use crate::endpoint::Target;
use crate::forward::ForwardPlan;

#[test]
fn a_cluster_that_gets_subsets_lets_those_go_that_ask_for_none() {
    let cluster = cluster(1, 1, None, queue(3));
    let workers = handles(&cluster, &Clock::held(), 1);
    let (handle, worker) = &workers[0];
    let held = Client::arrive(handle, worker, Affinity::default()).0.unwrap().unwrap();
    let begin = |affinity| Client::arrive(handle, worker, affinity).1;
    let (mut plain, mut asks) = (begin(Affinity::default()), begin(asking(0)));
    assert_eq!(cluster.waiting(), 2);
    divide(&cluster, 1, SubsetFallback::Refuse);
    assert_eq!(plain.poll().unwrap().unwrap_err(), reasons::NO_SUBSET);
    assert!(asks.poll().is_none());
    drop(held);
    assert!(asks.poll().unwrap().is_ok());
    assert_eq!(cluster.waiting(), 0);
}

#[test]
fn who_waits_for_a_subset_is_in_nobody_elses_way() {
    let cluster = cluster(4, 1, None, queue(2));
    divide(&cluster, 4, SubsetFallback::Refuse);
    let workers = handles(&cluster, &Clock::held(), 2);
    let begin = |worker: usize, affinity| {
        let (handle, worker) = &workers[worker];
        Client::arrive(handle, worker, affinity)
    };
    let port = |claim: &Claim| claim.endpoint().name.rsplit_once(':').unwrap().1.to_owned();
    // 1 and 3 are of version a, and 3 is in stage x.
    let mut held: Vec<Claim> = (0..2).map(|_| begin(0, asking(0)).0.unwrap().unwrap()).collect();
    held.sort_by_key(port);
    let (mut narrow, mut wide) = (begin(0, asking(2)).1, begin(1, asking(0)).1);
    assert_eq!(begin(1, asking(0)).0.unwrap().unwrap_err(), reasons::QUEUE_FULL);
    assert_eq!(begin(1, asking(3)).0.unwrap().unwrap_err(), reasons::NO_SUBSET);
    // The queue is full, of those that have no use for this one.
    let other = begin(1, asking(1)).0.unwrap().unwrap();
    assert!(["2", "4"].contains(&&*port(&other)));
    // What came first waits for the other.
    drop(held.remove(0));
    assert!(narrow.poll().is_none());
    let served = wide.poll().unwrap().unwrap();
    assert_eq!(port(&served), "1");
    drop(served);
    assert!(narrow.poll().is_none());
    drop(held);
    assert_eq!(port(&narrow.poll().unwrap().unwrap()), "3");
    assert_eq!(cluster.waiting(), 0);
}

/// A host that clients name, at this port.
fn host(name: &str, port: u16) -> Member {
    let target = Target::Ip(([127, 0, 0, 1], port).into());
    Member { target, host: Some(name.into()), name: Some(name.into()), ..member(port) }
}

/// Claims a host; if it has no room, waits.
fn claim_host(
    handle: &Rc<ClusterHandle>,
    worker: &Rc<WorkerCx>,
    endpoint: &Arc<EndpointState>,
) -> (Option<Result<Claim, Reason>>, Client) {
    let (handle, worker) = (Rc::clone(handle), Rc::clone(worker));
    let endpoint = Arc::clone(endpoint);
    let picking: Picking = Box::pin(async move {
        match handle.claim_named(&worker, &endpoint) {
            Err(why) if why == reasons::LIMIT => {
                handle.wait_for_named_room(&worker, &endpoint).await
            }
            claimed => claimed,
        }
    });
    let woken = Arc::new(Woken::default());
    woken.0.store(true, Relaxed);
    let mut client = Client { picking, woken };
    (client.poll(), client)
}

#[test]
fn who_names_a_host_waits_for_that_host() {
    let cluster = cluster(0, 1, Some(2), queue(9));
    change(&cluster, |settings| {
        settings.forward = Some(ForwardPlan {
            named_by: crate::forward::HostNaming::Client,
            hosts: Vec::new(),
            ports: vec![80],
            hosts_max: 9,
            host_ttl: Duration::from_secs(300),
        });
    });
    cluster.publish(&[host("a", 1), host("b", 2), host("c", 3)]);
    let endpoints = cluster.members().endpoints.to_vec();
    let clock = Clock::held();
    let workers = handles(&cluster, &clock, 2);
    let claim = |worker: usize, nth: usize| {
        let (handle, worker) = &workers[worker];
        claim_host(handle, worker, &endpoints[nth])
    };
    let a = claim(0, 0).0.unwrap().unwrap();
    let (first, mut second_a) = claim(1, 0);
    assert!(first.is_none(), "the host is at its limit");
    let b = claim(1, 1).0.unwrap().unwrap();
    // Now the cluster is at its limit as well. What becomes free goes to the one that came first and may use it.
    let (mut first_c, mut second_b) = (claim(0, 2).1, claim(0, 1).1);
    drop(b);
    assert!(second_a.poll().is_none() && second_b.poll().is_none());
    let c = first_c.poll().unwrap().unwrap();
    assert_eq!(&*c.endpoint().name, "c");
    drop(a);
    assert_eq!(&*second_a.poll().unwrap().unwrap().endpoint().name, "a");
    let b = second_b.poll().unwrap().unwrap();
    // The host moves: who waits for it gets it where it is now.
    let (mut moved, mut gone, mut late) = (claim(0, 1).1, claim(0, 2).1, claim(1, 2).1);
    assert_eq!(cluster.waiting(), 3);
    cluster.publish(&[host("a", 1), host("b", 22), host("c", 3)]);
    assert!(moved.poll().is_none(), "the cluster is at its limit");
    drop(b);
    let b = moved.poll().unwrap().unwrap();
    assert_eq!(b.endpoint().target, Target::Ip(([127, 0, 0, 1], 22).into()));
    clock.advance(TIMEOUT + Duration::from_millis(50));
    workers.iter().for_each(|(_, worker)| _ = worker.timers.expire());
    assert_eq!(late.poll().unwrap().unwrap_err(), reasons::QUEUE_TIMEOUT);
    assert_eq!(gone.poll().unwrap().unwrap_err(), reasons::QUEUE_TIMEOUT);
    let mut gone = claim(0, 2).1;
    cluster.publish(&[host("a", 1), host("b", 22)]);
    assert_eq!(gone.poll().unwrap().unwrap_err(), reasons::NO_HEALTHY);
    drop((b, c));
    assert_eq!((cluster.active(), cluster.waiting()), (0, 0));
}
