//! A browser, as far as a login needs one: it keeps cookies and asks for pages.
//!
//! Owns: the cookies of one host. Refuses to know: what they mean. Keeps: a cookie goes back as it came, until it is
//! removed; a redirect is shown, not followed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::origin::{Client, Message};

/// A browser that talks to one host.
#[derive(Clone, Debug)]
pub struct Browser {
    address: SocketAddr,
    host: String,
    /// The cookies for all paths, by name.
    pub cookies: BTreeMap<String, String>,
    /// Those for a path, and what is below it, by path and name.
    of_paths: BTreeMap<(String, String), String>,
}

impl Browser {
    /// A browser without cookies.
    pub fn new(address: SocketAddr) -> Self {
        let host = format!("localhost:{}", address.port());
        Self { address, host, cookies: BTreeMap::new(), of_paths: BTreeMap::new() }
    }

    /// The same, which calls the host by this name.
    #[must_use]
    pub fn at(self, host: &str) -> Self {
        Self { host: host.into(), ..self }
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        format!("http://{}", self.host)
    }

    /// Asks for a page.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Message {
        self.ask("GET", path, "Accept: text/html,*/*\r\n", "")
    }

    /// Submits a form.
    #[track_caller]
    pub fn post(&mut self, path: &str, form: &str) -> Message {
        let fields = format!(
            "Accept: text/html,*/*\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            form.len()
        );
        self.ask("POST", path, &fields, form)
    }

    /// Sends a request with these headers besides the cookies, and keeps what the response sets.
    #[track_caller]
    pub fn ask(&mut self, method: &str, path: &str, fields: &str, body: &str) -> Message {
        let below = self.of_paths.iter().filter(|((own, _), _)| path.starts_with(own.as_str()));
        let below = below.map(|((_, name), value)| (name, value));
        let pairs: Vec<String> =
            below.chain(&self.cookies).map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = match pairs.as_slice() {
            [] => String::new(),
            pairs => format!("Cookie: {}\r\n", pairs.join("; ")),
        };
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{fields}{cookies}\r\n", self.host);
        let response = Client::connect(self.address).ask(&format!("{head}{body}"));
        for cookie in response.values("set-cookie") {
            self.keep(cookie);
        }
        response
    }

    fn keep(&mut self, cookie: &str) {
        let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let mut path = attributes.split(';').filter_map(|own| own.trim().split_once('='));
        let path = path.find(|(own, _)| own.eq_ignore_ascii_case("path")).map_or("/", |own| own.1);
        let lower = attributes.to_ascii_lowercase();
        let gone = lower.contains("max-age=0;") || lower.contains("expires=thu, 01 jan 1970");
        let (name, value) = (name.to_owned(), (!gone).then(|| value.to_owned()));
        match (path, value) {
            ("/", Some(value)) => drop(self.cookies.insert(name, value)),
            ("/", None) => drop(self.cookies.remove(&name)),
            (path, Some(value)) => drop(self.of_paths.insert((path.into(), name), value)),
            (path, None) => drop(self.of_paths.remove(&(path.into(), name))),
        }
    }
}

/// The path and query of a URL.
#[track_caller]
pub fn target_of(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return url };
    rest.find('/').map_or("/", |at| &rest[at..])
}

/// The parameter of a URL, as it is decoded.
#[track_caller]
pub fn parameter(url: &str, name: &str) -> String {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(own, _)| *own == name).map(|(_, value)| value);
    let value = found.unwrap_or_else(|| panic!("{url} has no `{name}`"));
    let mut decoded = Vec::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&pair, 16).expect("it is percent-encoded")
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).expect("it is UTF-8")
}
