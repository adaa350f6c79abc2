//! A protocol that is not HTTP, served over QUIC by implementing the two traits of a handler.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::quic::QuicClients;
use sluice_core::clock::ClockOrigin;
use sluice_core::reason::end;
use sluice_core::{LocalFuture, Reason};
use sluice_io::{Conn, WorkerCx};
use sluice_l4::inspect::Needs;
use sluice_l4::inspect::tls::SNI;
use sluice_l4::plain_http::PlainHttp;
use sluice_l4::{
    ChainPlan, ChainTable, Criteria, InspectPlan, ListenerPlan, OnTimeout, Termination, Transport,
};
use sluice_quic::{
    Connection, QuicHandler, QuicHandlerPlan, QuicListener, QuicListenerPlan, QuicOptions,
    QuicSlot, ReuseportMember,
};
use sluice_tls::server::{ServerPlan, TlsVersion};
use sluice_tls::{Authorities, CertStore, ClientPlan, ClientTls, ServerTls, Verify};
use sluice_upstream::plan::ClusterSettings;

/// Sends each stream back, in capitals.
#[derive(Debug)]
struct Capitals;

impl QuicHandlerPlan for Capitals {
    fn on_worker(&self, _: &Rc<WorkerCx>) -> Rc<dyn QuicHandler> {
        Rc::new(Self)
    }
}

impl QuicHandler for Capitals {
    fn alpn(&self) -> &'static [&'static [u8]] {
        &[b"capitals"]
    }

    fn serve(self: Rc<Self>, quic: Connection, _: Rc<Conn>) -> LocalFuture<Reason> {
        Box::pin(async move {
            while let Ok((mut send, mut recv)) = quic.accept_bi().await {
                let text = recv.read_to_end(64).await.unwrap();
                send.write_all(&text.to_ascii_uppercase()).await.unwrap();
                send.finish().unwrap();
            }
            end::DOWNSTREAM_CLOSED
        })
    }
}

/// A server with one chain, whose handler is [`Capitals`], and the configuration of a client that trusts it.
fn serve(worker: &Rc<WorkerCx>, alpn: &str) -> (SocketAddr, ClientTls) {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (stored, _) = CertStore::default().load(&cert.as_path().into(), &key.into()).unwrap();
    let mut authorities = Authorities::default();
    let server = ServerPlan {
        certificates: vec![stored],
        alpn: Vec::new(),
        client_auth: None,
        min_version: TlsVersion::V1_3,
        early: None,
    };
    let client = ClientPlan {
        verify: Verify::Ca(cert.into()),
        sni: None,
        send_sni: true,
        names: Vec::new(),
        certificate: None,
        alpn: vec![alpn.as_bytes().to_vec()],
        min_version: TlsVersion::V1_3,
        http2: false,
        http3: false,
        early_data: false,
    };
    let chain = ChainPlan {
        name: "capitals".into(),
        transport: Transport::Terminate(Termination {
            tls: ServerTls::build(server, &mut authorities).unwrap(),
            timeout: Duration::from_secs(10),
            plain_http: PlainHttp::Close,
            inner: None,
        }),
        filters: Vec::new(),
        handler: None,
    };
    let listener = ListenerPlan {
        name: "l".into(),
        filters: Vec::new(),
        original_destination: false,
        proxy_protocol: None,
        inspect: InspectPlan {
            needs: Needs::default(),
            timeout: Duration::from_secs(10),
            bytes: 0,
            on_timeout: OnTimeout::Close,
        },
        table: ChainTable::build(&[Criteria::default()]).unwrap(),
        chains: Arc::new(vec![chain]),
    };
    let plan = QuicListenerPlan {
        listener: Arc::new(listener),
        handlers: vec![Arc::new(Capitals)],
        options: QuicOptions::default(),
    };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = QuicListener::on_worker(Arc::new(plan), worker);
    let only = ReuseportMember { number: 0, count: 1 };
    let slot = QuicSlot::new(socket.into(), only, listener, worker).unwrap();
    worker.spawn(slot.run());
    (address, ClientTls::build(client, &mut authorities).unwrap())
}

/// Connects to a server, offering this ALPN protocol.
async fn connect(worker: &Rc<WorkerCx>, alpn: &str) -> Result<Connection, String> {
    let (address, client) = serve(worker, alpn);
    let name = "a.test".try_into().unwrap();
    QuicClients::default().connect(address, client.config, &name, &ClusterSettings::bare()).await
}

fn run(test: impl AsyncFnOnce(Rc<WorkerCx>)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async {
        let worker = WorkerCx::solitary(ClockOrigin::read().clock());
        worker.start();
        test(worker).await;
    });
}

#[test]
fn a_protocol_of_ones_own_is_served_over_quic() {
    run(async |worker| {
        let connection = connect(&worker, "capitals").await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(64).await.unwrap(), b"HELLO");
        let open = worker.connections.list();
        let [conn] = &*open else { panic!("{} are open", open.len()) };
        assert_eq!(conn.info.chain.get().map(|name| &**name), Some("capitals"));
        let tls = conn.info.tls.get().expect("the handshake is complete");
        assert_eq!(tls.alpn.as_deref(), Some(&b"capitals"[..]));
        assert_eq!(conn.info.nearest_facts().unwrap().get(&SNI), Some("a.test"));
    });
}

#[test]
fn a_client_that_offers_another_protocol_is_refused_in_the_handshake() {
    run(async |worker| {
        let error = connect(&worker, "h3").await.expect_err("no handler speaks it");
        assert!(error.contains("peer doesn't support any known protocol"), "{error}");
    });
}
