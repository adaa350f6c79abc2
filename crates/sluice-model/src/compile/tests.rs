//! What compiling a resource finds, with the path of the field.

use std::sync::Arc;

use sluice_core::value::HostPattern;
use sluice_l4::Criteria;

use crate::model::listener::{ChainKind, Http, Listener, Service, Traffic};
use crate::model::routes::FilterOverride;
use crate::model::tls::{CertificateSource, ClientTls};
use crate::model::{Cluster, FilterConfig, Resource};
use crate::store::tests::kit::{Bench, endpoints, http, listener, relay, routes_to, set, tls_of};
use crate::trees;

/// What applying these finds in the resource named `it`.
fn found(resource: Resource) -> String {
    let mut bench = Bench::new();
    bench.apply(vec![set("web", routes_to("app")), set("it", endpoints(1))]);
    let verdicts = bench.apply(vec![set("it", resource)]);
    let [verdict] = verdicts.as_slice() else { panic!("{verdicts:?}") };
    let (_, errors) = verdict.split_once(": rejected: ").unwrap_or_else(|| panic!("{verdict}"));
    errors.to_owned()
}

fn filter(name: &str) -> FilterConfig {
    FilterConfig { name: name.into(), settings: trees::map(&[]) }
}

fn listener_with(change: impl FnOnce(&mut Listener)) -> Resource {
    let Resource::Listener(listener) = listener(1, relay("app")) else { unreachable!() };
    let mut listener = (*listener).clone();
    change(&mut listener);
    Resource::Listener(Arc::new(listener))
}

fn chains(listener: &mut Listener) -> &mut Vec<crate::model::FilterChain> {
    let Traffic::Streams(streams) = &mut listener.traffic else { unreachable!() };
    &mut streams.chains
}

fn http_with(filters: Vec<FilterConfig>) -> Resource {
    let Service::Http(section) = http("web") else { unreachable!() };
    let service = Service::Http(Box::new(Http { filters, ..*section }));
    listener(1, ChainKind::Plain(service))
}

#[test]
fn filters_are_found_by_their_names() {
    let on_listener = listener_with(|of| of.filters = vec![filter("allow_"), filter("denny")]);
    assert_eq!(
        found(on_listener),
        "filters[0].allow_: there is no filter `allow_`, filters[1].denny: there is no filter `denny`"
    );
    let on_chain = listener_with(|of| chains(of)[0].filters = vec![filter("nope")]);
    assert_eq!(found(on_chain), "chains[0].filters[0].nope: there is no filter `nope`");
    assert_eq!(
        found(http_with(vec![filter("nope")])),
        "chains[0].http.filters[0].nope: there is no HTTP filter `nope`"
    );
    assert_eq!(
        found(http_with(vec![filter("request_id"), filter("request_id")])),
        "chains[0].http.filters[1].request_id: the filter `request_id` is listed twice"
    );
    let Resource::Routes(table) = routes_to("app") else { unreachable!() };
    let mut table = (*table).clone();
    let nope = FilterOverride { filter: "nope".into(), settings: None };
    table.virtual_hosts[0].rules[0].filters = vec![nope];
    assert_eq!(
        found(Resource::Routes(Arc::new(table))),
        "[0].rules[0].filters.nope: there is no HTTP filter `nope`"
    );
}

#[test]
fn chains_and_hosts_are_told_apart() {
    let equal = listener_with(|of| {
        let mut second = chains(of)[0].clone();
        second.criteria = Criteria { ports: vec![1], ..Criteria::default() };
        let third = second.clone();
        chains(of).extend([second, third]);
    });
    assert_eq!(
        found(equal),
        "chains[2]: this chain matches the same connections as an earlier one"
    );
    let Resource::Routes(table) = routes_to("app") else { unreachable!() };
    let mut table = (*table).clone();
    let mut second = table.virtual_hosts[0].clone();
    second.hosts = vec![HostPattern::Exact("a.test".into()), HostPattern::Any];
    table.virtual_hosts.push(second);
    assert_eq!(
        found(Resource::Routes(Arc::new(table))),
        "[1].hosts[1]: the host `*` is declared twice"
    );
}

#[test]
fn quic_needs_a_chain_that_terminates_tls_and_serves_http() {
    let quic = listener_with(|of| {
        let Traffic::Streams(streams) = &mut of.traffic else { unreachable!() };
        streams.quic = Some(sluice_quic::QuicOptions::default());
    });
    assert_eq!(
        found(quic),
        "quic: QUIC needs a TCP listener with a chain that has both `tls` and `http`"
    );
}

#[test]
fn files_that_do_not_load_are_named_at_their_field() {
    let mut tls = tls_of("site");
    tls.certificates = vec![CertificateSource::Pem { cert: "/none.pem".into(), key: None }];
    let errors = found(listener(1, ChainKind::Terminate(tls.clone(), http("web"))));
    assert!(errors.starts_with("chains[0].tls.certificates[0].cert: /none.pem: "), "{errors}");

    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, "").unwrap();
    tls.certificates =
        vec![CertificateSource::Pem { cert: cert.as_path().into(), key: Some(key.into()) }];
    let errors = found(listener(1, ChainKind::Terminate(tls.clone(), http("web"))));
    assert!(errors.starts_with("chains[0].tls.certificates[0].key: "), "{errors}");
    std::fs::write(folder.path().join("a.key"), made.signing_key.serialize_pem()).unwrap();

    let authorities = |crl: Option<&str>| sluice_tls::ClientAuth {
        ca: if crl.is_some() { cert.as_path().into() } else { "/none.pem".into() },
        crl: crl.map(Into::into),
        names: Vec::new(),
        required: true,
    };
    for (crl, at) in [(None, "ca"), (Some("/none.pem"), "crl")] {
        tls.client_auth = Some(authorities(crl));
        let errors = found(listener(1, ChainKind::Terminate(tls.clone(), http("web"))));
        let expected = format!("chains[0].tls.client_auth.{at}: /none.pem: ");
        assert!(errors.starts_with(&expected), "{errors}");
    }

    let client = ClientTls {
        verify: sluice_tls::Verify::Ca("/none.pem".into()),
        sni: None,
        send_sni: true,
        names: Vec::new(),
        certificate: None,
        alpn: Vec::new(),
        min_version: sluice_tls::TlsVersion::V1_2,
        http2: false,
        http3: false,
        early_data: false,
    };
    let settings = sluice_upstream::plan::ClusterSettings::bare();
    let cluster = Cluster { settings, tls: Some(Arc::new(client)), endpoint_file: None };
    let errors = found(Resource::Cluster(Arc::new(cluster)));
    assert!(errors.starts_with("tls.ca: /none.pem: "), "{errors}");
}
