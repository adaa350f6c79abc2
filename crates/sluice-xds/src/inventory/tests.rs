//! What is applied when, and what returns to its last good version.

use std::time::Duration;

use super::*;

fn cluster(name: &str) -> OwnerKey {
    OwnerKey { kind: OwnerKind::Cluster, name: name.into() }
}

fn listener(name: &str) -> OwnerKey {
    OwnerKey { kind: OwnerKind::Listener, name: name.into() }
}

fn part(kind: XdsType, name: &str) -> PartKey {
    PartKey { kind, name: name.into() }
}

fn eds(name: &str) -> PartKey {
    part(XdsType::Assignment, name)
}

fn rds(name: &str) -> PartKey {
    part(XdsType::Routes, name)
}

fn at(seconds: u64) -> Moment {
    Moment::from_micros(0).after(Duration::from_secs(seconds))
}

fn said(version: &str) -> Versioned<String> {
    Versioned {
        version: version.into(),
        since: at(0),
        content: version.to_owned(),
        needs: Box::default(),
    }
}

fn offer(
    inventory: &mut Inventory<String>,
    key: OwnerKey,
    version: Versioned<String>,
    needs: Vec<PartKey>,
    until: Moment,
    fixed: bool,
) -> bool {
    inventory.offer(
        key,
        version,
        needs.into_iter().map(|part| NeedUntil { part, until }).collect(),
        fixed,
    )
}

/// The names of a type that are needed.
fn wanted(inventory: &Inventory<String>, kind: XdsType) -> Vec<&str> {
    let of_kind = inventory.needed().filter(|key| key.kind == kind);
    of_kind.map(|key| &*key.name).collect()
}

/// What is ready, as `name@version(part@version ...)`, applied.
fn apply(inventory: &mut Inventory<String>, now: u64) -> Vec<String> {
    let units = inventory.ready(at(now));
    units.iter().for_each(|unit| inventory.applied(unit));
    units.iter().map(shown).collect()
}

fn shown(unit: &ReadyUnit<String>) -> String {
    let parts = unit.parts.iter().map(|(key, part)| {
        let version = part.as_ref().map_or("nothing", |part| &part.content);
        format!("{}@{version}", key.name)
    });
    let parts: Vec<String> = parts.collect();
    format!("{}@{}({})", unit.key.name, unit.owner.content, parts.join(" "))
}

#[test]
fn a_cluster_waits_for_its_endpoints_and_then_follows_them() {
    let mut inventory = Inventory::default();
    assert!(offer(&mut inventory, cluster("a"), said("1"), vec![eds("a")], at(15), false));
    assert!(offer(&mut inventory, cluster("plain"), said("1"), vec![], at(15), false));
    assert_eq!(wanted(&inventory, XdsType::Assignment), ["a"]);
    assert_eq!(apply(&mut inventory, 0), ["plain@1()"]);
    assert!(!inventory.is_settled(OwnerKind::Cluster));
    assert_eq!(inventory.next_deadline(), Some(at(15)));
    inventory.offer_part(eds("a"), said("e1"));
    assert_eq!(apply(&mut inventory, 1), ["a@1(a@e1)"]);
    assert!(inventory.is_settled(OwnerKind::Cluster));
    assert_eq!(apply(&mut inventory, 1), Vec::<String>::new(), "each is applied once");
    inventory.offer_part(eds("a"), said("e2"));
    assert_eq!(apply(&mut inventory, 2), ["a@1(a@e2)"]);
    // A new version of the cluster uses the endpoints that are there.
    offer(&mut inventory, cluster("a"), said("2"), vec![eds("a")], at(30), false);
    assert_eq!(apply(&mut inventory, 3), ["a@2(a@e2)"]);
    assert!(inventory.remove(&cluster("a")));
    assert!(wanted(&inventory, XdsType::Assignment).is_empty());
    assert!(!inventory.remove(&cluster("a")), "it is gone");
}

