//! The guest `gate`, by the SDK for Rust.
//!
//! Owns: what a request without a user gets, the tier that a user has by a call to `b`, and how often a user was here. Refuses to
//! know: which proxy runs it. Keeps: the same as the gates in C++ and AssemblyScript, so that one set of cases holds for all.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, Status};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(GateRoot::default()));
}}

/// The name of the header for tiers, which is the configuration.
#[derive(Default)]
struct GateRoot {
    header: String,
}

impl Context for GateRoot {}

impl RootContext for GateRoot {
    fn on_configure(&mut self, _size: usize) -> bool {
        let config = self.get_plugin_configuration().unwrap_or_default();
        self.header = String::from_utf8(config).unwrap_or_default();
        !self.header.is_empty()
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Gate { header: self.header.clone() }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// A request.
struct Gate {
    header: String,
}

impl Gate {
    /// Counts a visit of a user, and returns how many there were before.
    fn visit(&self, user: &str) -> u32 {
        loop {
            let (known, cas) = self.get_shared_data(user);
            let text = known.and_then(|known| String::from_utf8(known).ok());
            let before: u32 = text.and_then(|text| text.parse().ok()).unwrap_or(0);
            let after = (before + 1).to_string();
            match self.set_shared_data(user, Some(after.as_bytes()), cas) {
                Err(Status::CasMismatch) => {}
                _ => return before,
            }
        }
    }

    fn property(&self, path: Vec<&str>) -> String {
        let value = self.get_property(path).unwrap_or_default();
        String::from_utf8(value).unwrap_or_default()
    }
}

impl Context for Gate {
    fn on_http_call_response(&mut self, _token: u32, _headers: usize, size: usize, _trailers: usize) {
        let status = self.get_http_call_response_header(":status").unwrap_or_default();
        if status != "200" {
            let body = format!("no tier: {status}\n");
            self.send_http_response(503, vec![("x-gate", "call")], Some(body.as_bytes()));
            return;
        }
        let body = self.get_http_call_response_body(0, size).unwrap_or_default();
        self.set_http_request_header(&self.header, Some(&String::from_utf8_lossy(&body)));
        self.resume_http_request();
    }
}

impl HttpContext for Gate {
    fn on_http_request_headers(&mut self, _count: usize, _end: bool) -> Action {
        let Some(user) = self.get_http_request_header("x-user") else {
            self.send_http_response(401, vec![("x-gate", "user")], Some(b"who are you?\n"));
            return Action::Pause;
        };
        self.set_http_request_header("x-visits", Some(&self.visit(&user).to_string()));
        self.set_http_request_header("x-query", Some(&self.property(vec!["request", "query"])));
        self.set_http_request_header("content-length", None);
        let ask = self.get_http_request_header("x-ask").unwrap_or_default();
        let path = format!("/tier/{user}");
        let headers = vec![(":method", "GET"), (":path", &path), (":authority", "tiers"), ("x-do", &ask)];
        let timeout = Duration::from_secs(5);
        match self.dispatch_http_call("b", headers, None, vec![], timeout) {
            Ok(_) => Action::Pause,
            Err(_) => Action::Continue,
        }
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if !end {
            return Action::Pause;
        }
        if let Some(body) = self.get_http_request_body(0, size) {
            self.set_http_request_body(0, size, &body.to_ascii_uppercase());
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end: bool) -> Action {
        let code = self.get_property(vec!["response", "code"]).unwrap_or_default();
        let code = code.iter().rev().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        self.set_http_response_header("x-code", Some(&code.to_string()));
        self.set_http_response_header("content-length", None);
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        if !end {
            return Action::Pause;
        }
        if let Some(body) = self.get_http_response_body(0, size) {
            self.set_http_response_body(0, size, &[b"[", &body[..], b"]"].concat());
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        log(&format!("the gate saw {}", self.property(vec!["request", "path"])));
    }
}

fn log(text: &str) {
    // There is nobody to tell that a line was not written.
    let _ = proxy_wasm::hostcalls::log(LogLevel::Info, text);
}
