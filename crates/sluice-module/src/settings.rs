//! The settings of `module`, and how those of a rule join those around it.
//!
//! Owns: what is written, what of it can be used, and the defaults. Refuses to know: requests, and how libraries are called.
//! Keeps: a library was loaded and has accepted a configuration before it is in force; what a rule leaves out is as around it.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::settings::Size;
use sluice_core::values::ValueDef;
use sluice_core::{Name, Node, Setting, Shape, Spanned};
use sluice_io::WorkerCx;
use sluice_l7::filters::{CheckContext, FilterFactory, FilterOwner, HttpFilter, HttpFilterPlan};
use sluice_sys::module::Module;
use sluice_telemetry::metrics::SeriesLabels;
use sluice_upstream::Cluster;

use crate::config::CheckedConfig;
use crate::filter::ModuleFilter;
use crate::in_use::{ModuleUse, OnModuleError};
use crate::text::ModuleText;
use crate::{library, values};

sluice_core::section! {
    /// Runs a filter of a loaded library, in C, C++, Rust or another language (`sluice_filter.h`). A rule or virtual host
    /// may configure it differently, and leaves out what the settings around it say.
    pub struct LoadedModule {
        /// The library. Checking a configuration loads it, which runs code of it; it is never unloaded.
        pub library: Option<Spanned<PathBuf>>,
        /// The filter of the library; without it, the name of the file without `lib` and `.so`.
        pub name: Option<Name>,
        /// What the filter is configured with: a text; maps and lists become JSON.
        pub config: Option<ModuleText>,
        /// The clusters that the filter may call (`call` of `sluice_filter.h`).
        pub clusters: Option<Vec<Spanned<Name>>>,
        /// The largest body that is received whole for it, and that it may set: a request with a larger one gets 413, a
        /// larger response becomes 500. 1MiB if omitted.
        pub body_max: Option<Size>,
        /// What becomes of a request for which the filter fails; `fail` if omitted.
        pub on_error: Option<OnModuleError>,
    }
}

/// The filter `module`.
#[derive(Clone, Copy, Debug)]
pub struct ModuleFactory;

impl FilterFactory<dyn HttpFilterPlan> for ModuleFactory {
    fn name(&self) -> &'static str {
        "module"
    }

    fn help(&self) -> &'static str {
        "Runs a filter of a loaded library."
    }

    fn shape(&self) -> Shape {
        LoadedModule::shape()
    }

    fn values(&self) -> &'static [ValueDef] {
        values::VALUES
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let written: LoadedModule = context.bind(settings)?;
        if written.library.is_none() && !matches!(context.owner, FilterOwner::Routes(_)) {
            let message = "there is no `library`";
            let finding = context.diags.error("missing-field", settings.span, context.at, message);
            finding.help("add the path of a library: `library: ./libtag.so`");
            return None;
        }
        Some(Arc::new(ModulePlan::new(written, context)?))
    }
}

/// The settings of one place, without defaults; then, those of several.
#[derive(Clone, Debug)]
struct ModulePlan {
    library: Option<&'static Module>,
    name: Option<Name>,
    text: Option<String>,
    clusters: Option<Vec<Arc<Cluster>>>,
    body_max: Option<Size>,
    on_error: Option<OnModuleError>,
    /// What the library made of it; `None` without a library.
    made: Option<Result<Arc<CheckedConfig>, String>>,
}

impl ModulePlan {
    fn new(written: LoadedModule, context: &mut CheckContext<'_>) -> Option<Self> {
        let LoadedModule { library, name, config, clusters, body_max, on_error } = written;
        let text = config.map(|text| text.0);
        let clusters = match &clusters {
            None => None,
            Some(names) => {
                let each = names.iter().map(|name| context.cluster(name, "clusters"));
                Some(each.collect::<Option<Vec<_>>>()?)
            }
        };
        let mut plan = Self { library: None, name, text, clusters, body_max, on_error, made: None };
        let Some(path) = library else { return Some(plan) };
        let file = context.path(&path.value, "library")?;
        let (at, diags) = (context.at, &mut *context.diags);
        let module = library::open(&path, &file, at, diags)?;
        plan.library = Some(module);
        let filter = plan.filter().unwrap_or_default();
        let made = library::make(module, &filter, plan.text.as_deref(), &path, at, diags)?;
        plan.made = Some(Ok(made));
        Some(plan)
    }

    fn filter(&self) -> Option<String> {
        match (&self.name, self.library) {
            (Some(name), _) => Some(name.to_string()),
            (None, library) => library.map(library::name_of),
        }
    }

    fn make(&self, module: &'static Module) -> Result<Arc<CheckedConfig>, String> {
        let filter = self.filter().unwrap_or_default();
        CheckedConfig::of(module, &filter, self.text.as_deref().unwrap_or_default())
    }
}

impl HttpFilterPlan for ModulePlan {
    fn on_top_of(&self, under: &dyn HttpFilterPlan) -> Option<Arc<dyn HttpFilterPlan>> {
        let under: &dyn std::any::Any = under;
        let under = under.downcast_ref::<Self>()?;
        let mut both = self.clone();
        both.body_max = self.body_max.or(under.body_max);
        both.on_error = self.on_error.or(under.on_error);
        // Name, text and clusters are those of the library.
        if self.library.is_none() {
            both.library = under.library;
            both.name = self.name.clone().or_else(|| under.name.clone());
            both.text = self.text.clone().or_else(|| under.text.clone());
            both.clusters = self.clusters.clone().or_else(|| under.clusters.clone());
            both.made = match both.library {
                _ if self.name.is_none() && self.text.is_none() => under.made.clone(),
                Some(library) => Some(both.make(library)),
                None => None,
            };
        }
        Some(Arc::new(both))
    }

    fn lacks(&self) -> Option<String> {
        match &self.made {
            None => Some("the `library`".to_owned()),
            Some(Err(problem)) => {
                Some(format!("a `config` that its library accepts, which says \"{problem}\","))
            }
            Some(Ok(_)) => None,
        }
    }

    fn edits_target(&self) -> bool {
        matches!(&self.made, Some(Ok(made)) if made.declared.edits_target)
    }

    fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        series.get("filter").is_some_and(|filter| self.filter().as_deref() == Some(filter))
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let missing = || Err("the settings around the rule have no library".to_owned());
        let plan = ModuleUse {
            filter: self.filter().unwrap_or_default(),
            clusters: self.clusters.clone().unwrap_or_default(),
            made: self.made.clone().unwrap_or_else(missing),
            body_max: self
                .body_max
                .map_or(1 << 20, |size| usize::try_from(size.0).unwrap_or(usize::MAX)),
            on_error: self.on_error.unwrap_or(OnModuleError::Fail),
        };
        Rc::new(ModuleFilter::new(plan, worker, owner))
    }
}
