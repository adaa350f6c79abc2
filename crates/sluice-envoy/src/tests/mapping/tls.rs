//! TLS of both sides, and secrets.

use super::*;

#[test]
fn tls_of_clients() {
    let with = |context: &str| {
        let name = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
        let socket = format!(
            "transport_socket: {{ name: tls, typed_config: {{ '@type': t/{name}, {context} }} }}"
        );
        tcp("").replace("[{ filters", &format!("[{{ {socket}, filters"))
    };
    let certificate = "tls_certificates: [{ certificate_chain: { filename: a.pem }, private_key: { filename: a.key } }]";
    let tls = "listeners/0/chains/0/tls";
    expect(
        &with(&format!(
            "require_client_certificate: true, common_tls_context: {{ {certificate}, alpn_protocols: h2, validation_context: {{ trusted_ca: {{ filename: ca.pem }} }} }}"
        )),
        &[
            (&format!("{tls}/certificates/0/cert"), "a.pem"),
            (&format!("{tls}/certificates/0/key"), "a.key"),
            (&format!("{tls}/alpn"), "h2"),
            (&format!("{tls}/client_auth/ca"), "ca.pem"),
            (&format!("{tls}/client_auth/mode"), "required"),
        ],
    );
    // What would let in a client that Envoy refuses.
    for (context, expected) in [
        (
            "require_client_certificate: true, common_tls_context: { CERT }",
            "any certificate would do",
        ),
        (
            "require_client_certificate: true, common_tls_context: { CERT, validation_context: {} }",
            "any certificate would do",
        ),
        (
            "common_tls_context: { CERT, validation_context: { match_typed_subject_alt_names: [{ san_type: URI, matcher: { exact: a } }] } }",
            "without a `trusted_ca`, they prove nothing",
        ),
        (
            "common_tls_context: { CERT, validation_context: { trusted_ca: { filename: ca.pem }, match_typed_subject_alt_names: [{ san_type: EMAIL, matcher: { exact: a } }] } }",
            "names are DNS, URI or IP_ADDRESS",
        ),
        (
            "common_tls_context: { CERT, validation_context: { trusted_ca: { filename: ca.pem }, match_typed_subject_alt_names: [{ san_type: URI, matcher: { suffix: a } }] } }",
            "only `exact` and `prefix` are",
        ),
        (
            "common_tls_context: { CERT, validation_context: { trusted_ca: { filename: ca.pem }, verify_certificate_spki: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa] } }",
            "`verify_certificate_spki` of",
        ),
        (
            "common_tls_context: { CERT, validation_context: { trust_chain_verification: ACCEPT_UNTRUSTED } }",
            "certificates are always verified",
        ),
        ("require_sni: true, common_tls_context: { CERT }", "`require_sni` of"),
        (
            "common_tls_context: { tls_certificates: [{ certificate_chain: { environment_variable: SLUICE_TEST_NONE }, private_key: { filename: a.key } }] }",
            "the environment variable `SLUICE_TEST_NONE` is not set",
        ),
        (
            "common_tls_context: { tls_certificate_sds_secret_configs: [{ name: gone }] }",
            "there is no secret `gone`",
        ),
        (
            "common_tls_context: { tls_certificate_sds_secret_configs: [{ name: s, sds_config: { ads: {} } }] }",
            "`s` comes over `ads`, but there is no `ads_config`",
        ),
        (
            "common_tls_context: { CERT, tls_params: { cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256] } }",
            "ECDHE-ECDSA-AES128-GCM-SHA256 is always offered",
        ),
    ] {
        refused(&with(&context.replace("CERT", certificate)), expected);
    }
    let named = with("common_tls_context: { tls_certificate_sds_secret_configs: [{ name: s }] }").replace(
        "{ listeners",
        "{ secrets: [{ name: s, tls_certificate: { certificate_chain: { filename: b.pem }, private_key: { filename: b.key } } }], listeners",
    );
    expect(&named, &[(&format!("{tls}/certificates/0/cert"), "b.pem")]);
    let combined = with(&format!(
        "common_tls_context: {{ {certificate}, combined_validation_context: {{ default_validation_context: {{ match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ prefix: 'spiffe://m/' }} }}] }}, validation_context_sds_secret_config: {{ name: s }} }} }}"
    ))
    .replace(
        "{ listeners",
        "{ secrets: [{ name: s, validation_context: { trusted_ca: { inline_string: PEM } } }, { name: unused, tls_certificate: {} }], listeners",
    );
    expect(
        &combined,
        &[
            (&format!("{tls}/client_auth/ca/inline"), "PEM"),
            (&format!("{tls}/client_auth/names"), "uri:spiffe://m/*"),
            (&format!("{tls}/client_auth/mode"), "optional"),
        ],
    );
    differs(&combined_with_old_ciphers(&with, certificate), "of TLS 1.2, only these are offered");
}

/// Every cipher that is offered, and one that is not.
fn combined_with_old_ciphers(with: &dyn Fn(&str) -> String, certificate: &str) -> String {
    let ciphers = "'[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]', '[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]', ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-RSA-AES256-GCM-SHA384, AES128-SHA";
    with(&format!(
        "common_tls_context: {{ {certificate}, tls_params: {{ cipher_suites: [{ciphers}] }} }}"
    ))
}

