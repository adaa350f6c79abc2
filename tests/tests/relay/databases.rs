//! Health checks of database servers, and what becomes of traffic when their roles change.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::Value;
use sluice_testkit::{Authority, Running, Sluice, wait};
use sluice_tests::databases::{Mariadb, Postgres, Redis, psql, redis};
use sluice_tests::{certs_beside, sample};

/// A configuration with these clusters, each of one endpoint with that health section and more.
fn checked(clusters: &[(String, SocketAddr, String)]) -> String {
    let each = |(name, at, more): &(String, SocketAddr, String)| {
        let listener = format!("  - {{ name: {name}, address: 127.0.0.1:0, relay: {name} }}\n");
        (listener, format!("  {name}: {{ endpoints: [\"{at}\"], {more} }}\n"))
    };
    let (listeners, clusters): (Vec<_>, Vec<_>) = clusters.iter().map(each).unzip();
    format!("listeners:\n{}clusters:\n{}", listeners.concat(), clusters.concat())
}

/// Checks have more time than there is between them, so that no machine is too slow for them.
fn patient() -> Sluice {
    Sluice::new().expect_warning("endpoint is unhealthy").expect_warning("warning[slow-check]")
}

/// Waits for the first check of each cluster's endpoint; the cause if it is unhealthy.
#[track_caller]
fn found(sluice: &Running, cluster: &str) -> Result<(), String> {
    let labels = |result| format!("cluster=\"{cluster}\",result=\"{result}\"");
    let count = |result| sluice.metric("sluice_health_checks_total", &labels(result));
    wait::until("two checks", || (count("ok") + count("failed") > 1).then_some(()));
    let clusters = sluice.items("/clusters");
    let this = clusters.iter().find(|of| of["name"] == cluster).unwrap();
    match this["endpoints"][0]["trouble"]["unhealthy"]["cause"].as_str() {
        Some(cause) => Err(cause.to_owned()),
        None => Ok(()),
    }
}

/// Asserts what each check finds: nothing, or a cause that contains the text.
#[track_caller]
fn all_as_expected(sluice: &Running, expected: &[(&str, &str)]) {
    for (cluster, cause) in expected {
        match found(sluice, cluster) {
            Ok(()) => assert_eq!(*cause, "", "{cluster} is healthy"),
            Err(found) if cause.is_empty() => panic!("{cluster}: {found}"),
            Err(found) => assert!(found.contains(cause), "{cluster}: {found}"),
        }
    }
}

fn is_healthy(sluice: &Running, cluster: &str, endpoint: SocketAddr) -> bool {
    let clusters = sluice.items("/clusters");
    let this = clusters.iter().find(|of| of["name"] == cluster).unwrap();
    let endpoints = this["endpoints"].as_array().unwrap();
    let fits = |of: &&Value| of["address"] == endpoint.to_string();
    endpoints.iter().find(fits).unwrap()["healthy"] == true
}

#[test]
fn redis_is_asked_for_its_role_and_writes_follow_the_primary() {
    if !Redis::is_there() {
        return;
    }
    let password = ["--requirepass", "secret", "--masterauth", "secret"];
    let (locked, one, two) = (Redis::start(&password), Redis::start(&[]), Redis::start(&[]));
    two.follow(Some(&one));
    let check = |of: &str| format!("health: {{ redis: {of}, interval: 20ms, timeout: 20s }}");
    let named = |name: &str, at: &Redis, of: &str| (name.to_owned(), at.addr(), check(of));
    let of_role = |role: &str| {
        format!(
            "  {role}s: {{ endpoints: [\"{}\", \"{}\"], {} }}\n",
            one.addr(),
            two.addr(),
            check(&format!("{{ role: {role} }}"))
        )
    };
    let kit = patient();
    std::fs::write(kit.folder().join("password"), "secret\n").unwrap();
    let mut yaml = checked(&[
        named("ping", &one, "true"),
        named("open", &locked, "true"),
        named("login", &locked, "{ password: { file: password } }"),
        named("user", &locked, "{ user: default, password: secret, role: primary }"),
        named("wrong", &locked, "{ password: wrong }"),
    ]);
    yaml += &of_role("primary");
    yaml += &of_role("replica");
    let listener = |role: &str| {
        format!("listeners:\n  - {{ name: {role}, address: 127.0.0.1:0, relay: {role}s }}\n")
    };
    yaml = yaml.replacen("listeners:\n", &listener("primary"), 1);
    yaml = yaml.replacen("listeners:\n", &listener("replica"), 1);
    let sluice = kit.start(&yaml);
    // The port led to nobody before the role was known.
    let primary = sluice.addr("primary");
    assert_eq!(redis(primary, &["SET", "a", "1"]), "OK");
    all_as_expected(
        &sluice,
        &[("ping", ""), ("open", "NOAUTH"), ("login", ""), ("user", ""), ("wrong", "WRONGPASS")],
    );
    let role = |at| redis(at, &["ROLE"]).lines().next().unwrap().to_owned();
    for _ in 0..10 {
        assert_eq!(
            (role(primary), role(sluice.addr("replica"))),
            ("master".into(), "slave".into())
        );
    }
    // Failover: the roles change.
    two.follow(None);
    one.follow(Some(&two));
    wait::until("the new primary", || {
        let as_primary = (
            is_healthy(&sluice, "primarys", one.addr()),
            is_healthy(&sluice, "primarys", two.addr()),
        );
        let as_replica = (
            is_healthy(&sluice, "replicas", one.addr()),
            is_healthy(&sluice, "replicas", two.addr()),
        );
        (as_primary == (false, true) && as_replica == (true, false)).then_some(())
    });
    assert_eq!(redis(primary, &["SET", "a", "2"]), "OK");
    assert_eq!(two.ask(&["GET", "a"]), "2");
}

