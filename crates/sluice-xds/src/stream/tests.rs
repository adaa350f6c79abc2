//! Streams to scripted planes and to random ones.

use std::time::Duration;

use prost::Message as _;

use super::*;
use crate::messages::{AnyMessage, NamedMessage, ResourceEnvelope, TtlMessage};

const CDS: XdsType = XdsType::Cluster;
const EDS: XdsType = XdsType::Assignment;

fn names(of: &[&str]) -> WantedNames {
    WantedNames::These(of.iter().map(ToString::to_string).collect())
}

fn machine(form: DiscoveryForm) -> StreamMachine {
    let mut machine = StreamMachine::new(form, Bytes::from_static(b"node"), true);
    machine.want(CDS, WantedNames::All);
    machine.want(EDS, names(&[]));
    machine
}

fn any(kind: XdsType, name: &str) -> AnyMessage {
    let value = NamedMessage { name: name.to_owned() }.encode_to_vec().into();
    AnyMessage { type_url: kind.url().to_owned(), value }
}

fn sotw(kind: XdsType, version: &str, nonce: &str, resources: Vec<AnyMessage>) -> XdsMessage {
    let (version_info, nonce) = (version.to_owned(), nonce.to_owned());
    let type_url = kind.url().to_owned();
    XdsMessage::Sotw(DiscoveryResponse { version_info, resources, type_url, nonce })
}

fn envelope(kind: XdsType, name: &str, version: &str) -> ResourceEnvelope {
    let (name, version) = (name.to_owned(), version.to_owned());
    let resource = Some(any(kind, &name));
    ResourceEnvelope { version, resource, name, ..ResourceEnvelope::default() }
}

fn delta(
    kind: XdsType,
    nonce: &str,
    resources: Vec<ResourceEnvelope>,
    gone: &[&str],
) -> XdsMessage {
    XdsMessage::Delta(DeltaDiscoveryResponse {
        system_version_info: String::new(),
        resources,
        type_url: kind.url().to_owned(),
        nonce: nonce.to_owned(),
        removed_resources: gone.iter().map(ToString::to_string).collect(),
    })
}

fn next_sotw(machine: &mut StreamMachine) -> Option<DiscoveryRequest> {
    match machine.poll_request()? {
        XdsRequest::Sotw(request) => Some(request),
        XdsRequest::Delta(request) => panic!("{request:?}"),
    }
}

fn next_delta(machine: &mut StreamMachine) -> Option<DeltaDiscoveryRequest> {
    match machine.poll_request()? {
        XdsRequest::Delta(request) => Some(request),
        XdsRequest::Sotw(request) => panic!("{request:?}"),
    }
}

const NOW: Moment = Moment::from_micros(0);

fn fault(name: &str) -> ResourceFault {
    ResourceFault { name: name.to_owned(), problem: "lb_policy: wrong".to_owned() }
}

#[test]
fn state_of_the_world_names_everything_and_answers_with_nonces() {
    let mut machine = machine(DiscoveryForm::Sotw);
    assert_eq!(machine.poll_request(), None, "no stream");
    machine.opened();
    let first = next_sotw(&mut machine).unwrap();
    assert_eq!((first.node.as_deref(), first.type_url.as_str()), (Some(&b"node"[..]), CDS.url()));
    assert!(first.resource_names.is_empty() && first.version_info.is_empty());
    assert_eq!(machine.poll_request(), None, "nothing is asked for by name yet");
    let response = machine.receive(sotw(CDS, "1", "n1", vec![any(CDS, "a"), any(CDS, "b")]), NOW);
    let response = response.unwrap();
    assert_eq!(response.resources.iter().map(|of| &*of.name).collect::<Vec<_>>(), ["a", "b"]);
    assert!(response.complete && response.removed.is_empty());
    assert_eq!(machine.poll_request(), None, "the response has no answer");
    machine.want(EDS, names(&["a", "b"]));
    machine.answer(CDS, &[]);
    let ack = next_sotw(&mut machine).unwrap();
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("1", "n1"));
    assert_eq!((ack.node, ack.error_detail), (None, None));
    let eds = next_sotw(&mut machine).unwrap();
    assert_eq!(
        (eds.type_url.as_str(), eds.resource_names),
        (EDS.url(), vec!["a".into(), "b".into()])
    );
    // One is wrong, one is gone: the version stays, the nonce is that of the response.
    let response = machine.receive(sotw(CDS, "2", "n2", vec![any(CDS, "b"), any(CDS, "c")]), NOW);
    assert_eq!(response.unwrap().removed, ["a"]);
    machine.answer(CDS, &[fault("c")]);
    let nack = next_sotw(&mut machine).unwrap();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("1", "n2"));
    let error = nack.error_detail.unwrap();
    assert_eq!((error.code, &*error.message), (3, "cluster `c`: lb_policy: wrong"));
    // More names are one request with all of them.
    machine.want(EDS, names(&["b", "c", "d"]));
    assert_eq!(next_sotw(&mut machine).unwrap().resource_names, ["b", "c", "d"]);
    assert_eq!(machine.poll_request(), None);
    // After a cut, versions are told, and nonces of before are not.
    machine.closed();
    assert_eq!(machine.poll_request(), None);
    machine.opened();
    let again = next_sotw(&mut machine).unwrap();
    assert_eq!((again.version_info.as_str(), again.response_nonce.as_str()), ("1", ""));
    assert!(again.node.is_some());
}

