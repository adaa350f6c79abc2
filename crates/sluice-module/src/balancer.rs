//! Loaded libraries as load balancers.
//!
//! Owns: the settings, and what a library may ask of endpoints. Refuses to know: when a list of endpoints changes, and what becomes of a
//! choice. Keeps: a library sees the endpoints that traffic may go to, and no others; what it gets wrong is logged now and then, and
//! counted by the cluster.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_core::{Diags, Name, Path, Spanned};
use sluice_sys::module::{
    BadPick, BalancerCall, EndpointFact, EndpointNumber, HostAnswer, HostRefusal, ModuleBalancer,
};
use sluice_upstream::EndpointState;
use sluice_upstream::balance::tables::Pick;
use sluice_upstream::balance::tables::extension::{
    BalancerExtension, ExtensionFailed, ExtensionPlan, ExtensionTable, Offered,
};

use crate::config::CheckedConfig;
use crate::lent::Lent;
use crate::library;
use crate::text::ModuleText;

/// One failure in so many is logged.
const LOGGED: u64 = 1000;

sluice_core::section! {
    /// A library that chooses among the endpoints of a cluster, in C, C++, Rust or another language (`sluice_filter.h`).
    pub struct BalancerLibrary {
        /// The library. Checking a configuration loads it, which runs code of it; it is never unloaded.
        pub library: Spanned<PathBuf>,
        /// The balancer of the library; without it, the name of the file without `lib` and `.so`.
        pub name: Option<Name>,
        /// What the balancer is configured with: a text; maps and lists become JSON.
        pub config: Option<ModuleText>,
    }
}

impl BalancerLibrary {
    /// The balancer in configurations.
    pub const WORD: &'static str = "module";
}

/// The balancer that these settings are. Errors are added to `diags`.
pub fn balancer(
    written: &BalancerLibrary,
    folder: &FilePath,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<ExtensionPlan> {
    let BalancerLibrary { library: path, name, config } = written;
    let module = library::open(path, &folder.join(&path.value), at, diags)?;
    if !module.balances() {
        library::lacks(path, "is no balancer: it has no `balancer_pick`", at, diags)
            .help("if it filters HTTP, list it under `http.filters`");
        return None;
    }
    let name = name.as_ref().map_or_else(|| library::name_of(module), ToString::to_string);
    let text = config.as_ref().map(|text| &*text.0);
    let made = library::make(module, &name, text, path, at, diags)?;
    Some(ExtensionPlan(Arc::new(LibraryBalancer(made))))
}

/// A balancer of a library with its configuration.
#[derive(Debug)]
struct LibraryBalancer(Arc<CheckedConfig>);

impl BalancerExtension for LibraryBalancer {
    fn word(&self) -> &'static str {
        BalancerLibrary::WORD
    }

    fn identity(&self) -> usize {
        // Equal texts are one object.
        Arc::as_ptr(&self.0).addr()
    }

    fn build(&self, members: Offered<'_>) -> Option<Box<dyn ExtensionTable>> {
        let made = &self.0;
        let mut call = BalancerRun { members, pick: None, lent: Lent::default() };
        match made.object.balance(members.len(), &mut call) {
            Ok(own) => {
                let (failures, made) = (AtomicU64::new(0), Arc::clone(made));
                Some(Box::new(LibraryTable { made, own, failures }))
            }
            Err(code) => {
                tracing::error!(
                    filter = &*made.filter,
                    endpoints = members.len(),
                    "a balancer of a loaded library cannot choose among these endpoints: balancer_new returned {code}; they are used in turn"
                );
                None
            }
        }
    }
}

/// What a library made of a list of endpoints.
#[derive(Debug)]
struct LibraryTable {
    made: Arc<CheckedConfig>,
    own: ModuleBalancer,
    failures: AtomicU64,
}

impl ExtensionTable for LibraryTable {
    fn pick(
        &self,
        members: Offered<'_>,
        pick: &mut Pick<'_>,
    ) -> Result<Option<usize>, ExtensionFailed> {
        let mut call = BalancerRun { members, pick: Some(pick), lent: Lent::default() };
        self.own.pick(&mut call).map_err(|bad| {
            if self.failures.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOGGED) {
                let filter = &*self.made.filter;
                match bad {
                    BadPick::Index(index) => tracing::warn!(
                        filter,
                        "balancer_pick chose endpoint {index} of {}",
                        members.len()
                    ),
                    BadPick::Code(code) => tracing::warn!(filter, "balancer_pick returned {code}"),
                }
            }
            ExtensionFailed
        })
    }
}

/// A call of a balancer, while it runs.
struct BalancerRun<'a, 'p> {
    members: Offered<'a>,
    /// Unless it only begins.
    pick: Option<&'a mut Pick<'p>>,
    lent: Lent,
}

impl<'a> BalancerRun<'a, '_> {
    fn endpoint(&self, place: usize) -> HostAnswer<(&'a EndpointState, u64)> {
        self.members.get(place).ok_or(HostRefusal::Invalid)
    }
}

impl BalancerCall for BalancerRun<'_, '_> {
    fn fact(&mut self, index: usize, fact: EndpointFact) -> HostAnswer<Option<&[u8]>> {
        let (endpoint, _) = self.endpoint(index)?;
        match fact {
            EndpointFact::Address => Ok(Some(endpoint.name.as_bytes())),
            EndpointFact::Host => Ok(endpoint.host.as_deref().map(str::as_bytes)),
            EndpointFact::Locality => {
                let place = endpoint.place();
                match place.and_then(|place| place.locality.as_deref().map(str::to_owned)) {
                    Some(text) => self.lent.keep(text),
                    None => Ok(None),
                }
            }
        }
    }

    fn number(&mut self, index: usize, which: EndpointNumber) -> HostAnswer<u64> {
        let (endpoint, weight) = self.endpoint(index)?;
        Ok(match which {
            EndpointNumber::Weight => weight,
            EndpointNumber::Load => endpoint.load(),
            EndpointNumber::Priority => {
                endpoint.place().map_or(0, |place| u64::from(place.priority))
            }
        })
    }

    fn is_open(&mut self, index: usize) -> HostAnswer<bool> {
        self.endpoint(index)?;
        let pick = self.pick.as_deref().ok_or(HostRefusal::NotNow)?;
        Ok(self.members.is_open(index, pick))
    }

    fn hash(&mut self) -> HostAnswer<Option<u64>> {
        Ok(self.pick.as_deref().ok_or(HostRefusal::NotNow)?.hash)
    }

    fn random(&mut self, bound: u64) -> HostAnswer<u64> {
        let pick = self.pick.as_deref_mut().ok_or(HostRefusal::NotNow)?;
        let bound = usize::try_from(bound).ok().filter(|bound| *bound > 0);
        Ok((pick.random)(bound.ok_or(HostRefusal::Invalid)?) as u64)
    }
}