#[test]
fn postgres_logs_in_by_every_method() {
    if !Postgres::is_there() {
        return;
    }
    let kit = patient();
    let certs = certs_beside(&kit);
    let authority = Authority::new(&certs);
    authority.issue("db", &["db.test"]);
    let server = Postgres::start(&certs, "db");
    server.query(
        "set password_encryption = 'scram-sha-256'; create role scram login password 'open-sesame'; \
         create role clear login password 'open-sesame'; set password_encryption = 'md5'; \
         create role hashed login password 'open-sesame'; create role trusted login",
    );
    server.admit(
        "local all all trust\nhost all scram 127.0.0.1/32 scram-sha-256\n\
         host all hashed 127.0.0.1/32 md5\nhost all clear 127.0.0.1/32 password\n\
         host all trusted 127.0.0.1/32 trust\nhost all postgres 127.0.0.1/32 trust\n",
    );
    std::fs::write(kit.folder().join("password"), "open-sesame\n").unwrap();
    let tls = "tls: { ca: certs/ca.pem, sni: db.test }, ";
    let login = |name: &str, tls: &str, of: &str| {
        let health = format!(
            "{tls}health: {{ postgres: {of}, interval: 20ms, timeout: 20s, unhealthy_after: 1 }}"
        );
        (name.to_owned(), server.addr(), health)
    };
    let as_user = |user: &str| {
        format!(
            "{{ user: {user}, database: postgres, password: {{ file: password }}, role: primary }}"
        )
    };
    let sluice = kit.start(&checked(&[
        login("nobody", "", "true"),
        login("nobody-tls", tls, "true"),
        login("scram", "", &as_user("scram")),
        login("scram-tls", tls, &as_user("scram")),
        login("hashed", "", &as_user("hashed")),
        login("clear", "", &as_user("clear")),
        login("clear-tls", tls, &as_user("clear")),
        login("trusted", "", "{ user: trusted, database: postgres, role: primary }"),
        login("standby", "", "{ user: trusted, database: postgres, role: standby }"),
        login("wrong", "", "{ user: scram, database: postgres, password: wrong }"),
        login("without", "", "{ user: scram, database: postgres }"),
        login("database", "", "{ user: trusted, database: nowhere }"),
    ]));
    all_as_expected(
        &sluice,
        &[
            ("nobody", ""),
            ("nobody-tls", ""),
            ("scram", ""),
            ("scram-tls", ""),
            ("hashed", ""),
            ("clear", "asks for the password in clear text"),
            ("clear-tls", ""),
            ("trusted", ""),
            ("standby", "it is a primary, not a standby"),
            ("wrong", "password authentication failed"),
            ("without", "asks for a password"),
            ("database", "database \"nowhere\" does not exist"),
        ],
    );
    // The password is shown nowhere.
    let shown = sluice.page("/config").1 + &sluice.log();
    assert!(!shown.contains("open-sesame"), "{shown}");
}

