//! From the settings of a filter to the plan of each use.
//!
//! Owns: the factories of filters without state beside their plans, and checks that several filters share. Refuses to
//! know: what a filter does. Keeps: a filter that needs nothing but its settings is its settings.

use std::any::Any;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{Diags, Node, Path, Plain, Setting, Shape, ValueDef};
use sluice_io::WorkerCx;

use super::{CheckContext, FilterFactory, HttpFilter, HttpFilterPlan, long_form_of};

/// Reports a `status` that is not one of an error.
pub(super) fn check_error_status(
    status: u16,
    node: &Node,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<()> {
    if (400..600).contains(&status) {
        return Some(());
    }
    let message = "`status` must be from 400 to 599";
    diags.error("bad-value", node.span, at.key("status"), message);
    None
}

/// Reports limits of the same name.
pub(super) fn check_names(
    names: impl Iterator<Item = String>,
    node: &Node,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<()> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) else { return Some(()) };
    let message = format!("two limits are called `{}`", twice[0]);
    diags.error("duplicate-name", node.span, at, message).help("give each a `name`");
    None
}

/// The settings of a filter, from which the plan of each use is made.
pub(super) trait PlanSettings: Setting + 'static {
    const NAME: &'static str;
    const HELP: &'static str;

    /// See [`FilterFactory::values`].
    fn values() -> &'static [ValueDef] {
        &[]
    }

    /// Checks what the types of the fields do not, and makes the plan; `settings` is where the fields were read from.
    fn plan(
        self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>>;
}

/// The factory of a filter that keeps no state beside its plans.
pub(super) struct Ready<S>(PhantomData<fn() -> S>);

impl<S> Default for Ready<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<S: PlanSettings> Debug for Ready<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(S::NAME)
    }
}

impl<S: PlanSettings> FilterFactory<dyn HttpFilterPlan> for Ready<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn help(&self) -> &'static str {
        S::HELP
    }

    fn shape(&self) -> Shape {
        S::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<S>(settings)
    }

    fn values(&self) -> &'static [ValueDef] {
        S::values()
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        context.bind::<S>(settings)?.plan(settings, context)
    }
}

/// A filter that needs nothing but its settings, which implement it themselves.
pub(super) trait OfSettings: HttpFilter + Setting + Clone + Send + Sync + 'static {
    const NAME: &'static str;
    const HELP: &'static str;

    /// Checks what the types of the fields do not. Returns whether the settings can be used.
    fn is_usable(&self, _context: &mut CheckContext<'_>) -> bool {
        true
    }

    /// See [`HttpFilterPlan::on_top_of`].
    fn on_top_of(&self, _under: &Self) -> Option<Self> {
        None
    }

    /// See [`HttpFilterPlan::says_replace`].
    fn says_replace(&self) -> bool {
        false
    }

    /// See [`HttpFilterPlan::is_guard`].
    fn is_guard(&self) -> bool {
        false
    }
}

impl<S: OfSettings> PlanSettings for S {
    const NAME: &'static str = S::NAME;
    const HELP: &'static str = S::HELP;

    fn plan(
        self,
        _settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        self.is_usable(context).then(|| Arc::new(Use(self)) as _)
    }
}

#[derive(Debug)]
struct Use<S>(S);

impl<S: OfSettings> HttpFilterPlan for Use<S> {
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        let under: &dyn Any = under;
        let both = self.0.on_top_of(&under.downcast_ref::<Self>()?.0)?;
        Some(Arc::new(Self(both)))
    }

    fn says_replace(&self) -> bool {
        self.0.says_replace()
    }

    fn is_guard(&self) -> bool {
        self.0.is_guard()
    }

    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.0.clone())
    }
}
