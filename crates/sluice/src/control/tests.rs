//! Updates as a control plane makes them, on a control thread with real workers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use sluice_core::Endpoint;
use sluice_model::model::listener::{ChainKind, RelayTo, Service, Traffic};
use sluice_model::model::{Cluster as ClusterModel, Kind, Resource};
use sluice_model::provenance::Provenance;
use sluice_model::store::{Batch, BatchMode, Update};
use sluice_sys::process;
use sluice_upstream::plan::{ClusterSettings, EndpointPlan};

use sluice_core::ListenAddress;

use super::*;

mod many_endpoints;

/// A process with one worker that was started with a configuration, driven from `test`.
fn with_control<T>(yaml: &str, test: impl AsyncFnOnce(Rc<Control>) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sluice.yaml");
    std::fs::write(&config, yaml).unwrap();
    let builder = ConfigBuilder::new(crate::Extensions::default(), ConfigForm::Native);
    let built = builder.build(&config, &Store::default());
    let built = built.unwrap_or_else(|rejected| panic!("{rejected}"));
    let options = Options {
        config,
        workers: 1,
        files: 20_000,
        report: None,
        watch: false,
        takeover: false,
        process_log: Rc::new(ProcessLog::silent()),
        #[cfg(feature = "envoy")]
        planes: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let control = Control::start(&options, built, builder).await.unwrap();
        control.stage.set(Stage::Ready);
        test(control).await
    })
}

async fn apply(control: &Control, updates: Vec<Update>) -> Vec<String> {
    let mode = BatchMode::Plane { patience: Duration::from_secs(15) };
    let batch = Batch { source: "plane".into(), updates, mode };
    let verdicts = control.apply(batch).await.unwrap();
    verdicts.iter().map(ToString::to_string).collect()
}

fn set(name: &str, resource: Resource) -> Update {
    Update::set(&name.into(), resource, Provenance::Plane { version: "1".into() })
}

fn cluster() -> Resource {
    Resource::Cluster(Arc::new(ClusterModel {
        settings: ClusterSettings::bare(),
        tls: None,
        endpoint_file: None,
    }))
}

fn endpoint(address: SocketAddr) -> Resource {
    let address = Endpoint::Ip(address);
    Resource::Endpoints(Arc::new([EndpointPlan { address, traits: Arc::default() }]))
}

/// A listener like the one that files configured, on another address and for another cluster.
fn listener_like(control: &Control, name: &str, address: SocketAddr, cluster: &str) -> Resource {
    let mut listener = control.store.borrow().listener(name).unwrap().clone();
    listener.addresses = vec![ListenAddress::Tcp(address)];
    let Traffic::Streams(streams) = &mut listener.traffic else { panic!("it takes connections") };
    let ChainKind::Plain(Service::Relay { to, .. }) = &mut streams.chains[0].kind else {
        panic!("it relays")
    };
    *to = RelayTo::cluster(cluster.into());
    Resource::Listener(Arc::new(listener))
}

fn address_of(control: &Control, listener: &str) -> SocketAddr {
    let sockets = control.sockets.borrow();
    let bound = sockets.iter().find(|bound| *bound.listener == *listener).unwrap();
    let ListenAddress::Tcp(address) = bound.address else { panic!("a TCP listener") };
    address
}

/// A server that greets every client by a letter.
fn greeter(letter: u8) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(&[letter]));
        }
    });
    address
}