#[test]
fn incremental_requests_say_what_changes_and_what_is_there() {
    let mut machine = machine(DiscoveryForm::Delta);
    machine.opened();
    let first = next_delta(&mut machine).unwrap();
    assert!(
        first.resource_names_subscribe.is_empty() && first.initial_resource_versions.is_empty()
    );
    let of_two = vec![envelope(CDS, "a", "1"), envelope(CDS, "b", "1")];
    machine.receive(delta(CDS, "n1", of_two, &[]), NOW).unwrap();
    machine.answer(CDS, &[fault("b")]);
    let nack = next_delta(&mut machine).unwrap();
    assert_eq!((nack.response_nonce.as_str(), nack.error_detail.is_some()), ("n1", true));
    machine.want(EDS, names(&["a", "b"]));
    assert_eq!(next_delta(&mut machine).unwrap().resource_names_subscribe, ["a", "b"]);
    machine.want(EDS, names(&["b", "c"]));
    let change = next_delta(&mut machine).unwrap();
    assert_eq!(change.resource_names_subscribe, ["c"]);
    assert_eq!(change.resource_names_unsubscribe, ["a"]);
    assert!(change.response_nonce.is_empty());
    let gone = machine.receive(delta(CDS, "n2", vec![envelope(CDS, "c", "2")], &["a"]), NOW);
    assert_eq!(gone.unwrap().removed, ["a"]);
    machine.answer(CDS, &[]);
    assert_eq!(next_delta(&mut machine).unwrap().response_nonce, "n2");
    machine.opened();
    let again = next_delta(&mut machine).unwrap();
    let versions: Vec<_> = again.initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("c".to_owned(), "2".to_owned())]);
    assert_eq!(next_delta(&mut machine).unwrap().resource_names_subscribe, ["b", "c"]);
}

#[test]
fn an_answer_after_a_cut_is_remembered_and_not_sent() {
    for form in [DiscoveryForm::Sotw, DiscoveryForm::Delta] {
        let mut machine = machine(form);
        machine.opened();
        machine.poll_request();
        let response = match form {
            DiscoveryForm::Sotw => sotw(CDS, "1", "n1", vec![any(CDS, "a")]),
            DiscoveryForm::Delta => delta(CDS, "n1", vec![envelope(CDS, "a", "1")], &[]),
        };
        machine.receive(response, NOW).unwrap();
        machine.opened();
        machine.answer(CDS, &[]);
        match machine.poll_request().unwrap() {
            XdsRequest::Sotw(of) => {
                assert_eq!((of.version_info.as_str(), of.response_nonce.as_str()), ("1", ""));
            }
            XdsRequest::Delta(of) => {
                assert_eq!(of.initial_resource_versions["a"], "1");
                assert!(of.response_nonce.is_empty());
            }
        }
        assert_eq!(machine.poll_request(), None);
    }
}

#[test]
fn what_was_not_asked_for_is_ignored_and_what_is_wrong_is_named() {
    let mut machine = machine(DiscoveryForm::Sotw);
    machine.opened();
    machine.poll_request();
    assert_eq!(machine.receive(sotw(EDS, "1", "n", vec![any(EDS, "a")]), NOW), None);
    assert_eq!(machine.receive(sotw(XdsType::Routes, "1", "n", vec![]), NOW), None);
    let unknown = DiscoveryResponse { type_url: "x/y".into(), ..DiscoveryResponse::default() };
    assert_eq!(machine.receive(XdsMessage::Sotw(unknown), NOW), None);
    machine.want(EDS, names(&["a"]));
    machine.poll_request();
    let superset = sotw(EDS, "1", "n", vec![any(EDS, "a"), any(EDS, "other")]);
    assert_eq!(machine.receive(superset, NOW).unwrap().resources.len(), 1);
    let garbage = AnyMessage { type_url: CDS.url().into(), value: Bytes::from_static(b"\xff\xff") };
    let all =
        vec![any(EDS, "x"), garbage, any(CDS, ""), any(CDS, "b"), any(CDS, "c"), any(CDS, "b")];
    let response = machine.receive(sotw(CDS, "1", "n", all), NOW).unwrap();
    let places: Vec<_> = response.faults.iter().map(|of| &*of.name).collect();
    assert_eq!(places, ["resources[0]", "resources[1]", "resources[2]", "b"]);
    assert_eq!(response.resources.len(), 1);
    assert!(!response.complete, "what has no name may be any of those that are there");
}

