//! Filters that move requests to another route, by the path or by a value that they share, in a program of their own.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{Node, Setting as _, Shape, ValueDef};
use sluice_io::WorkerCx;
use sluice_l7::filters::{CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan};
use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Sluice};

use crate::binary;

sluice_core::section! {
    /// Moves every request.
    pub struct MoveTo {
        /// The new path.
        pub path: String,
    }
}

#[derive(Debug)]
struct Factory;

impl FilterFactory<dyn HttpFilterPlan> for Factory {
    fn name(&self) -> &'static str {
        "move_to"
    }

    fn help(&self) -> &'static str {
        "Moves every request to another path, and to the route of that path."
    }

    fn shape(&self) -> Shape {
        MoveTo::shape()
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        Some(Arc::new(Moving(context.bind::<MoveTo>(settings)?.path)))
    }
}

#[derive(Clone, Debug)]
struct Moving(String);

impl HttpFilterPlan for Moving {
    fn edits_target(&self) -> bool {
        true
    }

    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.clone())
    }
}

impl HttpFilter for Moving {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        head.set_path(self.0.as_bytes());
        cx.reroute();
        HeadStep::Continue
    }
}

sluice_core::values! {
    TIER: String = "tier.name", "The tier of the client.";
}

sluice_core::section! {
    /// Reads the tier of a request.
    pub struct Tier {
        /// The header that contains it.
        pub header: String = "x-tier",
    }
}

/// The factory, the plan and the filter, with the name of the header.
#[derive(Clone, Debug, Default)]
struct Tiers(String);

impl FilterFactory<dyn HttpFilterPlan> for Tiers {
    fn name(&self) -> &'static str {
        "tier"
    }

    fn help(&self) -> &'static str {
        "Reads the tier of a request, and has its route selected by it."
    }

    fn shape(&self) -> Shape {
        Tier::shape()
    }

    fn values(&self) -> &'static [ValueDef] {
        VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        Some(Arc::new(Self(context.bind::<Tier>(settings)?.header)))
    }
}

impl HttpFilterPlan for Tiers {
    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.clone())
    }
}

impl HttpFilter for Tiers {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if let Some(tier) = head.get_named(self.0.as_bytes()) {
            cx.values.set(&TIER, String::from_utf8_lossy(tier).into_owned());
            cx.reroute();
        }
        HeadStep::Continue
    }
}

pub(crate) fn run() -> ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.http.register(Arc::new(Factory));
    extensions.http.register(Arc::new(Tiers::default()));
    sluice::main_with(extensions)
}

pub(crate) fn test() {
    a_limit_of_the_new_route_holds_wherever_it_stands();
    a_shared_value_selects_the_route();
}

/// Routes whose filters are in this order; the rule for `/inner` lets a request through per hour.
fn yaml(origin: &Origin, filters: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{filters}] }} }}]\n\
         routes:\n  main:\n    - rules:\n        \
         - {{ name: inner, match: {{ path: {{ starts_with: /inner }} }}, cluster: up, filters: {{ rate_limit: {{ requests: 1/h, burst: 1 }} }} }}\n        \
         - {{ name: outer, cluster: up }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    )
}

const LIMIT: &str = "{ rate_limit: { requests: 1000/s } }";
const MOVE: &str = "{ move_to: { path: /inner } }";

fn a_limit_of_the_new_route_holds_wherever_it_stands() {
    for (filters, warns) in [([LIMIT, MOVE], true), ([MOVE, LIMIT], false)] {
        let origin = Origin::start("a");
        let text = yaml(&origin, &filters.join(", "));
        let kit = Sluice::with_binary(binary(module_path!())).workers(1);
        let kit = if warns { kit.expect_warning("after `rate_limit`") } else { kit };
        let sluice = kit.start(&text);
        let mut client = Client::connect(sluice.addr("web"));
        let statuses = [client.get("a", "/one").status(), client.get("a", "/two").status()];
        assert_eq!(statuses, [200, 429], "{filters:?}");
        assert_eq!(origin.requests()[0].path(), "/inner");
        let record = sluice.record_of("http.answered");
        assert_eq!(record["route_name"], "inner", "{record}");

        let (_, said) = check(&text);
        assert_eq!(said.contains("edit-after-guard"), warns, "{said}");
    }
}

/// Whether `check` accepts a configuration, and what it says.
fn check(text: &str) -> (bool, String) {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("reroute.yaml");
    std::fs::write(&file, text).unwrap();
    let check = Command::new(binary(module_path!())).arg("check").arg(&file).output();
    let output = check.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

fn a_shared_value_selects_the_route() {
    let origin = Origin::start("a");
    let text = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ tier: {{}} }}] }} }}]\n\
         routes:\n  main:\n    - rules:\n        \
         - {{ name: best, match: {{ values: {{ tier.name: {{ prefix: gold }} }} }}, respond: {{ status: 203 }} }}\n        \
         - {{ name: rest, cluster: up }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    );
    let kit = Sluice::with_binary(binary(module_path!())).workers(1);
    let sluice = kit.start(&text);
    let mut client = Client::connect(sluice.addr("web"));
    let mut ask =
        |tier: &str| client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{tier}\r\n")).status();
    let statuses = ["X-Tier: gold-plus\r\n", "X-Tier: tin\r\n", ""].map(&mut ask);
    assert_eq!(statuses, [203, 200, 200]);

    let (accepted, said) = check(&text.replace("tier.name", "tier.nam"));
    let suggestion =
        "no filter of this program shares a value `tier.nam`; did you mean `tier.name`?";
    assert!(!accepted && said.contains(suggestion) && said.contains("match.values"), "{said}");
}
