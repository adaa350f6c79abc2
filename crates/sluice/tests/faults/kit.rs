//! The parts of a case, and its observation.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::peers::{connect, read_to_end};
use sluice_testkit::{Running, Sluice};

/// A fault: its description, the reason it must end with, and how it is provoked.
#[derive(Debug)]
pub(crate) struct Fault {
    /// A description; a heading of the page.
    pub(crate) name: &'static str,
    /// The reason; empty if the fault shows only in the process log or at the command line.
    pub(crate) reason: &'static str,
    /// Provokes the fault and returns the observation.
    pub(crate) inject: fn() -> Seen,
}

/// The observation of a fault.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The record; null if there is none.
    pub(crate) record: Value,
    /// The text of the record, or the lines of the log.
    pub(crate) text: String,
    /// What the client received.
    pub(crate) heard: String,
    /// The series that counted it.
    pub(crate) metrics: Vec<String>,
    /// The places that the record must name.
    pub(crate) places: Vec<String>,
    /// The addresses behind Sluice.
    pub(crate) endpoints: Vec<String>,
    /// The help, if it is in the text itself.
    pub(crate) help: String,
    /// Texts, such as folders, and what the page shows in their place.
    pub(crate) shown: Vec<(String, String)>,
}

impl Seen {
    /// Waits for a record with this reason.
    #[track_caller]
    pub(crate) fn of(sluice: &Running, reason: &str) -> Self {
        let record = sluice.record_of(reason);
        Self::record(sluice, record)
    }

    /// Waits for the record of a request with this reason.
    #[track_caller]
    pub(crate) fn request(sluice: &Running, reason: &str) -> Self {
        let fits = |record: &Value| record["kind"] == "request" && record["reason"] == reason;
        Self::record(sluice, sluice.record(reason, fits))
    }

    /// A record of a Sluice that has exited and no longer serves metrics: the series is that of every other end.
    pub(crate) fn at_end(sluice: &Running, reason: &str) -> Self {
        let fits = |record: &Value| record["reason"] == reason;
        let last = |record: &Value| fits(record) && record["kind"] == "request";
        let records = sluice.records();
        let record = records.iter().find(|record| last(record));
        let record = record.or_else(|| records.iter().find(|record| fits(record))).cloned();
        let record = record.unwrap_or_else(|| panic!("no record of {reason} in {records:#?}"));
        let listener = record["listener"].as_str().unwrap_or_default();
        let series = format!("ended for reason=\"{reason}\" at listener=\"{listener}\"");
        Self { text: record.to_string(), record, metrics: vec![series], ..Self::default() }
    }

    /// The observation of this record.
    pub(crate) fn record(sluice: &Running, record: Value) -> Self {
        let reason = format!("reason={}", record["reason"]);
        let metrics = sluice.page("/metrics").1;
        // Of the series that count ends, only those for the kind of the record: others follow a moment later.
        let kind = record["kind"].as_str().unwrap_or_default().to_owned();
        let counts = |line: &&str| {
            let of_kind = !line.contains("_ended_") || line.contains(&kind);
            of_kind && line.contains(&reason) && !line.ends_with(" 0")
        };
        let metrics = metrics.lines().filter(counts);
        let series =
            metrics.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned());
        Self {
            text: record.to_string(),
            record,
            metrics: series.collect(),
            shown: vec![(sluice.folder().display().to_string(), "/etc/sluice".to_owned())],
            ..Self::default()
        }
    }

    /// Lines of a log or of the command line.
    pub(crate) fn text(text: impl Into<String>, help: impl Into<String>) -> Self {
        Self { text: text.into(), help: help.into(), ..Self::default() }
    }

    /// Sets what the client received.
    pub(crate) fn heard(mut self, heard: impl Into<String>) -> Self {
        self.heard = heard.into();
        self
    }

    /// Adds an endpoint that the record must name and the client must not learn about.
    pub(crate) fn endpoint(mut self, address: impl ToString) -> Self {
        self.endpoints.push(address.to_string());
        self.at(address)
    }

    /// Adds a listener, rule, file or client that the record must name.
    pub(crate) fn at(mut self, place: impl ToString) -> Self {
        self.places.push(place.to_string());
        self
    }

    /// Shows one text as another on the page.
    pub(crate) fn showing(mut self, text: impl ToString, other: &str) -> Self {
        self.shown.push((text.to_string(), other.to_owned()));
        self
    }

    /// The reason's code.
    pub(crate) fn reason(&self) -> &str {
        self.record["reason"].as_str().unwrap_or_default()
    }

    /// Whether an attempt failed for this reason.
    pub(crate) fn attempted(&self, code: &str) -> bool {
        self.record["upstream_hosts_attempted"].to_string().contains(&format!(" {code}"))
    }

    /// What the record says in words: its detail, its attempts and its side calls.
    pub(crate) fn said(&self) -> Vec<&str> {
        let of = |key: &str| match &self.record[key] {
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
            value => Vec::from_iter(value.as_str()),
        };
        ["detail", "upstream_hosts_attempted", "side_calls"].into_iter().flat_map(of).collect()
    }

    /// What distinguishes the fault from others.
    pub(crate) fn cause(&self) -> String {
        if self.record.is_null() {
            return crate::page::masked(&self.text, self);
        }
        let of = |key: &str| crate::page::masked(&self.record[key].to_string(), self);
        let text = [
            "kind",
            "reason",
            "detail",
            "response_code_details",
            "grpc_status_number",
            "requested_server_name",
            "upstream_hosts_attempted",
            "side_calls",
        ]
        .map(of);
        text.join(" ")
    }
}

