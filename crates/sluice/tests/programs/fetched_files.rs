//! A connection filter that takes its list from a file, in a program of its own that runs.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::limits::Limit;
use sluice_core::{ConnInfo, Node, Setting, Shape, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_l4::filters::{
    CheckContext, Content, FetchSchedule, Fetched, FileOrigin, FilterFactory,
};
use sluice_testkit::peers::{self, Server};
use sluice_testkit::{Running, Sluice, wait};

use crate::binary;

sluice_core::section! {
    /// Only connections from the addresses in a file.
    pub(crate) struct Sources {
        /// The file: an address in each line.
        pub path: PathBuf,
    }
}

struct AddressList(Vec<IpAddr>);

impl Content for AddressList {
    fn parse(content: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8")?;
        let addresses: Result<_, _> = text.lines().map(str::parse).collect();
        addresses.map(Self).map_err(|_| "a line is not an address".into())
    }
}

#[derive(Debug)]
struct Factory;

impl FilterFactory<dyn ConnectionFilterPlan> for Factory {
    fn name(&self) -> &'static str {
        "sources"
    }

    fn help(&self) -> &'static str {
        "Only connections from the addresses in a file."
    }

    fn shape(&self) -> Shape {
        Sources::shape()
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let Sources { path } = context.bind(settings)?;
        let path = context.path(&path, "path")?;
        let addresses = context
            .fetch(FileOrigin { path, limit: Limit::SideCallBytes }, FetchSchedule::default());
        Some(Arc::new(Listed { addresses }))
    }
}

/// The plan, and the filter on each worker.
#[derive(Clone, Debug)]
struct Listed {
    addresses: Fetched<AddressList>,
}

impl ConnectionFilterPlan for Listed {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(self.clone())
    }
}

impl ConnectionFilter for Listed {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        let source = conn.source().socket().map(|source| source.ip());
        let is_listed = |list: &AddressList| source.is_some_and(|ip| list.0.contains(&ip));
        let admitted = self.addresses.current().is_some_and(|list| is_listed(&list));
        let denied = Verdict::Reject(sluice_l4::reasons::DENIED);
        Admit::Now(if admitted { Verdict::Continue } else { denied })
    }
}

pub(crate) fn run() -> ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.connection.register(Arc::new(Factory));
    sluice::main_with(extensions)
}

pub(crate) fn test() {
    a_file_is_read_again_when_it_changes();
}

/// Moves new content into place.
fn write(folder: &Path, content: &str) {
    std::fs::write(folder.join("sources.new"), content).unwrap();
    std::fs::rename(folder.join("sources.new"), folder.join("sources")).unwrap();
}

fn passes(sluice: &Running) -> bool {
    let mut stream = peers::connect(sluice.addr("raw"));
    let mut echoed = Vec::new();
    // A connection that is refused may break at either step.
    stream.write_all(b"x").is_ok()
        && stream.shutdown(std::net::Shutdown::Write).is_ok()
        && stream.read_to_end(&mut echoed).is_ok()
        && echoed == b"x"
}

fn a_file_is_read_again_when_it_changes() {
    let echo = Server::echo();
    let kit = Sluice::with_binary(binary(module_path!())).workers(1).watching();
    let kit = kit.expect_warning("cannot fetch");
    write(kit.folder(), "127.0.0.1\n");
    let sluice = kit.start(&format!(
        "listeners: [{{ name: raw, address: 127.0.0.1:0, relay: up, filters: [{{ sources: {{ path: sources }} }}] }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        echo.addr()
    ));
    wait::until("the first content", || passes(&sluice).then_some(()));
    write(sluice.folder(), "192.0.2.1\n");
    wait::until("the new content", || (!passes(&sluice)).then_some(()));
    write(sluice.folder(), "192.0.2.1\n127.0.0.1\n");
    wait::until("the address", || passes(&sluice).then_some(()));
    // What does not parse, or is gone, leaves the last content in use.
    write(sluice.folder(), "localhost\n");
    let failure = |part: &str| {
        let said = sluice.items("/fetches")[0]["failure"].as_str().map(str::to_owned);
        said.filter(|said| said.contains(part))
    };
    wait::until("the refusal of the content", || failure("a line is not an address"));
    assert!(passes(&sluice));
    std::fs::remove_file(sluice.folder().join("sources")).unwrap();
    wait::until("the failure to read", || failure("cannot be read"));
    assert!(passes(&sluice));
    write(sluice.folder(), "192.0.2.1\n");
    wait::until("the file that is back", || (!passes(&sluice)).then_some(()));
    assert!(sluice.reloads().is_empty(), "the configuration has not changed");
    assert!(sluice.metric("sluice_fetches_total", "result=\"invalid\"") > 0);
}