#[test]
fn what_does_not_come_in_time_is_applied_without() {
    let mut inventory = Inventory::default();
    offer(&mut inventory, listener("web"), said("1"), vec![rds("r")], at(15), false);
    offer(&mut inventory, listener("slow"), said("1"), vec![rds("r")], Moment::NEVER, false);
    assert!(apply(&mut inventory, 14).is_empty());
    assert!(inventory.late(at(14)).is_empty());
    assert_eq!(inventory.late(at(15)), [rds("r")].into());
    assert_eq!(apply(&mut inventory, 15), ["web@1(r@nothing)"]);
    assert_eq!(inventory.next_deadline(), None, "the other one waits for ever");
    inventory.offer_part(rds("r"), said("r1"));
    assert_eq!(apply(&mut inventory, 16), ["slow@1(r@r1)", "web@1(r@r1)"]);
}

#[test]
fn many_clusters_are_applied_in_portions_and_listeners_together_after_them() {
    let mut inventory = Inventory::default();
    for number in 0..READY_CLUSTERS_MAX + 1 {
        let name = format!("c{number:04}");
        offer(&mut inventory, cluster(&name), said("1"), vec![], at(15), false);
    }
    for number in 0..READY_CLUSTERS_MAX {
        let name = format!("l{number:04}");
        offer(&mut inventory, listener(&name), said("1"), vec![], at(15), false);
    }
    let mut portions = Vec::new();
    while let applied @ [first, ..] = apply(&mut inventory, 0).as_slice() {
        portions.push((applied.len(), first.clone()));
    }
    let last = format!("c{READY_CLUSTERS_MAX:04}@1()");
    let whole = READY_CLUSTERS_MAX;
    assert_eq!(portions, [(whole, "c0000@1()".to_owned()), (whole + 1, last)]);
}

#[test]
fn a_version_of_before_stands_in_for_one_that_is_refused() {
    let mut inventory = Inventory::default();
    let refused = |inventory: &Inventory<String>| {
        let entry = inventory.entries().into_iter().next().unwrap();
        (entry.good.map(|(version, _)| version), entry.refused.is_some())
    };
    inventory.refuse(XdsType::Cluster, "a", "2", "wrong", at(1));
    assert!(!inventory.has(XdsType::Cluster, "a"));
    offer(&mut inventory, cluster("a"), said("1"), vec![eds("a")], at(15), false);
    inventory.stands_in(XdsType::Cluster, "a");
    inventory.offer_part(eds("a"), said("e1"));
    assert_eq!(apply(&mut inventory, 3), ["a@1(a@e1)"]);
    assert_eq!(refused(&inventory), (Some("1".into()), true));
    offer(&mut inventory, cluster("a"), said("3"), vec![eds("a")], at(15), false);
    assert_eq!(apply(&mut inventory, 5), ["a@3(a@e1)"]);
    assert_eq!(refused(&inventory), (Some("3".into()), false));
}

#[test]
fn a_new_version_that_waits_leaves_the_old_one_in_use() {
    let mut inventory = Inventory::default();
    offer(&mut inventory, listener("web"), said("1"), vec![rds("old")], at(15), false);
    inventory.offer_part(rds("old"), said("o1"));
    apply(&mut inventory, 0);
    offer(&mut inventory, listener("web"), said("2"), vec![rds("new")], at(30), false);
    assert!(apply(&mut inventory, 1).is_empty());
    assert_eq!(wanted(&inventory, XdsType::Routes), ["new", "old"], "the old one is in use");
    let entries = inventory.entries();
    let web = entries.iter().find(|entry| &*entry.name == "web").unwrap();
    assert_eq!(web.good.as_ref().map(|(version, _)| &**version), Some("1"));
    assert_eq!(web.newest.as_ref().map(|(version, _)| &**version), Some("2"));
    assert_eq!(web.waits_for, [rds("new")]);
    inventory.offer_part(rds("new"), said("n1"));
    assert_eq!(apply(&mut inventory, 2), ["web@2(new@n1)"]);
    assert_eq!(wanted(&inventory, XdsType::Routes), ["new"]);
}

