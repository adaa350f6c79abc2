//! Filters that ask a cluster, and that use a secret, through the store.

use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use sluice_core::{SecretSource, Setting as _, Shape, Value};
use sluice_io::{ConnectionFilter, WorkerCx};
use sluice_l4::filters::{Content, LiveSecret};

use super::*;
use crate::compile::{SharedParts, Surroundings};
use crate::files::{FilesInput, stage_files};
use crate::model::listener::{Listener, Traffic};
use crate::model::{Resource, Secret};
use crate::reach::clusters_of;
use crate::store::tests::kit;
use crate::store::{Batch, BatchMode, Staged, Store, Update, stage as stage_batch};
use crate::trees::{bind, list, map, text};

/// `asks: CLUSTER`; `bytes` is the name of one that changes bytes as well.
#[derive(Debug)]
struct Asks(&'static str);

impl FilterFactory<dyn ConnectionFilterPlan> for Asks {
    fn name(&self) -> &'static str {
        self.0
    }

    fn help(&self) -> &'static str {
        "Asks a cluster."
    }

    fn shape(&self) -> Shape {
        Shape::Any
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let Value::Scalar { text, .. } = &settings.value else { panic!("a name") };
        let name = Spanned { value: Arc::clone(text), span: settings.span };
        context.cluster(&name, "cluster")?;
        Some(Arc::new(AskingPlan { bytes: self.0 == "bytes" }))
    }
}

#[derive(Debug)]
struct AskingPlan {
    bytes: bool,
}

impl ConnectionFilterPlan for AskingPlan {
    fn filters_bytes(&self) -> bool {
        self.bytes
    }

    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn ConnectionFilter> {
        unreachable!("no worker runs here")
    }
}

/// `locked: SECRET`: keeps the secrets of all its uses, so that a test can look.
#[derive(Debug, Default)]
struct Locked(Mutex<Vec<LiveSecret<Digits>>>);

/// A secret of digits.
#[derive(Debug)]
struct Digits(String);

impl Content for Digits {
    fn parse(content: &[u8]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(content).into_owned();
        let fits = text.bytes().all(|byte| byte.is_ascii_digit());
        if fits { Ok(Self(text)) } else { Err("it has other characters than digits".into()) }
    }
}

impl Locked {
    fn now(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|secret| secret.current().0.clone()).collect()
    }
}

impl FilterFactory<dyn ConnectionFilterPlan> for Locked {
    fn name(&self) -> &'static str {
        "locked"
    }

    fn help(&self) -> &'static str {
        "Uses a secret."
    }

    fn shape(&self) -> Shape {
        SecretSource::shape()
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let source: SecretSource = context.bind(settings)?;
        let secret = context.secret(&source, "pin")?;
        self.0.lock().unwrap().push(secret);
        Some(Arc::new(AskingPlan { bytes: false }))
    }
}

/// A listener that relays to `app` with these filters, and the clusters `app` and `auth`.
fn config(filters: Vec<Node>, address: &str) -> Node {
    let listener = map(&[
        ("name", text("l")),
        ("address", text(address)),
        ("filters", list(filters)),
        ("relay", text("app")),
    ]);
    let clusters = map(&[("app", text("127.0.0.1:1")), ("auth", text("127.0.0.1:2"))]);
    map(&[("listeners", list(vec![listener])), ("clusters", clusters)])
}

fn stage(root: Node, store: &Store, around: &Surroundings) -> (Option<Staged>, Vec<String>) {
    let input = FilesInput {
        config: bind(&root),
        root,
        folder: std::path::Path::new("."),
        endpoint_files: &Default::default(),
        tables: Vec::new(),
        discovered: false,
    };
    let (mut shared, mut diags) = (SharedParts::default(), Diags::new());
    let now = Duration::ZERO;
    let staged = stage_files(input, store, around, &mut shared, now, &mut diags);
    let found = diags.iter().map(|found| format!("{}: {}", found.path, found.message)).collect();
    (staged.map(|(_, staged)| staged), found)
}