#[test]
fn a_resource_under_the_name_of_another_one_is_refused() {
    let mut machine = machine(DiscoveryForm::Delta);
    machine.opened();
    machine.poll_request();
    let lie = ResourceEnvelope { name: "a".to_owned(), ..envelope(CDS, "b", "1") };
    let all = vec![lie, envelope(CDS, "c", "1")];
    let response = machine.receive(delta(CDS, "n", all, &[]), NOW).unwrap();
    let why: Vec<_> = response.faults.iter().map(|of| (&*of.name, &*of.problem)).collect();
    assert_eq!(why, [("a", "its own name is `b`; send it under that name")]);
    assert_eq!(response.resources.len(), 1);
}

#[test]
fn a_resource_lives_as_long_as_it_is_renewed() {
    let mut machine = machine(DiscoveryForm::Delta);
    machine.opened();
    machine.poll_request();
    let second = |count| NOW.after(Duration::from_secs(count));
    let ttl = Some(TtlMessage { seconds: 10, nanos: 0 });
    let with = ResourceEnvelope { ttl, ..envelope(CDS, "a", "1") };
    machine.receive(delta(CDS, "1", vec![with, envelope(CDS, "b", "1")], &[]), NOW);
    machine.answer(CDS, &[]);
    assert_eq!(machine.next_expiry(), Some(second(10)));
    let beat = ResourceEnvelope { ttl, resource: None, ..envelope(CDS, "a", "1") };
    let response = machine.receive(delta(CDS, "2", vec![beat], &[]), second(6)).unwrap();
    assert!(response.resources.is_empty() && response.faults.is_empty());
    machine.answer(CDS, &[]);
    assert!(machine.expire(second(15)).is_empty());
    assert_eq!(machine.expire(second(16)), [(CDS, "a".to_owned())]);
    assert_eq!(machine.next_expiry(), None);
}

/// Whatever a plane says and wherever its stream is cut: each response that was taken is answered once, with its nonce.
#[test]
fn random_planes_get_one_answer_for_each_response() {
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let form = if random.bool() { DiscoveryForm::Sotw } else { DiscoveryForm::Delta };
        let mut machine = machine(form);
        // The nonces that were not answered on this stream, and whether the node was sent on it.
        let (mut owed, mut node) = (BTreeMap::new(), false);
        for step in 0..60 {
            match random.u8(0..10) {
                0 => {
                    machine.opened();
                    owed.clear();
                    node = false;
                }
                1 => machine.closed(),
                2 => {
                    let wanted = (0..random.usize(0..4)).map(|_| random.alphabetic().to_string());
                    machine.want(EDS, WantedNames::These(wanted.collect()));
                }
                3..=6 => {
                    let kind = random.choice(XdsType::ALL).unwrap();
                    let nonce = step.to_string();
                    let message = random_message(form, kind, &nonce, &mut random);
                    if machine.receive(message, NOW).is_some() {
                        let faults = [fault("a")];
                        let refused = random.bool();
                        machine.answer(kind, if refused { &faults } else { &[] });
                        if machine.open {
                            owed.insert(kind, nonce);
                        }
                    }
                }
                _ => {
                    while let Some(request) = machine.poll_request() {
                        let (url, nonce, has_node) = match request {
                            XdsRequest::Sotw(of) => {
                                (of.type_url, of.response_nonce, of.node.is_some())
                            }
                            XdsRequest::Delta(of) => {
                                (of.type_url, of.response_nonce, of.node.is_some())
                            }
                        };
                        assert_eq!(has_node, !node, "seed {seed}");
                        node = true;
                        let kind = XdsType::of_url(&url).unwrap();
                        if let Some(owed) = owed.remove(&kind) {
                            assert_eq!(nonce, owed, "seed {seed}");
                        }
                    }
                    if machine.open {
                        assert!(owed.is_empty(), "seed {seed}: no answer to {owed:?}");
                    }
                }
            }
        }
    }
}