#[test]
fn a_part_that_is_refused_returns_to_its_last_good_version() {
    let mut inventory = Inventory::default();
    offer(&mut inventory, listener("web"), said("1"), vec![rds("r")], at(15), false);
    inventory.offer_part(rds("r"), said("bad"));
    let units = inventory.ready(at(0));
    let refused = inventory.refused(&units[0], Some(&rds("r")), "wrong", at(0));
    assert_eq!(refused, Some((XdsType::Routes, "r".into())));
    assert_eq!(apply(&mut inventory, 1), ["web@1(r@nothing)"], "it holds up nothing");
    inventory.offer_part(rds("r"), said("good"));
    assert_eq!(apply(&mut inventory, 1), ["web@1(r@good)"]);
    inventory.offer_part(rds("r"), said("bad"));
    let units = inventory.ready(at(2));
    // Nobody knows what is to blame: it is what is new.
    let refused = inventory.refused(&units[0], None, "wrong", at(2));
    assert_eq!(refused, Some((XdsType::Routes, "r".into())));
    assert_eq!(apply(&mut inventory, 2), ["web@1(r@good)"]);
    let entries = inventory.entries();
    let routes = entries.iter().find(|entry| entry.kind == XdsType::Routes).unwrap();
    assert_eq!(
        routes.refused.as_ref().map(|of| (&*of.version, &*of.problem)),
        Some(("bad", "wrong"))
    );
}

#[test]
fn a_new_version_does_not_begin_with_a_part_that_is_refused() {
    let mut inventory = Inventory::default();
    offer(&mut inventory, listener("web"), said("1"), vec![], at(0), false);
    apply(&mut inventory, 0);
    offer(&mut inventory, listener("web"), said("2"), vec![rds("r")], at(15), false);
    inventory.refuse(XdsType::Routes, "r", "1", "wrong", at(1));
    assert!(apply(&mut inventory, 1).is_empty(), "the old one serves");
}

#[test]
fn an_owner_that_is_refused_returns_to_its_last_good_version() {
    let mut inventory = Inventory::default();
    offer(&mut inventory, cluster("a"), said("1"), vec![], at(15), false);
    apply(&mut inventory, 0);
    offer(&mut inventory, cluster("a"), said("2"), vec![eds("a")], at(15), false);
    inventory.offer_part(eds("a"), said("e"));
    let units = inventory.ready(at(1));
    let refused = inventory.refused(&units[0], None, "wrong", at(1));
    assert_eq!(refused, Some((XdsType::Cluster, "a".into())));
    assert_eq!(apply(&mut inventory, 1), ["a@1()"]);
    inventory.refuse(XdsType::Cluster, "b", "9", "cannot be decoded", at(1));
    assert!(apply(&mut inventory, 1).is_empty());
    let names: Vec<&str> = inventory.names(OwnerKind::Cluster).map(|name| &**name).collect();
    assert_eq!(names, ["a", "b"], "a refused one can be removed as well");
    assert!(!inventory.remove(&cluster("b")), "it was not in use");
}

#[test]
fn planes_do_not_touch_what_the_bootstrap_has() {
    let mut inventory = Inventory::default();
    assert!(offer(&mut inventory, cluster("a"), said("1"), vec![], at(0), true));
    assert!(!offer(&mut inventory, cluster("a"), said("2"), vec![], at(0), false));
    assert!(!inventory.remove(&cluster("a")));
    assert_eq!(inventory.names(OwnerKind::Cluster).count(), 0);
    assert_eq!(apply(&mut inventory, 0), ["a@1()"]);
}

