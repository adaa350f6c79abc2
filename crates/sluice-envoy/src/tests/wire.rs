//! What planes send: on the wire, and put together.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::{Diags, Severity};

use super::taken;
use crate::delivered::DeliveredSecrets;
use crate::map::{PlaneNames, UnitSurroundings, unit};
use crate::message::ProtoMessage;
use crate::parts::{GivenParts, PartKind};
use crate::wire::{decode, encode, response_of_text};
use crate::{parts, sources};

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ASSIGNMENT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
const TABLE: &str = "envoy.config.route.v3.RouteConfiguration";

const WEB: &str = r#"
name: web
address: { socket_address: { address: 127.0.0.1, port_value: 8080 } }
metadata: { filter_metadata: { a: { b: [1, true, null, "x", { c: 0.5 }] } } }
filter_chains:
- filters:
  - name: http
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: web
      stream_idle_timeout: 0.25s
      use_remote_address: true
      rds: { route_config_name: main, config_source: { ads: {}, initial_fetch_timeout: 0s } }
      http_filters:
      - name: router
        typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
"#;

const ONE: &str =
    "{ name: one, type: EDS, eds_cluster_config: { service_name: s, eds_config: { ads: {} } } }";

/// The findings of one unit, as `path: message`.
fn found(message: &ProtoMessage, names: &mut PlaneNames) -> (String, Vec<String>) {
    found_with(message, &DeliveredSecrets::default(), names)
}

fn found_with(
    message: &ProtoMessage,
    secrets: &DeliveredSecrets<'_>,
    names: &mut PlaneNames,
) -> (String, Vec<String>) {
    let mut diags = Diags::new();
    let around = UnitSurroundings { resources: None, node: None, secrets };
    let mapped = unit(message, &around, names, &mut diags);
    let errors = diags.iter().filter(|found| found.severity == Severity::Error);
    (
        format!("{:?}", mapped.root),
        errors.map(|of| format!("{}: {}", of.path, of.message)).collect(),
    )
}

#[test]
fn a_message_on_the_wire_is_read_as_one_in_a_file() {
    for (name, text) in [(LISTENER, WEB), (CLUSTER, ONE)] {
        let bytes = encode(&taken(name, text));
        let mut diags = Diags::new();
        let read = decode(name, &bytes, 7, &mut diags).expect("it is whole");
        assert_eq!(diags.iter().count(), 0, "{diags:?}");
        assert_eq!(encode(&read).len(), bytes.len());
        assert!(read.span.file == 7 && read.fields.iter().all(|field| field.span.file == 7));
        // Every place leads to its field.
        let inner = read.fields.last().expect("a field");
        assert_eq!(read.path_of(inner.key_span).as_deref(), Some(inner.descriptor.name()));
        for end in 0..bytes.len() {
            let mut diags = Diags::new();
            let cut = decode(name, &bytes[..end], 7, &mut diags);
            assert!(cut.is_some() || diags.has_errors(), "cut at {end}");
        }
    }
}

#[test]
fn random_bytes_are_messages_or_errors() {
    let whole = encode(&taken(LISTENER, WEB));
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut diags = Diags::new();
        let read = decode(LISTENER, &bytes, 1, &mut diags);
        assert!(read.is_some() || diags.has_errors(), "seed {seed}");
    }
}

#[test]
fn what_has_no_definition_is_said() {
    let decoded = |name: &str, bytes: &[u8]| {
        let mut diags = Diags::new();
        let read = decode(name, bytes, 1, &mut diags);
        let shown: Vec<_> = diags.iter().map(|of| (of.severity, of.message.clone())).collect();
        (read.is_some(), shown)
    };
    // The field 9999, a varint.
    let unknown = [0xf8, 0xf0, 0x04, 0x01];
    let bytes = [encode(&taken(CLUSTER, "{ name: a }")), unknown.to_vec()].concat();
    let text = format!("{CLUSTER} has no field with the number 9999");
    assert_eq!(decoded(CLUSTER, &bytes), (true, vec![(Severity::Warning, text)]));
    // Where it may be what keeps somebody out.
    let guard = "envoy.extensions.filters.http.rbac.v3.RBAC";
    let (read, shown) = decoded(guard, &unknown);
    assert!(!read && shown[0].0 == Severity::Error, "{shown:?}");
    let (read, shown) = decoded(CLUSTER, b"\xff");
    assert!(!read && shown[0].1.starts_with("it cannot be decoded"), "{shown:?}");
    // Rules hold on the wire as well.
    assert!(decoded(CLUSTER, b"").1[0].1.contains("name"), "a cluster needs a name");
    // Messages in messages, without an end.
    let field = |number: u8, bytes: &[u8]| {
        let mut length = bytes.len();
        let mut all = vec![(number << 3) | 2];
        while length > 127 {
            all.push(u8::try_from(length & 127).expect("seven bits") | 128);
            length >>= 7;
        }
        all.push(u8::try_from(length).expect("seven bits"));
        all.extend(bytes);
        all
    };
    let url = b"type.googleapis.com/google.protobuf.Any";
    let any = |inner: Vec<u8>| [field(1, url), field(2, &inner)].concat();
    let nested = (0..400).fold(Vec::new(), |inner, _| any(inner));
    let config = [field(1, b"a"), field(2, &nested)].concat();
    let (read, shown) = decoded("envoy.config.core.v3.TypedExtensionConfig", &config);
    assert!(!read && shown[0].1.contains("nested too deeply"), "{shown:?}");
}

