//! Content that is fetched from a cluster.
//!
//! Owns: the request for it, and which responses have it. Refuses to know: when it is made, and what the content means.
//! Keeps: a fetch is a side call of the control thread, with the bounds of one; credentials are sent and never shown.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{LocalFuture, Moment, SecretText};
use sluice_io::WorkerCx;
use sluice_l4::filters::{FetchOrigin, LiveSecret};
use sluice_upstream::Cluster;

use crate::side_calls::{SideCalls, SideRequest};

/// The body of a response with the status 200 to a GET.
#[derive(Clone)]
pub struct HttpOrigin {
    cluster: Arc<Cluster>,
    host: Option<Box<str>>,
    path: Box<str>,
    headers: Vec<(Box<str>, Box<[u8]>)>,
    /// A header with the current text of a secret after a prefix.
    credentials: Option<(Box<str>, Box<str>, LiveSecret<SecretText>)>,
}

impl HttpOrigin {
    /// A path of a cluster, whose host is that of the endpoint.
    pub fn new(cluster: Arc<Cluster>, path: &str) -> Self {
        Self { cluster, host: None, path: path.into(), headers: Vec::new(), credentials: None }
    }

    /// Sets the host.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a header with the current text of a secret, after a prefix such as `Bearer `.
    #[must_use]
    pub fn with_secret(mut self, name: &str, prefix: &str, secret: LiveSecret<SecretText>) -> Self {
        self.credentials = Some((name.into(), prefix.into(), secret));
        self
    }

    fn request(&self) -> SideRequest {
        let mut request = SideRequest::new("GET", &self.path);
        if let Some(host) = &self.host {
            request = request.host(host);
        }
        for (name, value) in &self.headers {
            request = request.with(name, value);
        }
        if let Some((name, prefix, secret)) = &self.credentials {
            let value = [prefix.as_bytes(), secret.current().bytes()].concat();
            request = request.with(name, &value);
        }
        request
    }
}

impl fmt::Debug for HttpOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpOrigin({})", self.name())
    }
}

impl FetchOrigin for HttpOrigin {
    /// `auth: id.test/keys`, without the query.
    fn name(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{}: {}{path}", self.cluster.name, self.host.as_deref().unwrap_or_default())
    }

    fn identity(&self) -> String {
        // A named secret may get another text without being another one.
        let credentials = self.credentials.as_ref().map(|(name, prefix, secret)| {
            let own = secret.name().is_none().then(|| secret.current().bytes().to_vec());
            (name, prefix, secret.name(), own)
        });
        let Self { cluster, host, path, headers, .. } = self;
        format!("{} {host:?} {path} {headers:?} {credentials:?}", cluster.name)
    }

    fn fetch(&self, worker: &Rc<WorkerCx>, by: Moment) -> LocalFuture<Result<Vec<u8>, String>> {
        let called = SideCalls::unbounded(worker).call(&self.cluster, self.request(), by);
        Box::pin(async move {
            let response = called.await.map_err(|error| error.to_string())?;
            match response.head.status() {
                200 => Ok(response.body.to_vec()),
                status => Err(format!("answered {status}")),
            }
        })
    }
}
