//! Requests that wait for a virtual host or scope which a control plane is asked for, and whose time only the test advances.

use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::limits::Limits;
use sluice_core::value::HostPattern;
use sluice_upstream::ClusterDirectory;
use sluice_upstream::demand::{DemandQuestion, Demanded};
use tokio::sync::mpsc;

use super::SECOND;

use super::kit::{Bench, plan, response};
use crate::plan::{HostDemand, HttpOptions, ScopeDemand};
use crate::reasons;
use crate::routes::{
    Action, HostScope, PathMatch, RouteCell, RouteTable, Rule, RuleOptions, ScopeElement,
    ScopeKeyPart, VirtualHost,
};

/// What is waited for.
#[derive(Clone, Copy)]
enum Waited {
    Host,
    Scope,
}

impl Waited {
    fn demanded(self) -> Demanded {
        match self {
            Self::Host => Demanded::Host("table/late.test".into()),
            Self::Scope => Demanded::Scope("blue\0".into()),
        }
    }

    /// How the record calls it.
    fn told(self) -> &'static str {
        match self {
            Self::Host => "virtual host `table/late.test`",
            Self::Scope => "scope `blue`",
        }
    }
}

/// A chain whose requests wait, its routes, and the questions.
struct OnDemand {
    bench: Bench,
    cell: Arc<RouteCell>,
    directory: Arc<ClusterDirectory>,
    asked: mpsc::Receiver<DemandQuestion>,
    waited: Waited,
}

fn key() -> Arc<[ScopeKeyPart]> {
    let header = "x-tenant".into();
    [ScopeKeyPart { header, separator: None, element: ScopeElement::Index(0) }].into()
}

impl OnDemand {
    fn new(waited: Waited) -> Self {
        let (mut plan, cluster) = plan(RuleOptions::default(), &[], &[]);
        let wait = SECOND * 15;
        let (hosts, scopes) = match waited {
            Waited::Host => (Some(HostDemand { table: "table".into(), wait }), None),
            Waited::Scope => (None, Some(ScopeDemand { key: key(), wait })),
        };
        plan.options = HttpOptions {
            hosts_on_demand: hosts,
            scopes_on_demand: scopes,
            ..plan.options.clone()
        };
        let directory = Arc::<ClusterDirectory>::default();
        let (desk, asked) = mpsc::channel(8);
        directory.demands.open(desk);
        let empty = RouteTable::build(Vec::new(), Vec::new(), Arc::clone(&directory), Vec::new());
        let cell = Arc::new(RouteCell::new("main".into(), Arc::new(empty.unwrap())));
        plan.routes = Arc::clone(&cell);
        let bench = Bench::of(Limits::default(), plan, cluster);
        Self { bench, cell, directory, asked, waited }
    }

    /// The routes come.
    fn come(&self) {
        let rule = Rule {
            name: "late".into(),
            path: PathMatch::Any,
            conditions: None,
            action: Action::Cluster(0),
            options: Arc::default(),
            overrides: 0,
        };
        let mut host = VirtualHost::new(vec![HostPattern::Exact("late.test".into())], vec![rule]);
        if let Waited::Scope = self.waited {
            let values = vec![["blue".into()].into()];
            host.scope = Some(Box::new(HostScope { key: key(), values }));
        }
        let clusters = vec![Arc::clone(&self.bench.cluster)];
        let directory = Arc::clone(&self.directory);
        let table = RouteTable::build(vec![host], clusters, directory, Vec::new()).unwrap();
        self.cell.set(Arc::new(table));
    }

    fn request() -> Head {
        let mut head = Head::request("GET", "http", "Late.test", "/");
        head.append(b"x-tenant", b"blue");
        head
    }
}

#[test]
fn a_wait_that_nobody_answers_ends() {
    for waited in [Waited::Host, Waited::Scope] {
        let mut on_demand = OnDemand::new(waited);
        let mut request = on_demand.bench.serve(OnDemand::request(), true);
        let question = on_demand.asked.try_recv().unwrap();
        assert_eq!(question.what, waited.demanded());
        assert!(request.pass(Duration::from_millis(14_900)).is_waiting());
        request.pass(SECOND / 5).check(404, reasons::ROUTE_UNMATCHED);
        let detail = request.ended().detail.as_deref().unwrap_or_default();
        assert_eq!(detail, format!("the {} has not come within 15s", waited.told()));
        assert!(question.answer.is_closed(), "who gave up is not waited for");
        // What comes later is for later requests, which do not wait.
        drop(request);
        on_demand.come();
        let endpoint = on_demand.bench.connects(false);
        let mut later = on_demand.bench.serve(OnDemand::request(), true);
        later.after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
        drop(later);
        assert!(on_demand.asked.try_recv().is_err());
    }
}

#[test]
fn a_request_goes_on_with_the_routes_that_came() {
    for waited in [Waited::Host, Waited::Scope] {
        let mut on_demand = OnDemand::new(waited);
        let mut request = on_demand.bench.serve(OnDemand::request(), true);
        request.pass(SECOND * 14);
        let question = on_demand.asked.try_recv().unwrap();
        on_demand.come();
        let endpoint = on_demand.bench.connects(false);
        question.answer.send(true).unwrap();
        request.go_on().after(&endpoint, response(200, true)).check(200, reasons::VIA_UPSTREAM);
    }
}

#[test]
fn a_request_of_what_the_plane_does_not_have_ends_at_once() {
    for waited in [Waited::Host, Waited::Scope] {
        let mut on_demand = OnDemand::new(waited);
        let mut request = on_demand.bench.serve(OnDemand::request(), true);
        on_demand.asked.try_recv().unwrap().answer.send(false).unwrap();
        request.go_on().check(404, reasons::ROUTE_UNMATCHED);
        let detail = request.ended().detail.as_deref().unwrap_or_default();
        assert_eq!(detail, format!("there is no {}", waited.told()));
    }
}