fn surroundings() -> Surroundings {
    let all = ["asks", "bytes"].map(|name| Arc::new(Asks(name)) as Arc<dyn FilterFactory<_>>);
    Surroundings::new(all.into_iter().collect(), sluice_l7::filters::built_in())
}

#[test]
fn a_cluster_that_a_filter_asks_is_used_and_reached() {
    let (around, mut store) = (surroundings(), Store::default());
    let unused = "clusters.auth: the cluster `auth` is not used";
    let (staged, found) = stage(config(Vec::new(), "127.0.0.1:7"), &store, &around);
    assert_eq!(found, [unused]);
    store.commit(staged.unwrap(), &around);

    let asks = || config(vec![map(&[("asks", text("auth"))])], "127.0.0.1:7");
    let (staged, found) = stage(asks(), &store, &around);
    assert!(found.is_empty(), "{found:?}");
    store.commit(staged.unwrap(), &around);
    let name: Name = "l".into();
    let reached = clusters_of(&store, &name, store.listener("l").unwrap());
    assert!(reached.iter().map(|name| &**name).eq(["app", "auth"]), "{reached:?}");
    // The same files again: the listener is not compiled, and what it asks is still known.
    assert!(stage(asks(), &store, &around).1.is_empty());
    // What is replaced or removed asks nothing any more.
    assert_eq!(stage(config(Vec::new(), "127.0.0.1:7"), &store, &around).1, [unused]);

    let (staged, found) =
        stage(config(vec![map(&[("asks", text("auht"))])], "127.0.0.1:7"), &store, &around);
    assert!(staged.is_none());
    assert_eq!(found, ["listeners[0].filters[0].asks.cluster: there is no cluster `auht`"]);
}

#[test]
fn bytes_pass_through_filters_on_relays_of_connections_only() {
    let (around, store) = (surroundings(), Store::default());
    let filters = || vec![map(&[("bytes", text("auth"))])];
    assert!(stage(config(filters(), "127.0.0.1:7"), &store, &around).1.is_empty());
    let (staged, found) = stage(config(filters(), "udp://127.0.0.1:7"), &store, &around);
    assert!(staged.is_none());
    assert_eq!(
        found,
        [
            "listeners[0].filters[0].bytes: the filter `bytes` is about bytes, which only a relay moves"
        ]
    );
}

/// The configuration above with a filter that uses a secret, and these secrets.
fn locked(source: Node, secrets: &[(&str, &str)]) -> Node {
    let mut root = config(vec![map(&[("locked", source)])], "127.0.0.1:7");
    let secrets: Vec<_> = secrets.iter().map(|(name, value)| (*name, text(value))).collect();
    let more = map(&[("secrets", map(&secrets))]);
    if let (Value::Map(all), Value::Map(more)) = (&mut root.value, more.value) {
        all.extend(more);
    }
    root
}

fn with_secrets() -> (Surroundings, Arc<Locked>) {
    let filter = Arc::new(Locked::default());
    let all = [Arc::clone(&filter) as Arc<dyn FilterFactory<_>>];
    let around = Surroundings::new(all.into_iter().collect(), sluice_l7::filters::built_in());
    (around, filter)
}

#[test]
fn a_secret_follows_a_rotation_without_a_new_filter() {
    let ((around, filter), mut store) = (with_secrets(), Store::default());
    let auth = "clusters.auth: the cluster `auth` is not used";
    let named = || map(&[("secret", text("pin"))]);
    for (pin, expected) in [("1", "1"), ("2", "2"), ("two", "2"), ("3", "3")] {
        let (staged, found) = stage(locked(named(), &[("pin", pin)]), &store, &around);
        assert_eq!(found, [auth]);
        store.commit(staged.unwrap(), &around);
        assert_eq!(filter.now(), [expected], "after {pin}");
    }
    // What a rejected configuration says changes nothing.
    let typo = map(&[("secret", text("pni"))]);
    let (staged, found) = stage(locked(typo, &[("pin", "4")]), &store, &around);
    assert!(staged.is_none());
    assert_eq!(found, ["listeners[0].filters[0].locked.pin: there is no secret `pni`"]);
    assert_eq!(filter.now(), ["3"]);
}

