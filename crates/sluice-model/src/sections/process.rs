//! What concerns the whole process.
//!
//! Owns: the admin interface, shutdown, access logs, limits by name. Refuses to know: traffic. Keeps: a limit that does not
//! exist is refused.

use sluice_core::limits::{self, Limits, Unit};
use sluice_core::settings::{FieldShape, OrZero, Plain, bind_scalar, suggest_word, wrong_kind};
use sluice_core::value::{parse_size, show_size};
use sluice_core::{
    Diags, ListenAddress, Node, Path, Setting, Shape, Spanned, Value, choice, section,
};

use super::{LogFormat, LogSink};

/// The permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

sluice_core::text_setting! {
    FileMode, "permissions in octal", "0660", parse_mode, |mode| format!("{:04o}", mode.0);
}

fn parse_mode(text: &str) -> Result<FileMode, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777);
    mode.map(FileMode)
        .ok_or_else(|| format!("expected permissions in octal such as 0660, not `{text}`"))
}

section! {
    /// The admin interface: read-only pages in text and JSON.
    pub struct Admin {
        /// An IP address with a port, or unix:///path. Keep it on loopback: there is no authentication.
        pub address: Spanned<ListenAddress>,
        /// Who may connect to a unix socket, in octal as for chmod, such as `0660`. If omitted, the umask of the process decides.
        pub mode: Option<Spanned<FileMode>>,
        /// Whether it takes changes: runtime values, and operators' actions such as `sluice endpoint`.
        pub writable: bool = "false",
        /// Host names that requests to the admin pages may carry, besides IP addresses and `localhost`, e.g.
        /// `sluice.internal`. Any other host is refused, except for `/ready` and `/metrics`, so that no web page reads
        /// the pages through a browser (DNS rebinding).
        pub hosts: Vec<Spanned<String>>,
    }
}

section! {
    /// Graceful shutdown (connection draining).
    pub struct Drain {
        /// How long open connections may continue after SIGTERM.
        pub timeout: OrZero = "30s",
        /// How long connections are still accepted after SIGTERM, while `/ready` and the filter `health_check` fail already,
        /// so that load balancers in front send no more. `timeout` begins after it.
        pub delay: OrZero = "0s",
    }
}

choice! {
    /// The kind of an access log record.
    pub enum LogKind {
        /// A TCP or unix socket connection.
        Connection = "connection",
        /// A UDP flow.
        Flow = "flow",
        /// An HTTP request.
        Request = "request",
        /// An event of an endpoint: it became healthy or unhealthy, was ejected or readmitted.
        Health = "health",
    }
}

section! {
    /// An access log.
    pub struct AccessLog {
        /// `stdout`, `stderr`, the path of a file, or a loaded library. SIGUSR1 reopens files.
        pub sink: Spanned<LogSink> = "stdout",
        /// `json`, `text`, a line with %OPERATOR%s, or `{ json: { NAME: "%OPERATOR%" } }`; the operators are listed at
        /// the end of this page.
        pub format: Spanned<LogFormat> = "json",
        /// The kinds of records to write; if omitted, all but `health`.
        pub kinds: Vec<LogKind>,
    }
}

/// Limits by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitValues(pub Limits);

impl Setting for LimitValues {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            _ => {
                wrong_kind(node, at, diags, "a map of limits");
                return None;
            }
        };
        let names: Vec<&str> = limits::TABLE.iter().map(|row| row.name).collect();
        let mut values = Some(Limits::default());
        for entry in entries {
            let here = at.key(&entry.key);
            let row = limits::Limit::ALL.iter().find(|limit| limit.def().name == &*entry.key);
            let Some(limit) = row else {
                let help = suggest_word(&entry.key, &names);
                diags
                    .error(
                        "unknown-field",
                        entry.key_span,
                        here,
                        format!("unknown limit `{}`", entry.key),
                    )
                    .help(
                        help.unwrap_or_else(|| "`sluice explain --limits` lists the limits".into()),
                    );
                values = None;
                continue;
            };
            let def = limit.def();
            let parse = |text: &str| match def.unit {
                Unit::Bytes => parse_size(text),
                Unit::Count => {
                    text.parse().map_err(|_| format!("expected a whole number, not `{text}`"))
                }
            };
            let bound = bind_scalar(&entry.node, &here, diags, "a number", parse);
            let set = bound.and_then(|value| match values.as_mut()?.set(*limit, value) {
                Ok(()) => Some(()),
                Err((min, max)) => {
                    let message = format!("`{}` must be from {min} to {max}", def.name);
                    diags.error("bad-value", entry.node.span, here, message);
                    None
                }
            });
            if set.is_none() {
                values = None;
            }
        }
        values.map(Self)
    }

    fn shape() -> Shape {
        let field = |row: &'static limits::LimitDef| FieldShape {
            key: row.name,
            doc: row.help.to_owned(),
            required: false,
            default: None,
            shape: match row.unit {
                Unit::Bytes => sluice_core::settings::Size::shape(),
                Unit::Count => u64::shape(),
            },
        };
        Shape::Fields(limits::TABLE.iter().map(field).collect())
    }

    fn show(&self) -> Plain {
        let shown = limits::Limit::ALL.iter().map(|limit| {
            let value = self.0.get(*limit);
            let value = match limit.def().unit {
                Unit::Bytes => Plain::Text(show_size(value)),
                Unit::Count => Plain::Number(value),
            };
            (limit.def().name.to_owned(), value)
        });
        Plain::Map(shown.collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}
