//! Files that stand for a control plane.
//!
//! Owns: reading a response from a file, and when it is read again. Refuses to know: what it says. Keeps: a file that
//! cannot be read leaves what is in force, and is logged once.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sluice_xds::XdsMessage;
use sluice_xds::messages::DiscoveryResponse;
use tokio::sync::mpsc;

use super::Planes;
use super::streams::{PlaneStream, PlaneStreamState};
use crate::control::Control;
use crate::control::watch::{Settling, Watcher};

impl Planes {
    /// Takes what a file says, and again whenever it changes.
    pub(super) async fn follow_file(
        self: Rc<Self>,
        control: Rc<Control>,
        stream: Rc<PlaneStream>,
        path: PathBuf,
    ) {
        let (changed, mut changes) = mpsc::channel(1);
        let mut watcher = Watcher::new(changed);
        watcher.follow(std::slice::from_ref(&path));
        let mut settling = Settling::default();
        stream.machine.borrow_mut().opened();
        loop {
            while stream.machine.borrow_mut().poll_request().is_some() {}
            self.take_file(&control, &stream, &path).await;
            tokio::select! {
                Some(()) = settling.settled(&mut changes) => {}
                () = stream.changed.notified() => {}
            }
        }
    }

    async fn take_file(
        self: &Rc<Self>,
        control: &Rc<Control>,
        stream: &Rc<PlaneStream>,
        path: &Path,
    ) {
        let file = path.to_owned();
        let read = tokio::task::spawn_blocking(move || read(&file)).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        let now = self.clock.now();
        let mut response = match read {
            Ok(response) => response,
            Err(problem) => {
                let mut state = stream.state.borrow_mut();
                if state.failure.as_ref() != Some(&problem) {
                    tracing::warn!("{}: {problem}; what is in force stays", path.display());
                }
                *state = PlaneStreamState { connected: false, since: now, failure: Some(problem) };
                return;
            }
        };
        let state = PlaneStreamState { connected: true, since: now, failure: None };
        *stream.state.borrow_mut() = state;
        let kinds = stream.kinds.borrow().clone();
        for kind in kinds {
            kind.url().clone_into(&mut response.type_url);
            let message = XdsMessage::Sotw(response.clone());
            let taken = stream.machine.borrow_mut().receive(message, now);
            if let Some(taken) = taken {
                let faults = self.take(control, taken).await;
                stream.machine.borrow_mut().answer(kind, &faults);
            }
        }
    }
}

/// The response in a file: YAML, JSON, or encoded if its name ends in `.pb`.
fn read(path: &Path) -> Result<DiscoveryResponse, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read the file: {error}"))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let encoded = if path.extension().is_some_and(|extension| extension == "pb") {
        bytes
    } else {
        let text = String::from_utf8(bytes).map_err(|_| "the file is not UTF-8".to_owned())?;
        sluice_envoy::wire::response_of_text(&text)?
    };
    let decoded: Result<DiscoveryResponse, _> = prost::Message::decode(encoded.as_slice());
    let mut response = decoded.map_err(|error| format!("it cannot be decoded: {error}"))?;
    if response.version_info.is_empty() {
        response.version_info = format!("{:016x}", hasher.finish());
    }
    Ok(response)
}