#[test]
fn names_of_secrets_are_checked() {
    let (around, _filter) = with_secrets();
    let mut store = Store::default();
    let auth = "clusters.auth: the cluster `auth` is not used";
    let found = |root: Node, store: &Store| stage(root, store, &around).1;
    let own = locked(text("12"), &[("pin", "1")]);
    assert_eq!(found(own, &store), ["secrets.pin: the secret `pin` is not used", auth]);
    let at = "listeners[0].filters[0].locked.pin";
    let typo = locked(map(&[("secret", text("pni"))]), &[("pin", "1")]);
    let mut diags = Diags::new();
    let input = FilesInput {
        config: bind(&typo),
        root: typo,
        folder: std::path::Path::new("."),
        endpoint_files: &Default::default(),
        tables: Vec::new(),
        discovered: false,
    };
    let now = Duration::ZERO;
    assert!(
        stage_files(input, &store, &around, &mut SharedParts::default(), now, &mut diags).is_none()
    );
    let error = &diags.into_sorted()[0];
    assert_eq!(error.message, "there is no secret `pni`");
    assert_eq!(error.help.as_deref(), Some("did you mean `pin`?"));
    assert_eq!(
        found(locked(text("ab"), &[]), &store),
        [format!("{at}: cannot use this secret: it has other characters than digits")]
    );

    // A secret that leaves while a filter names it, on a listener that does not change.
    let named = || map(&[("secret", text("pin"))]);
    let (staged, _) = stage(locked(named(), &[("pin", "1")]), &store, &around);
    store.commit(staged.unwrap(), &around);
    assert_eq!(found(locked(named(), &[]), &store), [format!("{at}: there is no secret `pin`")]);
}

#[test]
fn a_listener_of_a_control_plane_waits_for_the_secrets_of_its_filters() {
    let ((around, filter), mut store) = (with_secrets(), Store::default());
    let Resource::Listener(plain) = kit::listener(1, kit::relay("app")) else { unreachable!() };
    let settings = map(&[("secret", text("pin"))]);
    let filters = vec![FilterConfig { name: "locked".into(), settings }];
    let Traffic::Streams(streams) = &plain.traffic else { unreachable!() };
    let traffic = Traffic::Streams(streams.clone());
    let listener = Arc::new(Listener { filters, traffic, ..(*plain).clone() });
    let mut shared = SharedParts::default();
    let mut apply = |name: &str, resource: Resource| -> Vec<String> {
        let updates: Vec<Update> = vec![kit::set(name, resource)];
        let mode = BatchMode::Plane { patience: Duration::from_secs(15) };
        let batch = Batch { source: "plane".into(), updates, mode };
        let (now, mut diags) = (Duration::ZERO, Diags::new());
        let staged = stage_batch(&store, batch, &around, &mut shared, now, &mut diags);
        let verdicts = staged.verdicts.iter().map(ToString::to_string).collect();
        store.commit(staged, &around);
        verdicts
    };
    let pin = |text: &str| {
        let text = SecretText::new(text.as_bytes()).unwrap();
        Resource::Secret(Arc::new(Secret::Text(text)))
    };
    let edge = Resource::Listener(listener);
    assert_eq!(apply("edge", edge), ["listener edge: waits for secret pin"]);
    assert_eq!(apply("pin", pin("1")), ["secret pin: added", "listener edge: added"]);
    assert_eq!(filter.now(), ["1"]);
    assert_eq!(apply("pin", pin("2")), ["secret pin: changed"]);
    assert_eq!(filter.now(), ["2"]);
}