#[test]
fn a_version_that_says_the_same_is_not_applied_again() {
    let mut inventory = Inventory::default();
    offer(&mut inventory, cluster("a"), said("1"), vec![], at(0), false);
    apply(&mut inventory, 0);
    let (version, other) = ("2".into(), "3".into());
    assert!(inventory.renew(CDS, "a", &version, |content| content == "1"));
    assert!(!inventory.renew(CDS, "a", &other, |content| content == "9"));
    assert!(!inventory.renew(CDS, "b", &other, |_| true));
    assert!(apply(&mut inventory, 0).is_empty());
    assert_eq!(inventory.entries()[0].good.as_ref().map(|(version, _)| &**version), Some("2"));
    inventory.refuse(CDS, "a", "4", "wrong", at(1));
    assert!(!inventory.renew(CDS, "a", &other, |_| true), "what is refused is judged again");
}

const CDS: XdsType = XdsType::Cluster;

#[test]
fn a_listener_does_not_wait_for_ever_for_a_secret_and_a_cluster_is_not_used_without() {
    let sds = |name: &str| part(XdsType::Secret, name);
    let mut inventory = Inventory::default();
    offer(&mut inventory, cluster("a"), said("1"), vec![eds("a"), sds("s")], at(15), false);
    offer(&mut inventory, listener("web"), said("1"), vec![sds("s"), sds("t")], at(15), false);
    let changes = inventory.changes_of_need();
    inventory.offer_part(eds("a"), said("e1"));
    inventory.offer_part(sds("t"), said("t1"));
    assert!(apply(&mut inventory, 14).is_empty());
    assert_eq!(apply(&mut inventory, 15), ["web@1(s@nothing t@t1)"]);
    assert!(inventory.is_settled(OwnerKind::Cluster), "others do not wait for it");
    assert_eq!(inventory.next_deadline(), None);
    let entries = inventory.entries();
    let waiting = entries.iter().find(|entry| entry.kind == XdsType::Cluster);
    assert_eq!(waiting.map(|entry| &*entry.waits_for), Some(&[sds("s")][..]));
    assert!(apply(&mut inventory, 16).is_empty());
    inventory.offer_part(sds("s"), said("s1"));
    assert_eq!(apply(&mut inventory, 17), ["a@1(a@e1 s@s1)", "web@1(s@s1 t@t1)"]);
    // One that is rotated reaches everything that uses it, and one that is refused leaves its predecessor.
    inventory.offer_part(sds("s"), said("s2"));
    let units = inventory.ready(at(18));
    assert_eq!(units.len(), 2);
    let blamed = inventory.refused(&units[0], Some(&sds("s")), "no key", at(18));
    assert_eq!(blamed.map(|(kind, _)| kind), Some(XdsType::Secret));
    inventory.applied(&units[1]);
    assert_eq!(apply(&mut inventory, 19), ["a@1(a@e1 s@s1)", "web@1(s@s1 t@t1)"]);
    assert_eq!(inventory.changes_of_need(), changes, "what is needed is the same");
    inventory.remove(&cluster("a"));
    assert!(inventory.changes_of_need() > changes && inventory.is_needed(&sds("s")));
    assert!(!inventory.is_needed(&eds("a")));
}

#[test]
fn what_is_in_use_can_be_listed() {
    let mut inventory = Inventory::default();
    offer(&mut inventory, cluster("own"), said("1"), vec![], at(0), true);
    offer(&mut inventory, cluster("a"), said("1"), vec![eds("a")], at(15), false);
    offer(&mut inventory, listener("web"), said("1"), vec![rds("main")], at(15), false);
    inventory.offer_part(eds("a"), said("e1"));
    assert!(inventory.has(XdsType::Cluster, "own") && inventory.has(XdsType::Assignment, "a"));
    assert!(!inventory.has(XdsType::Routes, "main") && !inventory.has(XdsType::Cluster, "web"));
    apply(&mut inventory, 1);
    inventory.offer_part(eds("a"), said("e2"));
    let listed = inventory.in_use().map(|(kind, name, of)| format!("{kind} {name} {}", of.content));
    assert_eq!(listed.collect::<Vec<_>>(), ["cluster a 1", "endpoints a e1"]);
}

