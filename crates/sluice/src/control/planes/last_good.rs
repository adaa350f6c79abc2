//! What planes said last, on disk: a restart comes up without its plane.
//!
//! Owns: when it is written and read, and which resources are left out. Refuses to know: how a resource is applied. Keeps:
//! the file is replaced as a whole and readable by its owner alone; a secret is in it only if that was asked for; a plane
//! that answers is asked, not the file.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sluice_core::Moment;
use sluice_core::clock::rfc3339;
use sluice_xds::{
    DiscoveryForm, Keeper, KeptVersion, OwnerKind, PartKey, READY_CLUSTERS_MAX, ResourceFault,
    XdsType,
};

use super::Planes;
use super::applying::ApplyRound;
use crate::control::Control;

/// The least time between two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the last good resources are kept.
#[derive(Clone, Debug)]
pub(crate) struct LastGoodPlan {
    /// The file.
    pub(crate) path: PathBuf,
    /// Whether secrets are in it.
    pub(crate) secrets: bool,
}

/// The file, and what was in it.
#[derive(Debug)]
pub(super) struct LastGood {
    plan: LastGoodPlan,
    keeper: Keeper,
    /// What was read and is not in force.
    kept: RefCell<Vec<KeptVersion>>,
    /// The kinds that were taken from it.
    used: RefCell<BTreeSet<OwnerKind>>,
    /// Whether something has changed since it was written.
    changed: Cell<bool>,
    next_write: Cell<Moment>,
    /// Why it could not be written last.
    failure: RefCell<Option<String>>,
}

impl LastGood {
    pub(super) fn new(plan: LastGoodPlan, node: Bytes) -> Self {
        let keeper = Keeper { node, program: env!("CARGO_PKG_VERSION") };
        Self {
            plan,
            keeper,
            kept: RefCell::default(),
            used: RefCell::default(),
            changed: Cell::new(false),
            next_write: Cell::new(Moment::from_micros(0)),
            failure: RefCell::default(),
        }
    }

    /// Whether something of an earlier process is left.
    fn has_some(&self) -> bool {
        !self.kept.borrow().is_empty()
    }

    /// Something that is in force has changed.
    pub(super) fn note_change(&self) {
        self.changed.set(true);
    }
}

impl Planes {
    /// Reads what an earlier process has kept.
    pub(super) async fn read_last_good(&self) {
        let Some(last) = &self.last_good else { return };
        let path = last.plan.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let shown = last.plan.path.display();
        let wall = self.clock.wall(self.clock.now());
        let kept = read.and_then(|bytes| {
            bytes.map(|bytes| last.keeper.decode(&bytes.into(), wall)).transpose()
        });
        match kept {
            Ok(None) => {}
            Ok(Some((saved, kept))) => {
                tracing::info!("{shown}: has the last good resources of {}", rfc3339(saved));
                *last.kept.borrow_mut() = kept;
            }
            Err(problem) => {
                tracing::warn!("{shown}: {problem}; the last good resources are not used");
            }
        }
    }

    /// Whether what was kept of a kind is to be used: nobody who could send it can be reached, or sent it until now.
    pub(super) fn falls_back(&self, kind: OwnerKind, until: Moment) -> bool {
        let Some(last) = &self.last_good else { return false };
        let xds = kind.xds_type();
        let has_sources = !self.sources_of(kind).is_empty();
        let is_late = has_sources && self.clock.now() >= until;
        let is_due = !last.used.borrow().contains(&kind)
            && (!self.answered.borrow().contains(&xds) || !has_sources);
        let has_some = || {
            let kept = last.kept.borrow();
            kept.iter().any(|kept| kept.kind == xds || XdsType::PARTS.contains(&kept.kind))
        };
        is_due && (is_late || self.is_away()) && has_some()
    }

    /// Whether a plane cannot be reached.
    fn is_away(&self) -> bool {
        self.streams.borrow().iter().any(|stream| {
            let state = stream.state.borrow();
            !state.connected && state.failure.is_some()
        })
    }