#[test]
fn a_response_may_be_written_as_text() {
    let text = r#"{ version_info: "1", resources: [{ "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: a }] }"#;
    let mut diags = Diags::new();
    let name = "envoy.service.discovery.v3.DiscoveryResponse";
    let read =
        decode(name, &response_of_text(text).expect("a response"), 0, &mut diags).expect("it");
    assert_eq!(
        read.messages("resources").next().and_then(|of| of.text("name")).map(|of| &**of),
        Some("a")
    );
    // A resource that breaks a rule leaves the others alone: it is judged where it is decoded.
    let rule = text.replace("name: a }", "name: a }, { \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: \"\", connect_timeout: 0s }");
    let encoded = response_of_text(&rule).expect("a response");
    assert!(decode(name, &encoded, 0, &mut diags).is_some());
    assert!(diags.has_errors(), "the rule holds there");
    for (text, problem) in [
        ("", "the file is empty"),
        ("{ resources: [{ name: a }] }", "resources[0].@type"),
        ("{ resourcs: [] }", "resourcs"),
    ] {
        let found = response_of_text(text).expect_err(text);
        assert!(found.contains(problem), "{text}: {found}");
    }
}

fn endpoints(assignment: Option<&ProtoMessage>) -> GivenParts<'_> {
    GivenParts { endpoints: assignment, ..GivenParts::default() }
}

#[test]
fn a_cluster_is_put_together_with_its_endpoints() {
    let cluster = taken(CLUSTER, ONE);
    let needed = parts::needed(&cluster);
    let [part] = needed.as_slice() else { panic!("it needs endpoints: {needed:?}") };
    assert_eq!((part.kind, &*part.name), (PartKind::Endpoints, "s"));
    let source = sources::source(part.source.expect("a source"), &mut Diags::new()).expect("one");
    assert_eq!(source.from, sources::SourceKind::Ads);
    assert_eq!(source.fetch_timeout.map(|time| time.as_secs()), Some(15));
    let endpoint = |port: u16, status: &str| {
        format!(
            "{{ health_status: {status}, endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}"
        )
    };
    let text = format!(
        "{{ cluster_name: s, endpoints: [{{ priority: 1, lb_endpoints: [{}, {}, {}] }}] }}",
        endpoint(1, "HEALTHY"),
        endpoint(2, "DRAINING"),
        endpoint(3, "UNHEALTHY")
    );
    let assignment = taken(ASSIGNMENT, &text);
    let mut names = PlaneNames::default();
    let with = |assignment: Option<&ProtoMessage>, names: &mut PlaneNames| {
        let mut diags = Diags::new();
        let whole = parts::whole(&cluster, &endpoints(assignment), &mut diags);
        assert!(!diags.has_errors(), "{diags:?}");
        found(&whole, names)
    };
    let (root, errors) = with(Some(&assignment), &mut names);
    assert_eq!(errors, Vec::<String>::new());
    // Those that take no traffic are there, so that the share of healthy ones is right.
    for text in ["127.0.0.1:1", "127.0.0.1:2", "draining", "127.0.0.1:3", "unhealthy"] {
        assert!(root.contains(text), "{text}\n{root}");
    }
    assert_eq!(with(None, &mut names).1, Vec::<String>::new(), "it may have none yet");
    let drops = taken(
        ASSIGNMENT,
        "{ cluster_name: s, policy: { drop_overloads: [{ category: x, drop_percentage: { numerator: 1 } }] } }",
    );
    let (root, errors) = with(Some(&drops), &mut names);
    assert_eq!(errors, Vec::<String>::new());
    assert!(root.contains("drop") && root.contains("1%"), "{root}");
}

