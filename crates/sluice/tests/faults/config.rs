//! The output of the process log and of `sluice check`.

use std::process::Command;

use serde_json::Value;
use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Running, Sluice, wait};

use crate::kit::{Fault, Seen, nobody, web};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "An endpoint fails its health checks (process log)",
        reason: "",
        inject: unhealthy,
    },
    Fault { name: "An endpoint is ejected (process log)", reason: "", inject: ejected },
    Fault { name: "A new configuration is wrong (process log)", reason: "", inject: wrong_reload },
    Fault {
        name: "A rule names a cluster that does not exist (`sluice check`)",
        reason: "",
        inject: unknown_cluster,
    },
    Fault {
        name: "A certificate is missing (`sluice check`)",
        reason: "",
        inject: missing_certificate,
    },
];

/// The first line of the process log that contains `text`, without its time.
fn logged(sluice: &Running, text: &str) -> String {
    let line = wait::until("a line of the log", || {
        let log = sluice.log();
        log.lines().find(|line| line.contains(text)).map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    let fields = line["fields"].as_object().unwrap();
    let more = fields.iter().filter(|(name, _)| *name != "message");
    let more: String = more.map(|(name, value)| format!(" {name}={value}")).collect();
    let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}{more}", of(&line["level"]), of(&fields["message"]))
}

fn unhealthy() -> Seen {
    let gone = nobody();
    let health = ", health: { tcp: {}, interval: 20ms, unhealthy_after: 1 }";
    let sluice =
        Sluice::new().expect_warning("unhealthy").start(&web(&[gone.to_string()], "", health));
    let help = "Check that the service runs; `/clusters` on the admin address shows every endpoint, and \
                `sluice_health_checks_total` counts the checks.";
    Seen::text(logged(&sluice, "unhealthy"), help).endpoint(gone).at("up")
}

fn ejected() -> Seen {
    let (gone, origin) = (nobody(), Origin::start("a"));
    let addresses = [gone.to_string(), origin.addr().to_string()];
    let outlier = ", outlier: { connect_failures: 1 }";
    let sluice =
        Sluice::new().workers(1).expect_warning("ejected").start(&web(&addresses, "", outlier));
    let mut client = Client::connect(sluice.addr("web"));
    for _ in 0..4 {
        assert_eq!(client.get("a", "/").status(), 200);
    }
    let help = "Check that endpoint. It is used again after `outlier.ejection`; `/clusters` on the admin address \
                shows it, and `sluice_cluster_ejections_total` counts it.";
    Seen::text(logged(&sluice, "ejected"), help).endpoint(gone).at("up")
}

fn wrong_reload() -> Seen {
    let origin = Origin::start("a");
    let yaml = web(&[origin.addr().to_string()], "", "");
    let sluice = Sluice::new().expect_warning("reload failed").start(&yaml);
    assert_eq!(sluice.reload(&yaml.replace("cluster: up", "cluster: upp")), "failed");
    assert_eq!(Client::connect(sluice.addr("web")).get("a", "/").status(), 200);
    let first = logged(&sluice, "reload failed");
    let help = "The configuration in force goes on. Fix the place that is named, and check the file with \
                `sluice check` before the next reload.";
    let first = format!("{}\n\n{}", first.lines().next().unwrap_or_default(), first_error(&first));
    let mut seen = Seen::text(first, help).at("upp").at("sluice.yaml:2");
    seen.shown.push((sluice.folder().display().to_string(), "/etc/sluice".to_owned()));
    seen
}

/// The first error of a report: a block up to an empty line.
fn first_error(text: &str) -> String {
    let error = text.find("error[").map_or(text, |at| &text[at..]);
    error.split("\n\n").next().unwrap_or_default().to_owned()
}

/// The output of `sluice check` for a configuration that it must refuse.
fn check(yaml: &str, help: &str) -> Seen {
    let kit = Sluice::new();
    let file = kit.folder().join("sluice.yaml");
    std::fs::write(&file, yaml).unwrap();
    let output = Command::new(Sluice::binary()).arg("check").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = [output.stdout, output.stderr].concat();
    let text = first_error(&String::from_utf8_lossy(&text));
    let mut seen = Seen::text(text, help).at("sluice.yaml:");
    seen.shown.push((kit.folder().display().to_string(), "/etc/sluice".to_owned()));
    seen
}

fn unknown_cluster() -> Seen {
    let yaml = web(&["127.0.0.10:8080".to_owned()], "", "").replace("cluster: up", "cluster: upp");
    check(&yaml, "Every error has its place, the path in the configuration and what to do.")
        .at("upp")
}

fn missing_certificate() -> Seen {
    let yaml = "listeners: [{ name: db, address: 127.0.0.1:0, relay: up, tls: { certificates: [{ cert: db.pem, key: db.key }] } }]\n\
                clusters: { up: { endpoints: [127.0.0.10:5432] } }\n";
    check(yaml, "Paths are relative to the configuration file. Check name, folder and permissions.")
        .at("db.pem")
}
