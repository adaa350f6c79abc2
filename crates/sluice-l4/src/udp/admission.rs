//! Whether a flow may begin: the filters of its listener, then those of its chain.
//!
//! Owns: how far the filters have been asked. Refuses to know: endpoints, datagrams, and how long a filter takes. Keeps:
//! each filter is asked once, in order; those that admitted a flow are told if it does not begin after all.

use std::fmt;
use std::rc::Rc;

use sluice_core::connection::ConnInfo;
use sluice_core::{LocalFuture, Reason, Verdict};
use sluice_io::{Admit, ConnectionFilter};

use super::listener::{FlowOrigin, UdpListener};

/// A flow that asks to begin.
#[derive(Debug)]
pub(super) struct FlowAdmission {
    pub(super) listener: Rc<UdpListener>,
    check: FilterCheck,
    /// Its chain, once the filters of the listener have admitted it.
    chain: Option<usize>,
    /// How many filters have admitted it.
    admitted: usize,
}

/// Which filters are asked whether a flow may begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum FilterCheck {
    /// The filters of the listener and of the chain.
    Run,
    /// No filter: the flow replaces one that they admitted.
    Skip,
}

/// How far an admission has come.
pub(super) enum AdmissionStep {
    /// Every filter has admitted the flow to the chain with this index.
    Admitted(usize),
    /// The next filter decides later; tell [`FlowAdmission::note`].
    Wait(LocalFuture<Verdict>),
}

impl fmt::Debug for AdmissionStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted(chain) => write!(f, "Admitted({chain})"),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

impl FlowAdmission {
    /// An admission that has asked no filter yet.
    pub(super) const fn new(listener: Rc<UdpListener>, check: FilterCheck) -> Self {
        Self { listener, check, chain: None, admitted: 0 }
    }

    /// Asks the filters that have not been asked, up to one that must wait.
    ///
    /// # Errors
    /// The reason of the filter that refuses, or no chain matches. The filters before it have been told.
    pub(super) fn proceed(
        &mut self,
        info: &ConnInfo,
        origin: &FlowOrigin,
    ) -> Result<AdmissionStep, Reason> {
        loop {
            let next = self.asked().nth(self.admitted).map(|filter| filter.admit(info));
            let answer = match (next, self.chain) {
                (Some(answer), _) => answer,
                (None, Some(chain)) => return Ok(AdmissionStep::Admitted(chain)),
                (None, None) => {
                    let selected = self.listener.select(info, origin);
                    self.chain = Some(selected.inspect_err(|_| self.withdraw(info))?);
                    continue;
                }
            };
            match answer {
                Admit::Now(verdict) => self.note(verdict, info)?,
                Admit::Wait(later) => return Ok(AdmissionStep::Wait(later)),
            }
        }
    }

    /// Notes what the filter that was asked last has decided.
    ///
    /// # Errors
    /// The reason why it refuses. The filters before it have been told.
    pub(super) fn note(&mut self, verdict: Verdict, info: &ConnInfo) -> Result<(), Reason> {
        match verdict {
            Verdict::Continue => self.admitted += 1,
            Verdict::Reject(why) => {
                self.withdraw(info);
                return Err(why);
            }
        }
        Ok(())
    }

    /// Tells the filters that have admitted the flow that it does not begin after all.
    pub(super) fn withdraw(&self, info: &ConnInfo) {
        self.asked().take(self.admitted).for_each(|filter| filter.ended(info));
    }

    /// Whether no filter is asked, because the flow replaces one that they admitted.
    pub(super) const fn was_skipped(&self) -> bool {
        matches!(self.check, FilterCheck::Skip)
    }

    /// The filters to ask, as far as they are known.
    fn asked(&self) -> impl Iterator<Item = &Rc<dyn ConnectionFilter>> {
        let of_chain = self.chain.map(|chain| &self.listener.chains[chain].filters);
        let known = self.listener.filters.iter().chain(of_chain.into_iter().flatten());
        known.take(match self.check {
            FilterCheck::Run => usize::MAX,
            FilterCheck::Skip => 0,
        })
    }
}