fn random_message(
    form: DiscoveryForm,
    kind: XdsType,
    nonce: &str,
    random: &mut fastrand::Rng,
) -> XdsMessage {
    let count = random.usize(0..4);
    let mut resource = || {
        let name = random.alphabetic().to_string();
        match random.u8(0..6) {
            0 => AnyMessage { type_url: String::new(), value: Bytes::new() },
            1 => {
                let value: Vec<u8> = (0..random.usize(0..9)).map(|_| random.u8(..)).collect();
                AnyMessage { type_url: kind.url().to_owned(), value: value.into() }
            }
            2 => any(*random.choice(&XdsType::ALL).unwrap(), &name),
            _ => any(kind, &name),
        }
    };
    let resources: Vec<_> = (0..count).map(|_| resource()).collect();
    match form {
        DiscoveryForm::Sotw => sotw(kind, "v", nonce, resources),
        DiscoveryForm::Delta => {
            let one = |any| ResourceEnvelope { resource: Some(any), ..ResourceEnvelope::default() };
            delta(kind, nonce, resources.into_iter().map(one).collect(), &["a"])
        }
    }
}

#[test]
fn what_is_there_before_the_first_stream_is_told_to_the_plane() {
    let mut machine = machine(DiscoveryForm::Delta);
    machine.want(EDS, names(&["a"]));
    for (kind, name) in [(CDS, "a"), (EDS, "a"), (EDS, "unwanted"), (XdsType::Listener, "web")] {
        assert!(!machine.remember(kind, name, "1"));
    }
    machine.opened();
    let told = |request: DeltaDiscoveryRequest| {
        let versions = request.initial_resource_versions.into_iter();
        versions.map(|(name, version)| format!("{name}={version}")).collect::<Vec<_>>()
    };
    assert_eq!(next_delta(&mut machine).map(told), Some(vec!["a=1".to_owned()]));
    assert_eq!(next_delta(&mut machine).map(told), Some(vec!["a=1".to_owned()]));
    assert!(machine.poll_request().is_none());
    // Once it was asked, it is told on the next stream.
    assert!(machine.remember(CDS, "late", "1"), "the plane does not know");
    assert!(machine.poll_request().is_none());
    machine.closed();
    machine.opened();
    let both = vec!["a=1".to_owned(), "late=1".to_owned()];
    assert_eq!(next_delta(&mut machine).map(told), Some(both));
    assert!(!machine.expires(CDS, "a"));
}

#[test]
fn virtual_hosts_are_asked_for_by_name_beside_all_others() {
    const VHDS: XdsType = XdsType::VirtualHost;
    let below = |groups: &[&str], names: &[&str]| {
        let set = |of: &[&str]| of.iter().map(ToString::to_string).collect();
        WantedNames::Below { groups: set(groups), names: set(names) }
    };
    let mut machine = StreamMachine::new(DiscoveryForm::Delta, Bytes::new(), true);
    assert!(!machine.want(VHDS, below(&[], &[])));
    machine.opened();
    let told = |machine: &mut StreamMachine| match machine.poll_request() {
        Some(XdsRequest::Delta(of)) => {
            Some((of.resource_names_subscribe, of.resource_names_unsubscribe))
        }
        _ => None,
    };
    let these = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(told(&mut machine), None);
    assert!(!machine.want(VHDS, below(&["t/"], &[])));
    assert_eq!(told(&mut machine), Some((vec![], vec![])));
    machine.want(VHDS, below(&["t/"], &["t/a"]));
    assert_eq!(told(&mut machine), Some((these(&["t/a"]), vec![])));
    // What is of a table comes, whatever it was asked for by; of another table, nothing does.
    let mut named = envelope(VHDS, "t/x", "1");
    named.aliases = these(&["t/a", "t/b"]);
    let absent = ResourceEnvelope { name: "t/c".into(), ..ResourceEnvelope::default() };
    let all = vec![named, envelope(VHDS, "u/y", "1"), absent];
    let response = machine.receive(delta(VHDS, "n", all, &["t/z", "u/z"]), NOW).unwrap();
    assert_eq!(response.resources.len(), 1);
    assert_eq!(response.resources[0].aliases, ["t/a", "t/b"]);
    assert_eq!(response.absent, ["t/c"]);
    assert_eq!(response.removed, ["t/z"]);
    assert!(response.faults.is_empty());
    machine.answer(VHDS, &[]);
    assert_eq!(told(&mut machine), Some((vec![], vec![])));
    machine.want(VHDS, below(&["t/"], &[]));
    assert_eq!(told(&mut machine), Some((vec![], these(&["t/a"]))));
    // Another table: its hosts have come already, when nobody wanted them.
    assert!(machine.want(VHDS, below(&["t/", "u/"], &["u/a"])));
    machine.opened();
    assert!(!machine.want(VHDS, below(&["t/", "u/"], &["u/a"])));
    assert_eq!(told(&mut machine), Some((these(&["*", "u/a"]), vec![])));
}