#[test]
fn a_listener_is_put_together_with_its_routes() {
    let listener = taken(LISTENER, WEB);
    let needed = parts::needed(&listener);
    assert_eq!(needed.iter().map(|part| &*part.name).collect::<Vec<_>>(), ["main"]);
    let table = taken(
        TABLE,
        "{ name: main, virtual_hosts: [{ name: a, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster: 'x|y' } }] }] }",
    );
    let mut names = PlaneNames::default();
    assert_eq!(&*names.cluster("x_y"), "x_y");
    let tables =
        GivenParts { routes: HashMap::from([("main".into(), &table)]), ..GivenParts::default() };
    let with = |listener: &ProtoMessage, given: &GivenParts<'_>| {
        parts::whole(listener, given, &mut Diags::new())
    };
    let (root, errors) = found(&with(&listener, &tables), &mut names);
    assert_eq!(errors, Vec::<String>::new());
    assert!(root.contains("x_y-2") && root.contains("web.main"), "{root}");
    let again = found(&with(&listener, &tables), &mut names).0;
    assert_eq!(root, again, "names stay");
    let (_, errors) = found(&with(&listener, &GivenParts::default()), &mut names);
    assert_eq!(errors, Vec::<String>::new(), "it may have none yet");
    // Two listeners must not be one in the native form.
    let other = taken(LISTENER, &WEB.replace("name: web\n", "name: 'w?b'\n"));
    let third = taken(LISTENER, &WEB.replace("name: web\n", "name: 'w!b'\n"));
    assert_eq!(found(&with(&other, &tables), &mut names).1, Vec::<String>::new());
    let errors = found(&with(&third, &tables), &mut names).1;
    assert!(errors[0].contains("has the same name"), "{errors:?}");
    names.forget_listener("w?b");
    assert_eq!(found(&with(&third, &tables), &mut names).1, Vec::<String>::new());
}

#[test]
fn a_chain_without_a_part_refuses_connections() {
    let source = "{ ads: {} }";
    let socket = format!(
        "{{ name: tls, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: {{ tls_certificate_sds_secret_configs: [{{ name: site, sds_config: {source} }}], validation_context_sds_secret_config: {{ name: clients, sds_config: {source} }} }} }} }}"
    );
    let text = WEB.replace("- filters:", &format!("- transport_socket: {socket}\n  filters:"));
    let filter = format!(
        "- name: later\n        config_discovery: {{ config_source: {source}, type_urls: [type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors] }}\n      - name: router"
    );
    let listener = taken(LISTENER, &text.replace("- name: router", &filter));
    let needed = parts::needed(&listener);
    let names: Vec<_> = needed.iter().map(|part| (part.kind, &*part.name)).collect();
    let all = [
        (PartKind::Secret, "site"),
        (PartKind::Secret, "clients"),
        (PartKind::Routes, "main"),
        (PartKind::Extension, "later"),
    ];
    assert!(all.iter().all(|part| names.contains(part)) && names.len() == 4, "{names:?}");
    let secret = |text: &str| taken("envoy.extensions.transport_sockets.tls.v3.Secret", text);
    let site = secret(
        "{ name: site, tls_certificate: { certificate_chain: { inline_string: cert }, private_key: { inline_string: key } } }",
    );
    let clients =
        secret("{ name: clients, validation_context: { trusted_ca: { inline_string: ca } } }");
    let settings = taken(
        "envoy.config.core.v3.TypedExtensionConfig",
        "{ name: later, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors } }",
    );
    let mut names = PlaneNames::default();
    for (has_secrets, has_settings) in [(false, true), (true, false), (true, true)] {
        let of = |name: &str, of: &'_ ProtoMessage| (Arc::<str>::from(name), of.clone());
        let given = [of("site", &site), of("clients", &clients)];
        let given = given.iter().filter(|_| has_secrets);
        let secrets = DeliveredSecrets::new(given.map(|(name, of)| (name.clone(), of)).collect());
        let extensions = has_settings.then(|| ("later".into(), &settings)).into_iter().collect();
        let parts = GivenParts { extensions, ..GivenParts::default() };
        let whole = parts::whole(&listener, &parts, &mut Diags::new());
        let (root, errors) = found_with(&whole, &secrets, &mut names);
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(root.contains("incomplete"), !(has_secrets && has_settings), "{root}");
        assert!(root.contains("client_auth"), "who is let in is the same: {root}");
    }
    // Settings of another type than the filter takes.
    let other = taken(
        "envoy.config.core.v3.TypedExtensionConfig",
        "{ name: later, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }",
    );
    let extensions = HashMap::from([("later".into(), &other)]);
    let mut diags = Diags::new();
    parts::whole(&listener, &GivenParts { extensions, ..GivenParts::default() }, &mut diags);
    let finding = diags.iter().next().expect("a finding");
    assert!(
        finding.message.contains("takes type.googleapis.com/envoy.extensions.filters.http.cors")
    );
}

#[test]
fn a_secret_in_a_resource_is_found_and_the_name_of_a_file_is_none() {
    let cluster = |certificate: &str| {
        let text = format!(
            "{{ name: a, transport_socket: {{ name: tls, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{ tls_certificates: [{certificate}] }} }} }} }}"
        );
        parts::has_secret(&taken(CLUSTER, &text))
    };
    let chain = "certificate_chain: { inline_string: public }";
    assert!(cluster(&format!("{{ {chain}, private_key: {{ inline_string: key }} }}")));
    assert!(cluster(&format!("{{ {chain}, private_key: {{ inline_bytes: a2V5 }} }}")));
    assert!(!cluster(&format!("{{ {chain}, private_key: {{ filename: /key.pem }} }}")));
    assert!(!cluster(&format!("{{ {chain} }}")));
}
