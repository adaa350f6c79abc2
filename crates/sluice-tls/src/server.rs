//! TLS termination for clients.
//!
//! Owns: the server configuration of a chain and the selection of its certificate by name.
//! Refuses to know: how the chain was selected. Keeps: TLS 1.2 or later; the configuration is immutable, but a renewed
//! certificate is used from the next handshake on.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache,
    StoresServerSessions, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::authorities::Authorities;
use crate::files::LoadError;
use crate::material::load_revocations;
use crate::names::{CertName, NamedClients};
use crate::pem::PemSource;
use crate::store::StoredCert;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// The client certificates to request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// The authorities that may have issued them.
    pub ca: PemSource,
    /// Revoked certificates.
    pub crl: Option<PemSource>,
    /// Names of which a certificate must have one; if empty, any will do.
    pub names: Vec<CertName>,
    /// Whether clients without a certificate are refused.
    pub required: bool,
}

/// The TLS server settings of a chain.
#[derive(Clone, Debug)]
pub struct ServerPlan {
    /// The certificates; the first is used if no name matches.
    pub certificates: Vec<Arc<StoredCert>>,
    /// The ALPN protocols in order of preference; if empty, none is negotiated.
    pub alpn: Vec<Vec<u8>>,
    /// The client certificates to request, if any.
    pub client_auth: Option<ClientAuth>,
    /// The minimum version.
    pub min_version: TlsVersion,
    /// The sessions to remember, so that returning clients may send early data (0-RTT). Not with client authentication.
    pub early: Option<EarlySessions>,
}

/// Sessions that may start with early data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EarlySessions {
    /// The number of sessions to remember: so many over TCP, and so many over QUIC.
    pub count: u32,
    /// The identity of their owner. What was granted to a client must still hold when it returns, RFC 9000 §7.4.1:
    /// other limits, other certificates or another chain have another identity, and therefore other sessions.
    pub of: String,
}

/// The most bytes of early data on a connection over TCP. A client learns it with its session; one that sends more is
/// disconnected (RFC 8446 §4.2.10). It also bounds what is passed over of a client whose session is not known any more,
/// where rustls counts a record each time that it looks at it; therefore it is a multiple of what clients send.
pub const EARLY_DATA_MAX: u32 = 64 * 1024;

/// The TLS configuration of a chain.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The rustls configuration.
    pub config: Arc<ServerConfig>,
    /// The same for QUIC, without ALPN protocols: the handler of QUIC connections names them.
    pub quic: Arc<ServerConfig>,
}

impl ServerTls {
    /// Builds the configuration.
    ///
    /// # Errors
    /// The authorities or revocation lists for client certificates cannot be loaded.
    pub fn build(plan: ServerPlan, authorities: &mut Authorities) -> Result<Self, LoadError> {
        let builder = ServerConfig::builder_with_provider(crate::provider())
            .with_protocol_versions(versions(plan.min_version))
            .expect("the provider has suites for both versions");
        let builder = match &plan.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => builder.with_client_cert_verifier(client_verifier(auth, authorities)?),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(plan.certificates)));
        // One is enough to resume once per connection; each costs an encryption per handshake.
        config.send_tls13_tickets = 1;
        let mut quic = config.clone();
        config.alpn_protocols = plan.alpn;
        // No early data with client authentication: a client must present its certificate before it is served.
        if let Some(early) = plan.early.filter(|_| plan.client_auth.is_none()) {
            config.session_storage = early_sessions(&early, SessionCarrier::Tcp);
            config.max_early_data_size = EARLY_DATA_MAX;
            // What arrives before the client's Finished is responded to before it, too.
            config.send_half_rtt_data = true;
            quic.session_storage = early_sessions(&early, SessionCarrier::Quic);
            quic.max_early_data_size = u32::MAX;
        } else {
            config.ticketer = ticketer(plan.client_auth.as_ref())?;
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

/// What a client must prove for a ticket: nothing, or a certificate under exactly these files with one of these names.
type Proof = Option<(bool, Vec<u8>, Option<Vec<u8>>, Vec<CertName>)>;

/// The session ticket keys, rotated by rustls every six hours. A session can be resumed after a reload, on any worker,
/// and on every chain that requires the same proof from its clients, but on no other, since rustls does not check the
/// proof again when a session is resumed. New authorities or revocations create new keys.
fn ticketer(auth: Option<&ClientAuth>) -> Result<Arc<dyn ProducesTickets>, LoadError> {
    static KEYS: Mutex<BTreeMap<Proof, Weak<dyn ProducesTickets>>> = Mutex::new(BTreeMap::new());
    let proof = match auth {
        None => None,
        Some(auth) => {
            let revoked = auth.crl.as_ref().map(PemSource::read).transpose()?;
            let (ca, revoked) = (auth.ca.read()?.into_owned(), revoked.map(Cow::into_owned));
            Some((auth.required, ca, revoked, auth.names.clone()))
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

/// What TLS is carried over. A session of the one is none of the other (RFC 9001 §4.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SessionCarrier {
    Tcp,
    Quic,
}

type SessionStores = BTreeMap<(SessionCarrier, EarlySessions), Weak<dyn StoresServerSessions>>;

/// The store of sessions that may start with early data: each is kept until it is resumed, so that a recording of it
/// cannot be replayed (RFC 8446 §8.1, single-use tickets). Stores survive a reload that does not change them, and are
/// shared by all workers, like the ticket keys.
fn early_sessions(wanted: &EarlySessions, over: SessionCarrier) -> Arc<dyn StoresServerSessions> {
    static STORES: Mutex<SessionStores> = Mutex::new(BTreeMap::new());
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    stores.retain(|_, store| store.strong_count() > 0);
    let wanted = (over, wanted.clone());
    if let Some(store) = stores.get(&wanted).and_then(Weak::upgrade) {
        return store;
    }
    let count = usize::try_from(wanted.1.count).unwrap_or(usize::MAX);
    let store: Arc<dyn StoresServerSessions> = ServerSessionMemoryCache::new(count);
    stores.insert(wanted, Arc::downgrade(&store));
    store
}

fn client_verifier(
    auth: &ClientAuth,
    authorities: &mut Authorities,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, LoadError> {
    let roots = authorities.of(&auth.ca)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, crate::provider());
    if let Some(path) = &auth.crl {
        builder = builder.with_crls(load_revocations(path)?);
    }
    if !auth.required {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|error| LoadError {
        path: match (&error, &auth.crl) {
            (VerifierBuilderError::InvalidCrl(_), Some(crl)) => crl.name().into_owned(),
            _ => auth.ca.name().into_owned(),
        },
        problem: format!("client certificates cannot be verified with it: {error}"),
        help: None,
    })?;
    Ok(match auth.names.as_slice() {
        [] => verifier,
        names => Arc::new(NamedClients { inner: verifier, names: names.to_vec() }),
    })
}

/// Selects by the server name that the client sends: exact, then `*.` in place of its first label, then the first
/// certificate of the chain.
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
        // With one certificate there is nothing to select.
        let by_name = match self.certificates.as_slice() {
            [_] => None,
            _ => hello.server_name().and_then(|name| self.find(&name.to_ascii_lowercase())),
        };
        let chosen = by_name.or_else(|| self.certificates.first())?;
        Some(Arc::clone(&chosen.material().key))
    }
}
