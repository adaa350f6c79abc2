//! A filter that asks a cluster, through the store.

use std::rc::Rc;

use sluice_core::{Shape, Value};
use sluice_io::{ConnectionFilter, WorkerCx};

use super::*;
use crate::compile::{SharedParts, Surroundings};
use crate::files::{FilesInput, stage_files};
use crate::reach::clusters_of;
use crate::store::{Staged, Store};
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
    let input = FilesInput { config: bind(&root), root, folder: std::path::Path::new(".") };
    let (mut shared, mut diags) = (SharedParts::default(), Diags::new());
    let now = std::time::Duration::ZERO;
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
            "listeners[0].filters[0].bytes: the filter `bytes` changes bytes, which only a relay moves"
        ]
    );
}