/// Starts a Sluice with one worker, so that everything is counted in one place.
#[track_caller]
pub(crate) fn start(yaml: &str) -> Running {
    Sluice::new().workers(1).start(yaml)
}

/// Like `start`, for a Sluice that is stopped while something is open.
#[track_caller]
pub(crate) fn start_to_stop(yaml: &str) -> Running {
    Sluice::new().workers(1).expect_warning("drain timeout").start(yaml)
}

/// A listener `web` for HTTP, one rule that matches everything, and the cluster `up`.
pub(crate) fn web(endpoints: &[String], rule: &str, cluster: &str) -> String {
    web_with("", endpoints, rule, cluster)
}

/// Like `web`, with fields of `http`, each after a comma.
pub(crate) fn web_with(http: &str, endpoints: &[String], rule: &str, cluster: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main{http} }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up{rule} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [{}]{cluster} }} }}\n",
        quoted(endpoints)
    )
}

/// A listener `db` that relays to the cluster `up`; `listener` and `cluster` are additional fields of theirs.
pub(crate) fn relay(listener: &str, endpoints: &[String], cluster: &str) -> String {
    format!(
        "listeners: [{{ name: db, address: 127.0.0.1:0, relay: up{listener} }}]\n\
         clusters: {{ up: {{ endpoints: [{}]{cluster} }} }}\n",
        quoted(endpoints)
    )
}

/// Addresses as items of a YAML list.
pub(crate) fn quoted(addresses: &[String]) -> String {
    addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ")
}

/// An address without a listener.
pub(crate) fn nobody() -> SocketAddr {
    ([127, 0, 0, 1], sluice_testkit::tools::free_port()).into()
}

/// Requests `/` from `web`; returns the response in one line.
#[track_caller]
pub(crate) fn ask(sluice: &Running) -> String {
    told(&sluice_testkit::origin::get(sluice.addr("web"), "shop.test", "/"))
}

/// A response in one line.
pub(crate) fn told(message: &Message) -> String {
    format!("{} {}", message.status(), message.text().trim_end())
}

/// What a client of `web` receives that sends `bytes` and waits for the end.
#[track_caller]
pub(crate) fn send(sluice: &Running, bytes: impl AsRef<[u8]>) -> String {
    let mut client = Client::connect(sluice.addr("web"));
    client.send(bytes);
    match client.try_read() {
        Ok(message) => told(&message),
        Err(_) => "the connection ends".to_owned(),
    }
}

/// What a client receives that sends `bytes` to a listener and nothing more.
#[track_caller]
pub(crate) fn say(sluice: &Running, listener: &str, bytes: impl AsRef<[u8]>) -> String {
    let mut client = connect(sluice.addr(listener));
    let _ = client.write_all(bytes.as_ref());
    heard(&mut client)
}

/// What a client receives up to the end; whether that is a FIN or a reset is a race if it has sent more.
pub(crate) fn heard(client: &mut TcpStream) -> String {
    let (_, bytes) = read_to_end(client);
    if bytes.is_empty() {
        return "the connection ends".to_owned();
    }
    format!("{} bytes, then the connection ends", bytes.len())
}

/// Closes the sending side.
pub(crate) fn finish(client: &TcpStream) {
    client.shutdown(Shutdown::Write).unwrap();
}