    /// Offers what was kept of a kind, and what it needs.
    pub(super) async fn fall_back(self: &Rc<Self>, control: &Rc<Control>, kind: OwnerKind) {
        let Some(last) = &self.last_good else { return };
        let turn = self.turn.lock().await;
        let own = self.restore(last, |kept| kept.kind == kind.xds_type()).await;
        let parts = self.restore(last, |kept| XdsType::PARTS.contains(&kept.kind)).await;
        self.answered.borrow_mut().insert(kind.xds_type());
        last.used.borrow_mut().insert(kind);
        drop(turn);
        self.subscribe(control);
        self.remember(own.iter().chain(&parts));
        let discovery = kind.xds_type().discovery();
        let why = if self.is_away() {
            format!("no control plane can be reached for {discovery}")
        } else {
            format!("no control plane has sent {discovery} in time")
        };
        tracing::warn!(
            "{why}: {} of {} are in force as they were last, with {} that they need",
            own.len(),
            last.plan.path.display(),
            parts.len()
        );
    }

    /// Planes are told that these are there. One that was asked before they were is told on a new stream, if it would not
    /// say by itself that one of them is gone.
    fn remember<'a>(&self, kept: impl Iterator<Item = &'a KeptVersion> + Clone) {
        for stream in self.streams.borrow().iter() {
            let mut machine = stream.machine.borrow_mut();
            let mut is_unknown = false;
            for of in kept.clone() {
                let late = machine.remember(of.kind, &of.name, &of.version);
                is_unknown |= late && OwnerKind::of(of.kind).is_some();
            }
            if is_unknown && machine.form() == DiscoveryForm::Delta {
                stream.reopen.notify_one();
            }
        }
    }

    /// Offers what was kept of what has not come in time, while the first resources are waited for.
    pub(super) async fn restore_late(&self, now: Moment) {
        let Some(last) = self.last_good.as_ref().filter(|last| last.has_some()) else { return };
        let late = self.inventory.borrow().late(now);
        if late.is_empty() {
            return;
        }
        let is_late = |kept: &KeptVersion| {
            let key = PartKey { kind: kept.kind, name: kept.name.as_str().into() };
            late.contains(&key.group().unwrap_or(key))
        };
        let found = self.restore(last, is_late).await;
        self.remember(found.iter());
        for of in found {
            tracing::warn!("{} `{}` has not come in time: it is as it was last", of.kind, of.name);
        }
    }

    /// What a plane sent first and was refused is in force as it was last, while the first resources are waited for.
    pub(super) async fn stand_in(
        self: &Rc<Self>,
        control: &Rc<Control>,
        kind: XdsType,
        faults: &[ResourceFault],
        round: &mut ApplyRound,
    ) {
        let Some(last) = self.last_good.as_ref().filter(|last| last.has_some()) else { return };
        if faults.is_empty() {
            return;
        }
        let refused: BTreeSet<&str> = faults.iter().map(|fault| &*fault.name).collect();
        let is_refused =
            |kept: &KeptVersion| kept.kind == kind && refused.contains(kept.name.as_str());
        let found = self.restore(last, is_refused).await;
        for of in &found {
            self.inventory.borrow_mut().stands_in(kind, &of.name);
            tracing::warn!("{kind} `{}` is in force as it was last", of.name);
        }
        self.advance(control, kind, Vec::new(), self.clock.now(), round).await;
    }

    /// What was kept is of no use once everything was waited for.
    pub(super) fn forget_kept(&self) {
        if let Some(last) = &self.last_good {
            last.kept.take();
        }
    }

    /// Offers some of what was kept; returns what has been accepted.
    async fn restore(
        &self,
        last: &LastGood,
        of: impl Fn(&KeptVersion) -> bool,
    ) -> Vec<KeptVersion> {
        let kept: Vec<KeptVersion> = {
            let inventory = self.inventory.borrow();
            let kept = last.kept.borrow();
            let wanted = kept.iter().filter(|kept| of(kept));
            wanted.filter(|kept| !inventory.has(kept.kind, &kept.name)).cloned().collect()
        };
        let mut accepted = Vec::new();
        let mut kept = kept.into_iter();
        while kept.len() > 0 {
            let portion: Vec<KeptVersion> = kept.by_ref().take(READY_CLUSTERS_MAX).collect();
            self.restore_portion(portion, &mut accepted).await;
        }
        accepted
    }

    async fn restore_portion(&self, portion: Vec<KeptVersion>, accepted: &mut Vec<KeptVersion>) {
        let decoded = self.with_mapper(move |mapper| {
            let decode = |kept: KeptVersion| {
                let decoded = mapper.decode(kept.kind, &kept.body);
                (kept, decoded)
            };
            portion.into_iter().map(decode).collect::<Vec<_>>()
        });
        for (kept, decoded) in decoded.await {
            let version = kept.version.as_str().into();
            match decoded {
                Ok(decoded) => {
                    let body = Bytes::copy_from_slice(&kept.body);
                    self.offer(kept.kind, &kept.name, &version, decoded, body, false);
                    let key = PartKey { kind: kept.kind, name: kept.name.as_str().into() };
                    if let Some(group) = key.group() {
                        self.inventory.borrow_mut().arrive(&group);
                    }
                    // A part that nothing needs is not kept.
                    if self.inventory.borrow().has(kept.kind, &kept.name) {
                        accepted.push(kept);
                    }
                }
                Err(problem) => self.refuse(kept.kind, &kept.name, &kept.version, &problem),
            }
        }
    }

    /// When it is to be written.
    pub(super) fn next_write(&self) -> Moment {
        match &self.last_good {
            Some(last) if last.changed.get() => last.next_write.get(),
            _ => Moment::NEVER,
        }
    }

    /// Writes what is in force, if that has changed.
    pub(super) async fn keep_last_good(&self) {
        let Some(last) = &self.last_good else { return };
        let now = self.clock.now();
        if self.next_write() > now {
            return;
        }
        last.changed.set(false);
        last.next_write.set(now.after(PAUSE));
        let (keeper, wall) = (last.keeper.clone(), self.clock.wall(now));
        let (path, kept) = (last.plan.path.clone(), self.worth_keeping(last.plan.secrets));
        let written = tokio::task::spawn_blocking(move || {
            write(&path, &keeper.encode(wall, kept)).map_err(|error| error.to_string())
        });
        let written = written.await.unwrap_or_else(|error| Err(error.to_string()));
        let failure = written.err();
        if let Some(failure) = failure.as_ref().filter(|_| *last.failure.borrow() != failure) {
            let shown = last.plan.path.display();
            tracing::error!("{shown}: cannot keep the last good resources: {failure}");
        }
        *last.failure.borrow_mut() = failure;
    }

    /// What is in use, apart from what lives only for a time, and from secrets.
    fn worth_keeping(&self, secrets: bool) -> Vec<KeptVersion> {
        let (inventory, streams) = (self.inventory.borrow(), self.streams.borrow());
        let expires = |kind, name: &str| {
            streams.iter().any(|stream| stream.machine.borrow().expires(kind, name))
        };
        let kept = inventory.in_use().filter(|(kind, name, version)| {
            let is_secret = *kind == XdsType::Secret || version.content.has_secret;
            (secrets || !is_secret) && !expires(*kind, name)
        });
        let kept = kept.map(|(kind, name, version)| KeptVersion {
            kind,
            name: name.to_string(),
            version: version.version.to_string(),
            body: version.content.body.clone(),
        });
        kept.collect()
    }
}

/// The content of the file; `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    if meta.mode() & 0o022 != 0 {
        return Err("others may write to it (`chmod 600` prevents that)".to_owned());
    }
    fs::read(path).map(Some).map_err(|error| format!("it cannot be read: {error}"))
}

/// Replaces the file: a reader sees all of the old one or all of the new one, even after a crash.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
