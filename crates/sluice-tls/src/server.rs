//! TLS towards clients.
//!
//! Owns: the server configuration of a chain and the choice of its certificate by name.
//! Refuses to know: how the chain was chosen. Keeps: TLS 1.2 at least; the configuration is
//! immutable, and still a renewed certificate is used from the next handshake on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache,
    StoresServerSessions, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::material::{LoadError, load_revocations, load_roots, read};
use crate::store::StoredCert;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// Which client certificates are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Authorities that may have signed them.
    pub ca: PathBuf,
    /// Revoked certificates.
    pub crl: Option<PathBuf>,
    /// Whether a client without one is refused.
    pub required: bool,
}

/// What a chain terminates TLS with.
#[derive(Clone, Debug)]
pub struct ServerPlan {
    /// Certificates; the first is used when no name fits.
    pub certificates: Vec<Arc<StoredCert>>,
    /// ALPN protocols in order of preference; empty accepts none.
    pub alpn: Vec<Vec<u8>>,
    /// Client certificates, when asked for.
    pub client_auth: Option<ClientAuth>,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// Clients of QUIC whose sessions are remembered so that they may send requests at once (0-RTT).
    pub early: Option<EarlySessions>,
}

/// Sessions that may begin with early data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EarlySessions {
    /// How many are remembered.
    pub count: u32,
    /// Whose they are. What a client was granted once must hold when it comes back, RFC 9000 §7.4.1: with other limits,
    /// certificates or another chain this is another word, and its sessions are others.
    pub of: String,
}

/// A chain's side of a handshake.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The rustls configuration.
    pub config: Arc<ServerConfig>,
    /// The same for QUIC, which carries HTTP/3 and nothing else.
    pub quic: Arc<ServerConfig>,
}

impl ServerTls {
    /// Builds the configuration.
    ///
    /// # Errors
    /// The authorities or revocations of client certificates do not load.
    pub fn build(plan: ServerPlan) -> Result<Self, LoadError> {
        let builder = ServerConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(versions(plan.min_version))
            .expect("the provider has suites for both versions");
        let builder = match &plan.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => builder.with_client_cert_verifier(client_verifier(auth)?),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(plan.certificates)));
        // One is enough to resume once per connection; each costs an encryption per handshake.
        config.send_tls13_tickets = 1;
        let mut quic = config.clone();
        config.alpn_protocols = plan.alpn;
        config.ticketer = ticketer(plan.client_auth.as_ref())?;
        quic.alpn_protocols = vec![b"h3".to_vec()];
        // What must show a certificate does so before it is heard.
        if let Some(early) = plan.early.filter(|_| plan.client_auth.is_none()) {
            quic.session_storage = early_sessions(early);
            quic.max_early_data_size = u32::MAX;
        } else {
            quic.ticketer = Arc::clone(&config.ticketer);
        }
        Ok(Self { config: Arc::new(config), quic: Arc::new(quic) })
    }
}

pub(crate) const fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match oldest {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => BOTH.split_at(1).0,
    }
}

/// What a client must prove for a ticket: nothing, or a certificate under exactly these files.
type Proof = Option<(bool, Vec<u8>, Option<Vec<u8>>)>;

/// Keys of session tickets, rotated by rustls every six hours. A session can be resumed after a
/// reload, on any worker, and on every chain that wants the same proof of its clients; no other, for
/// rustls does not ask again for what a ticket stands for. New authorities or revocations make new
/// keys.
fn ticketer(auth: Option<&ClientAuth>) -> Result<Arc<dyn ProducesTickets>, LoadError> {
    static KEYS: Mutex<BTreeMap<Proof, Weak<dyn ProducesTickets>>> = Mutex::new(BTreeMap::new());
    let proof = match auth {
        None => None,
        Some(auth) => {
            let revoked = auth.crl.as_deref().map(read).transpose()?;
            Some((auth.required, read(&auth.ca)?, revoked))
        }
    };
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    keys.retain(|_, ticketer| ticketer.strong_count() > 0);
    if let Some(ticketer) = keys.get(&proof).and_then(Weak::upgrade) {
        return Ok(ticketer);
    }
    let ticketer =
        rustls::crypto::aws_lc_rs::Ticketer::new().expect("the system gives random bytes");
    keys.insert(proof, Arc::downgrade(&ticketer));
    Ok(ticketer)
}

/// Where sessions are kept that may begin with early data: each until it was resumed, so that what was recorded of
/// one cannot be played again (RFC 8446 §8.1, single-use tickets). They outlive a reload that changes nothing about
/// them, and are the same on every worker, as the keys of tickets are.
fn early_sessions(wanted: EarlySessions) -> Arc<dyn StoresServerSessions> {
    static STORES: Mutex<BTreeMap<EarlySessions, Weak<dyn StoresServerSessions>>> =
        Mutex::new(BTreeMap::new());
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    stores.retain(|_, store| store.strong_count() > 0);
    if let Some(store) = stores.get(&wanted).and_then(Weak::upgrade) {
        return store;
    }
    let count = usize::try_from(wanted.count).unwrap_or(usize::MAX);
    let store: Arc<dyn StoresServerSessions> = ServerSessionMemoryCache::new(count);
    stores.insert(wanted, Arc::downgrade(&store));
    store
}

fn client_verifier(
    auth: &ClientAuth,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, LoadError> {
    let roots = Arc::new(load_roots(&auth.ca)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, crate::provider());
    if let Some(path) = &auth.crl {
        builder = builder.with_crls(load_revocations(path)?);
    }
    if !auth.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| LoadError {
        path: auth.ca.clone(),
        problem: format!("client certificates cannot be checked with it: {error}"),
        help: None,
    })
}

/// Chooses by the name that the client asks for: exact, then `*.` of its first label, then the
/// first certificate of the chain.
#[derive(Debug)]
struct ByName {
    certificates: Vec<Arc<StoredCert>>,
}

impl ByName {
    const fn new(certificates: Vec<Arc<StoredCert>>) -> Self {
        Self { certificates }
    }

    fn find(&self, name: &str) -> Option<&Arc<StoredCert>> {
        let has = |wanted: &str| {
            self.certificates
                .iter()
                .find(|stored| stored.material().info.names.iter().any(|name| name == wanted))
        };
        has(name).or_else(|| has(&format!("*.{}", name.split_once('.')?.1)))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // With one certificate there is nothing to choose.
        let by_name = match self.certificates.as_slice() {
            [_] => None,
            _ => hello.server_name().and_then(|name| self.find(&name.to_ascii_lowercase())),
        };
        let chosen = by_name.or_else(|| self.certificates.first())?;
        Some(Arc::clone(&chosen.material().key))
    }
}