#[test]
fn keys_inside_the_file_are_not_shown() {
    let name = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let pem = "{ certificate_chain: { inline_string: CHAIN }, private_key: { inline_bytes: S0VZLUJZVEVT } }";
    let text = cluster(&format!(
        "transport_socket: {{ name: t, typed_config: {{ '@type': t/{name}, common_tls_context: {{ tls_certificates: [{pem}] }} }} }}"
    ));
    let certificate = "clusters/a/tls/certificate";
    expect(
        &text,
        &[
            (&format!("{certificate}/cert/inline"), "CHAIN"),
            (&format!("{certificate}/key/inline"), "KEY-BYTES"),
        ],
    );
    let loaded = load_text(Path::new("envoy.yaml"), text, &UnknownFields::Refuse.into());
    let (config, root) = (loaded.usable().unwrap(), loaded.root.as_ref().unwrap());
    let shown = sluice_config::explain::yaml(config, root, &sluice_config::NoFilters);
    assert!(shown.contains("inline: \"[redacted]\""), "{shown}");
    assert!(!shown.contains("KEY-BYTES"), "{shown}");
}

#[test]
fn secrets_in_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sds.yaml");
    let kind = "envoy.extensions.transport_sockets.tls.v3";
    let name = format!("{kind}.UpstreamTlsContext");
    let text = cluster(&format!(
        "transport_socket: {{ name: t, typed_config: {{ '@type': t/{name}, common_tls_context: {{ tls_certificate_sds_secret_configs: [{{ name: own, sds_config: {{ path_config_source: {{ path: '{}' }} }} }}] }} }} }}",
        path.display()
    ));
    refused(&text, "sds_config");
    let secret = |name: &str, more: &str| {
        format!(
            "resources: [{{ '@type': t/{kind}.Secret, name: {name}, tls_certificate: {{ certificate_chain: {{ filename: a.pem }}, private_key: {{ filename: a.key }}{more} }} }}]"
        )
    };
    std::fs::write(&path, secret("other", "")).unwrap();
    refused(&text, "there is no secret `own` in ");
    std::fs::write(&path, secret("own", ", password: { inline_string: x }")).unwrap();
    refused(&text, "`password` of");
    std::fs::write(&path, secret("own", "")).unwrap();
    expect(&text, &[("clusters/a/tls/certificate/key", "a.key")]);
    differs(&text, "the file is read whenever the configuration is");
}

#[test]
fn early_data_over_quic() {
    let with = |own: &str, context: &str| {
        let name = "envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport";
        let certificate = "tls_certificates: [{ certificate_chain: { filename: a.pem }, private_key: { filename: a.key } }]";
        let socket = format!(
            "transport_socket: {{ name: quic, typed_config: {{ '@type': t/{name}{own}, downstream_tls_context: {{ common_tls_context: {{ {certificate}{context} }} }} }} }}"
        );
        hcm("codec_type: HTTP3", "{ match: { prefix: / }, route: { cluster: a } }")
            .replacen(
                "{ socket_address: { address",
                "{ socket_address: { protocol: UDP, address",
                1,
            )
            .replacen(
                "filter_chains",
                "udp_listener_config: { quic_options: {} }, filter_chains",
                1,
            )
            .replace("[{ filters", &format!("[{{ {socket}, filters"))
    };
    let sessions = "listeners/0/chains/0/tls/early_data_sessions";
    let granted = |text: &str| {
        let (root, found) = load(text);
        at(&root.unwrap_or_else(|| panic!("{found:#?}")), sessions)
    };
    let clients = ", validation_context: { trusted_ca: { filename: ca.pem } }";
    assert_eq!(granted(&with("", "")).as_deref(), Some("4096"));
    assert_eq!(granted(&with(", enable_early_data: false", "")), None);
    assert_eq!(granted(&with("", clients)), None);
    differs(&with(", enable_early_data: true", clients), "must show a certificate");

    let upstream = |protocol: &str| {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let socket = "envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport";
        cluster(&format!(
            "typed_extension_protocol_options: {{ {options}: {{ '@type': t/{options}, {protocol} }} }}, transport_socket: {{ name: quic, typed_config: {{ '@type': t/{socket}, upstream_tls_context: {{ sni: a.test }} }} }}"
        ))
    };
    expect(
        &upstream("explicit_http_config: { http3_protocol_options: {} }"),
        &[("clusters/a/tls/early_data", "true"), ("clusters/a/tls/sni", "a.test")],
    );
    let policy = "envoy.extensions.early_data.v3.DefaultEarlyDataPolicy";
    expect(
        &route(&format!(
            ", early_data_policy: {{ name: p, typed_config: {{ '@type': t/{policy} }} }}"
        )),
        &[],
    );
}

#[test]
fn names_that_cannot_be_sent() {
    let context = |more: &str| {
        let name = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        cluster(&format!(
            "transport_socket: {{ name: tls, typed_config: {{ '@type': t/{name}, {more} }} }}"
        ))
    };
    let trusted =
        "common_tls_context: { validation_context: { trusted_ca: { filename: ca.pem } } }";
    for name in ["'*.a.test'", "a.test.80"] {
        let of = context(&format!("sni: {name}, {trusted}"));
        expect(&of, &[("clusters/a/tls/send_sni", "false")]);
        differs(&of, "no server name is sent");
    }
    let replaced = format!("auto_sni_san_validation: true, {trusted}");
    let of = context(&format!("sni: a.test.80, {replaced}"));
    expect(&of, &[("clusters/a/tls/names", "dns:a.test.80")]);
    refused(&context(&format!("sni: '*.a.test', {replaced}")), "of a name with a star");
}