/// What a client of `listener` is greeted with; `None` if its connection is closed.
async fn greeting(listener: SocketAddr) -> Option<u8> {
    let ask = move || {
        let mut byte = [0];
        let mut stream = TcpStream::connect(listener).ok()?;
        stream.read_exact(&mut byte).ok().map(|()| byte[0])
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[test]
fn updates_take_effect_one_by_one_and_leave_the_rest_alone() {
    let (a, b) = (greeter(b'a'), greeter(b'b'));
    let yaml = format!(
        "listeners: [{{ name: files, address: 127.0.0.1:0, relay: own }}]\nclusters: {{ own: \"{a}\" }}"
    );
    with_control(&yaml, async |control| {
        let files = address_of(&control, "files");
        assert_eq!(greeting(files).await, Some(b'a'));

        // A listener whose cluster does not exist yet refuses its connections, and serves once it does.
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let edge = listener_like(&control, "files", any, "later");
        assert_eq!(apply(&control, vec![set("edge", edge)]).await, ["listener edge: added"]);
        let edge = address_of(&control, "edge");
        assert_eq!(greeting(edge).await, None);
        let later = vec![set("later", cluster()), set("later", endpoint(a))];
        assert_eq!(
            apply(&control, later).await,
            ["endpoints later: added", "cluster later: added"]
        );
        assert_eq!(greeting(edge).await, Some(b'a'));
        assert_eq!(
            apply(&control, vec![set("later", endpoint(b))]).await,
            ["endpoints later: changed"]
        );
        assert_eq!(greeting(edge).await, Some(b'b'));

        // What files own stays theirs, and one listener that cannot be served does not hold up another.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = (taken.local_addr().unwrap(), taken);
        let (wrong, right) = (
            listener_like(&control, "files", taken.0, "later"),
            listener_like(&control, "files", any, "later"),
        );
        let verdicts = apply(
            &control,
            vec![set("own", endpoint(b)), set("wrong", wrong), set("right", right)],
        )
        .await;
        assert_eq!(
            verdicts[0],
            "endpoints own: rejected: endpoints `own`: configured by the configuration files"
        );
        assert!(verdicts[1].starts_with("listener wrong: rejected: addresses: "), "{verdicts:?}");
        assert_eq!(verdicts[2], "listener right: added");
        assert_eq!(greeting(address_of(&control, "right")).await, Some(b'b'));
        assert_eq!(greeting(files).await, Some(b'a'));

        let gone = ["edge", "right"]
            .map(|name| Update::Remove { kind: Kind::Listener, name: name.into() });
        apply(&control, gone.into()).await;
        // A connection that the system queued before the socket is closed is still served.
        while greeting(edge).await.is_some() {}
        assert_eq!(control.sockets.borrow().iter().count(), 1);
        assert_eq!(greeting(files).await, Some(b'a'));
    });
}

#[test]
fn what_waits_is_given_up_after_its_time() {
    with_control(
        "listeners: [{ address: 127.0.0.1:0, relay: a }]\nclusters: { a: 127.0.0.1:1 }",
        async |control| {
            let mode = BatchMode::Plane { patience: Duration::ZERO };
            let updates = vec![set("b", cluster())];
            control.apply(Batch { source: "plane".into(), updates, mode }).await.unwrap();
            let items = resources::list(&control.store.borrow(), None, &control.endpoint_files);
            let item = items.iter().find(|item| item["name"] == "b").unwrap();
            assert_eq!(item["newest"]["waits_for"], serde_json::json!(["endpoints b"]));
            control.next_deadline().await;
            control.expire().await;
            assert_eq!(control.store.borrow().next_deadline(), None);
            let items = resources::list(&control.store.borrow(), None, &control.endpoint_files);
            let item = items.iter().find(|item| item["name"] == "b").unwrap();
            assert_eq!((&item["kind"], &item["state"]), (&"cluster".into(), &"rejected".into()));
            let error = item["newest"]["errors"][0].as_str().unwrap();
            assert_eq!(error, "it waited for the endpoints b, which did not come");
        },
    );
}

/// Prints what one update among many clusters costs the control thread. `SLUICE_BENCH_CLUSTERS` sets how many: see
/// docs/performance.md.
#[test]
#[allow(clippy::print_stdout, reason = "it is the output of the measurement")]
fn one_update_among_many_clusters() {
    let many = std::env::var("SLUICE_BENCH_CLUSTERS");
    let many: u32 = many.map_or(100, |many| many.parse().expect("a number of clusters"));
    let mut yaml = String::from(
        "listeners: [{ name: web, address: 127.0.0.1:0, http: all }]\nroutes: { all: { cluster: c0 } }\nclusters:\n",
    );
    for number in 0..many {
        let tls = if number % 2 == 0 { "" } else { ", tls: {}" };
        yaml += &format!("  c{number}: {{ endpoints: [127.0.0.1:1]{tls} }}\n");
    }
    with_control(&yaml, async |control| {
        let table = {
            let store = control.store.borrow();
            store.routes_named("all").unwrap().0.clone()
        };
        let at = |port: u16| endpoint(([127, 0, 0, 1], port).into());
        let settings = |attempts: u32| {
            let bare = ClusterSettings::clone(&ClusterSettings::bare());
            let settings = ClusterSettings { connect_attempts: attempts, ..bare };
            Resource::Cluster(Arc::new(ClusterModel {
                settings: Arc::new(settings),
                tls: None,
                endpoint_file: None,
            }))
        };
        let number = |of: u16| format!("x{of}");
        type Updates<'a> = &'a dyn Fn(u16) -> Vec<Update>;
        let of_kind: [(&str, Updates<'_>); 4] = [
            ("a new cluster with its endpoint", &|of| {
                vec![set(&number(of), cluster()), set(&number(of), at(1))]
            }),
            ("another endpoint", &|of| vec![set(&number(of), at(2))]),
            ("other settings of a cluster", &|of| vec![set(&number(of), settings(7))]),
            ("a route table", &|of| {
                vec![set(&number(of), Resource::Routes(Arc::new(table.clone())))]
            }),
        ];
        for (what, update) in of_kind {
            const TIMES: u16 = 100;
            let before = process::thread_cpu();
            for of in 0..TIMES {
                let verdicts = apply(&control, update(of)).await;
                let applied = |verdict: &&String| {
                    verdict.ends_with(": added") || verdict.ends_with(": changed")
                };
                assert_eq!(verdicts.iter().filter(applied).count(), verdicts.len());
            }
            let each = (process::thread_cpu() - before) / u32::from(TIMES);
            println!("{what}: {} us on the control thread", each.as_micros());
        }
    });
}

#[test]
fn decisions_of_operators_are_bounded_and_can_be_taken_back() {
    let yaml = "listeners: [{ name: a, address: 127.0.0.1:0, relay: up }, { name: b, address: 127.0.0.1:0, relay: up }]\n\
                clusters: { up: { endpoints: [\"127.0.0.1:1\", \"127.0.0.1:2\"] } }\n\
                limits: { overrides: 1 }\n";
    with_control(yaml, async |control| {
        let decide = |cluster: &str, port: u16, action: &str| {
            control.decide(&overrides::EndpointDecision {
                cluster: cluster.into(),
                address: format!("127.0.0.1:{port}"),
                action: action.into(),
                weight: None,
                lasts: None,
            })
        };
        let says = |result: Result<String, String>, text: &str| {
            let said = result.unwrap_or_else(|problem| problem);
            assert!(said.contains(text), "{said}");
        };
        says(decide("up", 1, "drain"), "drain");
        says(decide("up", 2, "drain"), "as many as `limits.overrides` allows");
        says(decide("up", 1, "maintenance"), "maintenance");
        says(decide("up", 1, "ready"), "`maintenance` was removed");
        says(decide("up", 1, "ready"), "it had no override");
        says(decide("up", 2, "drain"), "drain");
        says(decide("down", 2, "drain"), "known clusters: up");
        says(control.operate_listener("a", "pause").await, "backlog");
        let beyond = "as many listeners are paused as `limits.overrides` allows";
        says(control.operate_listener("b", "pause").await, beyond);
        says(control.operate_listener("a", "resume").await, "accepts connections again");
        says(control.operate_listener("b", "stop").await, "pause or resume");
    });
}