/// Writes go to the primary before, during and after a failover, and never to a standby.
#[test]
fn postgres_writes_go_to_the_primary_through_a_failover() {
    if !Postgres::is_there() {
        return;
    }
    let mut one = Postgres::primary();
    let two = one.standby();
    one.query("create table written (by int, value int)");
    let kit =
        Sluice::new().expect_warning("endpoint is unhealthy").expect_warning("endpoint ejected");
    std::fs::write(kit.folder().join("password"), "not asked for\n").unwrap();
    let sluice = kit.start(&sample(
        "postgres-failover.yaml",
        &[
            ("127.0.0.1:6432", "127.0.0.1:0".into()),
            ("127.0.0.1:6433", "127.0.0.1:0".into()),
            ("127.0.0.10:5432", one.addr().to_string()),
            ("127.0.0.11:5432", two.addr().to_string()),
            ("interval: 2s", "interval: 50ms".into()),
            ("user: sluice", "user: postgres".into()),
        ],
    ));
    let through = |listener: &str| {
        let port = sluice.addr(listener).port();
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres")
    };
    let write = |value: u32| {
        let query =
            format!("insert into written values (inet_server_port(), {value}) returning by");
        let mut client = sluice_testkit::tools::command("psql");
        client.args(["-X", "-q", "-A", "-t", &through("writes"), "-c", &query]);
        let output = sluice_testkit::tools::run(&mut client);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // A standby would refuse it with these words.
        assert!(!said.contains("read-only"), "{said}");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (first, second) = (one.port.to_string(), two.port.to_string());
    for value in 0..5 {
        assert_eq!(write(value), Some(first.clone()));
    }
    let read = || psql(&through("reads"), "select inet_server_port()");
    assert_eq!(read(), second);
    // A session that is open when the primary is lost ends; the port leads to nobody until the standby is promoted.
    one.stop();
    assert_eq!(write(100), None);
    two.promote();
    let mut value = 200;
    wait::until("writes to the new primary", || {
        value += 1;
        write(value).filter(|by| *by == second)
    });
    // The old primary returns as a standby; it takes reads and no writes.
    one.follow(&two);
    wait::until("reads from the old primary", || {
        let mut client = sluice_testkit::tools::command("psql");
        client.args(["-X", "-A", "-t", &through("reads"), "-c", "select inet_server_port()"]);
        let output = sluice_testkit::tools::run(&mut client);
        (String::from_utf8_lossy(&output.stdout).trim() == first).then_some(())
    });
    for value in 300..305 {
        assert_eq!(write(value), Some(second.clone()));
    }
    let by_two =
        two.query(&format!("select count(*) from written where by = {second} and value >= 200"));
    assert_eq!(by_two, "6");
}

#[test]
fn mariadb_logs_in_and_tells_whether_it_is_read_only() {
    if !Mariadb::is_there() {
        return;
    }
    let kit = patient();
    let certs = certs_beside(&kit);
    Authority::new(&certs).issue("db", &["db.test"]);
    let (open, with_tls) = (Mariadb::start(None), Mariadb::start(Some((&certs, "db"))));
    for server in [&open, &with_tls] {
        server.run(
            "create user checker@'127.0.0.1' identified by 'secret'; create user bare@'127.0.0.1'; \
             install soname 'auth_ed25519'; \
             create user modern@'127.0.0.1' identified via ed25519 using password('secret')",
        );
    }
    std::fs::write(kit.folder().join("password"), "secret\n").unwrap();
    let check = |name: &str, server: &Mariadb, more: &str, of: &str| {
        let health = format!(
            "{more}health: {{ mysql: {of}, interval: 20ms, timeout: 20s, unhealthy_after: 1 }}"
        );
        (name.to_owned(), server.addr(), health)
    };
    let tls = "tls: { ca: certs/ca.pem, sni: db.test }, ";
    let checker = "{ user: checker, password: { file: password }, role: primary }";
    let sluice = kit.start(&checked(&[
        check("bare", &open, "", "{ user: bare }"),
        check("checker", &open, "", checker),
        check("checker-tls", &with_tls, tls, checker),
        check("no-tls", &open, tls, checker),
        check("replica", &open, "", "{ user: bare, role: replica }"),
        check("wrong", &open, "", "{ user: checker, password: wrong }"),
        check("modern", &open, "", "{ user: modern, password: secret }"),
    ]));
    all_as_expected(
        &sluice,
        &[
            ("bare", ""),
            ("checker", ""),
            ("checker-tls", ""),
            ("no-tls", "does not offer TLS"),
            ("replica", "it is a primary, not a replica"),
            ("wrong", "Access denied"),
            ("modern", "client_ed25519"),
        ],
    );
    // The primary is demoted.
    open.run("set global read_only = 1");
    wait::until("the change", || {
        let roles = (
            is_healthy(&sluice, "checker", open.addr()),
            is_healthy(&sluice, "replica", open.addr()),
        );
        (roles == (false, true)).then_some(())
    });
    assert_eq!(found(&sluice, "checker"), Err("it is a replica, not a primary".into()));
    // Checks end their sessions as a client should.
    let log = open.log();
    assert!(!log.contains("Aborted connection"), "{log}");
}
