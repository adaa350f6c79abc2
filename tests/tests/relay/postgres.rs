//! PostgreSQL behind Sluice: routed by name, with STARTTLS, under load during reloads.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_testkit::{Authority, Sluice, tools, wait};
use sluice_tests::databases::{Postgres, psql};
use sluice_tests::{certs_beside, sample};

/// A connection string that resolves `host` to Sluice.
fn conninfo(host: &str, at: SocketAddr, database: &str, ca: &Path) -> String {
    format!(
        "host={host} hostaddr=127.0.0.1 port={} user=postgres dbname={database} sslmode=verify-full sslrootcert={}",
        at.port(),
        ca.display()
    )
}

#[test]
fn by_name_passed_through_and_terminated() {
    if !Postgres::is_there() {
        return;
    }
    let kit = Sluice::new();
    let certs = certs_beside(&kit);
    let authority = Authority::new(&certs);
    authority.issue("orders", &["orders.db.example.com"]);
    authority.issue("db", &["users.db.example.com"]);
    let orders = Postgres::start(&certs, "orders");
    let users = Postgres::start(&certs, "db");
    let sluice = kit.start(&sample(
        "postgres-by-name.yaml",
        &[
            ("127.0.0.1:6432", "127.0.0.1:0".into()),
            ("127.0.0.10:5432", orders.addr().to_string()),
            ("127.0.0.11:5432", users.addr().to_string()),
            ("127.0.0.12:5432", users.addr().to_string()),
        ],
    ));
    let (at, ca) = (sluice.addr("postgres"), certs.join("ca.pem"));
    let query = "select inet_server_port()";
    assert_eq!(
        psql(&conninfo("orders.db.example.com", at, "postgres", &ca), query),
        orders.port.to_string()
    );
    let record = sluice.record("orders", |record| record["filter_chain_name"] == "orders");
    assert_eq!(
        (&record["protocol"], &record["requested_server_name"]),
        (&"postgres".into(), &"orders.db.example.com".into())
    );

    let users_info = |database: &str| conninfo("users.db.example.com", at, database, &ca);
    assert_eq!(psql(&users_info("postgres"), query), users.port.to_string());
    let record = sluice.record("users", |record| record["filter_chain_name"] == "users/rest");
    assert_eq!(
        (&record["postgres_database"], &record["downstream_tls_version"]),
        (&"postgres".into(), &"1.3".into())
    );
    psql(&users_info("postgres"), "create database reports_2026");
    psql(&users_info("reports_2026"), "select 1");
    sluice.record("reports", |record| record["filter_chain_name"] == "users/reports");
    // Sessions that end normally, each closed by the client's Terminate.
    for _ in 0..50 {
        psql(&conninfo("orders.db.example.com", at, "postgres", &ca), query);
        psql(&users_info("postgres"), query);
    }
    sluice.wait_open(0);
    let records = wait::until("every record", || {
        let records = sluice.records();
        (records.len() == 104).then_some(records)
    });
    let odd: Vec<_> = records.iter().filter(|record| record["reason"] != "end.done").collect();
    // About once in a hundred sessions that are passed through, a reset overtakes the end of one side: a kernel
    // discarded the close_notify of the other side, which looks the same as a peer that gave up. Where TLS ends at
    // Sluice, the close_notify is seen.
    assert!(odd.iter().all(|record| record["filter_chain_name"] == "orders"), "{odd:#?}");
    assert!(odd.len() <= 10, "{odd:#?}");
    let resets = ["downstream.reset", "upstream.reset"];
    let all = odd.iter().all(|record| resets.iter().any(|reset| record["reason"] == *reset));
    assert!(all, "{odd:#?}");
}

/// pgbench with 32 clients while the configuration alternates between two versions.
#[test]
fn pgbench_under_reload_loses_no_transaction() {
    if !Postgres::is_there() {
        return;
    }
    let kit = Sluice::new();
    let certs = certs_beside(&kit);
    let authority = Authority::new(&certs);
    authority.issue("server", &["users.db.example.com"]);
    authority.issue("swapped", &["users.db.example.com"]);
    let server = Postgres::start(&certs, "server");
    let yaml = |weight: u32, chain: &str, cert: &str| {
        format!(
            "listeners:\n  - name: postgres\n    address: 127.0.0.1:0\n    chains:\n\
             \x20     - {{ name: passed, match: {{ protocol: postgres, sni: orders.db.example.com }}, relay: db }}\n{chain}\
             \x20     - name: users\n        match: {{ protocol: postgres, sni: users.db.example.com }}\n\
             \x20       tls: {{ certificates: [{{ cert: certs/{cert}.pem, key: certs/{cert}.key }}] }}\n        relay: db\n\
             clusters: {{ db: {{ endpoints: [{{ address: \"{}\", weight: {weight} }}] }} }}\n",
            server.addr()
        )
    };
    let extra = "      - { name: extra, match: { protocol: postgres, sni: extra.db.example.com }, relay: db }\n";
    let configurations = [yaml(1, "", "server"), yaml(2, extra, "swapped")];
    let sluice = kit.start(&configurations[0]);
    let seconds = std::env::var("SLUICE_PGBENCH_SECONDS").unwrap_or_else(|_| "30".into());
    let info = |host: &str| {
        format!(
            "host={host} hostaddr=127.0.0.1 port={} user=postgres dbname=postgres sslmode=require",
            sluice.addr("postgres").port()
        )
    };
    tools::must(tools::command("pgbench").args([
        "-i",
        "-q",
        "-s",
        "1",
        &info("users.db.example.com"),
    ]));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut swaps = 0;
            while !done.load(Ordering::SeqCst) {
                swaps += 1;
                assert_eq!(sluice.reload(&configurations[swaps % 2]), "applied");
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        });
        for (host, more) in [
            ("users.db.example.com", None),
            ("orders.db.example.com", None),
            ("users.db.example.com", Some("-C")),
        ] {
            let mut command = tools::command("pgbench");
            command
                .args(["-n", "-S", "-c", "32", "-j", "2", "-T", &seconds])
                .args(more)
                .arg(info(host));
            let text = tools::must(&mut command);
            assert!(text.contains("number of failed transactions: 0"), "{text}");
        }
        done.store(true, Ordering::SeqCst);
    });
    let swaps = sluice.items("/config")[0]["snapshot"].as_u64().unwrap();
    assert!(swaps > 5, "{swaps} snapshots");
    assert_eq!(sluice.reloads().iter().filter(|outcome| *outcome != "applied").count(), 0);
}