#[test]
fn virtual_hosts_come_and_go_with_their_table() {
    let mut inventory = Inventory::default();
    let (web, hosts) = (listener("web"), PartKey::hosts_of("a/b"));
    let host = |name: &str| part(XdsType::VirtualHost, name);
    let table = |version: &str, until: u64| {
        let needs = vec![NeedUntil { part: PartKey::hosts_of("a/b"), until: at(until) }];
        Versioned { needs: needs.into(), ..said(version) }
    };
    offer(&mut inventory, web.clone(), said("1"), vec![rds("a/b")], at(15), false);
    // Nobody needs hosts before a table says that it has some.
    inventory.offer_part(host("a/b/x"), said("early"));
    inventory.offer_part(rds("a/b"), table("r1", 15));
    assert_eq!(wanted(&inventory, XdsType::VirtualHost), ["a/b/"]);
    assert!(apply(&mut inventory, 1).is_empty());
    assert_eq!(
        inventory.late(at(15)).into_iter().collect::<Vec<_>>(),
        std::slice::from_ref(&hosts)
    );
    inventory.offer_part(host("a/b/x"), said("x1"));
    inventory.offer_part(host("a/c"), said("of another table"));
    inventory.offer_part(host("x"), said("of none"));
    inventory.arrive(&hosts);
    assert_eq!(apply(&mut inventory, 1), ["web@1(a/b@r1 a/b/x@x1)"]);
    // One more, and one that is refused.
    inventory.offer_part(host("a/b/y"), said("y1"));
    inventory.offer_part(host("a/b/x"), said("x2"));
    let units = inventory.ready(at(2));
    let refused = inventory.refused(&units[0], Some(&host("a/b/x")), "no", at(2));
    assert_eq!(refused, Some((XdsType::VirtualHost, "a/b/x".into())));
    assert_eq!(apply(&mut inventory, 2), ["web@1(a/b@r1 a/b/x@x1 a/b/y@y1)"]);
    assert!(inventory.remove_part(&host("a/b/x")));
    assert!(!inventory.remove_part(&host("a/b/x")) && !inventory.remove_part(&hosts));
    assert_eq!(apply(&mut inventory, 3), ["web@1(a/b@r1 a/b/y@y1)"]);
    // The next version of the table has none: they are kept until it is in use.
    inventory.offer_part(rds("a/b"), said("r2"));
    assert_eq!(wanted(&inventory, XdsType::VirtualHost), ["a/b/"]);
    assert_eq!(apply(&mut inventory, 4), ["web@1(a/b@r2)"]);
    assert!(wanted(&inventory, XdsType::VirtualHost).is_empty());
    assert!(!inventory.has(XdsType::VirtualHost, "a/b/y"));
    // What the last one needed leaves with its owner.
    inventory.offer_part(rds("a/b"), table("r3", 15));
    assert!(inventory.remove(&web));
    assert_eq!(inventory.needed().count(), 0);
}

#[test]
fn a_table_without_hosts_in_time_begins_without() {
    let mut inventory = Inventory::default();
    offer(&mut inventory, listener("web"), said("1"), vec![rds("r")], at(15), false);
    let needs = vec![NeedUntil { part: PartKey::hosts_of("r"), until: at(20) }];
    inventory.offer_part(rds("r"), Versioned { needs: needs.into(), ..said("r1") });
    assert_eq!(inventory.next_deadline(), Some(at(20)));
    assert!(apply(&mut inventory, 19).is_empty());
    assert_eq!(apply(&mut inventory, 20), ["web@1(r@r1)"]);
    // They come later.
    inventory.offer_part(part(XdsType::VirtualHost, "r/x"), said("x1"));
    assert_eq!(apply(&mut inventory, 21), ["web@1(r@r1 r/x@x1)"]);
}
