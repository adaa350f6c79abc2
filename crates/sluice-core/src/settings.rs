//! How a type reads its value from a settings tree, describes itself, and prints itself.
//!
//! Owns: the [`Setting`] trait, the [`section!`](crate::section) and [`choice!`](crate::choice) macros, and the
//! settings of plain values. Refuses to know: YAML, files, what a section is for.
//! Keeps: types, reference page, schema and `explain` have one source, the declaration; every field of a section is
//! bound even if another is wrong, so all errors are reported at once.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::time::Duration;

use crate::address::{Cidr, Endpoint, ListenAddress};
use crate::diagnostics::Diags;
use crate::suggest::nearest;
use crate::tree::{MapEntry, Node, Span, Spanned, Value};
use crate::{Name, value};

mod fields;
mod macros;
mod members;
mod scalar;
mod shape;
#[cfg(test)]
mod tests;

pub use fields::{Fields, KNOWN_HERE};
pub use members::{Members, Named};
pub use scalar::{Verbatim, bind_scalar, bind_verbatim};
pub use shape::{FieldShape, Plain, SectionShape, Shape};

/// The path from the root of a configuration to a value, kept on the stack while binding.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Self>,
    step: PathStep<'a>,
}

#[derive(Clone, Copy, Debug)]
enum PathStep<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The root of a configuration.
    pub const ROOT: Path<'static> = Path { parent: None, step: PathStep::Root };

    /// The path of a field in the section at this path.
    pub const fn key(&'a self, key: &'a str) -> Self {
        Path { parent: Some(self), step: PathStep::Key(key) }
    }

    /// The path of a member in the list at this path.
    pub const fn index(&'a self, index: usize) -> Self {
        Path { parent: Some(self), step: PathStep::Index(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            PathStep::Root => Ok(()),
            PathStep::Key(key) => {
                let dot = self.parent.is_some_and(|parent| !matches!(parent.step, PathStep::Root));
                write!(f, "{}{key}", if dot { "." } else { "" })
            }
            PathStep::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A type that can be configured.
pub trait Setting: Sized {
    /// Reads the value from `node`, or adds at least one error and returns `None`.
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self>;

    /// The permitted values, for the reference page and the schema.
    fn shape() -> Shape;

    /// The value in its long form, for `explain` and the admin pages.
    fn show(&self) -> Plain;

    /// The default for a missing field; `None` makes the field required.
    fn absent() -> Option<Self> {
        None
    }
}

/// Adds the error that `node` is not of the kind named by `what`.
pub fn wrong_kind(node: &Node, at: &Path<'_>, diags: &mut Diags, what: &str) {
    diags.error("wrong-kind", node.span, at, format!("expected {what}, found {}", node.kind()));
}

/// The entries of a map, none for null; anything else is an error that states that `what` was expected.
pub fn entries_of<'n>(
    node: &'n Node,
    at: &Path<'_>,
    diags: &mut Diags,
    what: &str,
) -> Option<&'n [MapEntry]> {
    match (&node.value, node.entries()) {
        (_, Some(entries)) => Some(entries),
        (Value::Null, _) => Some(&[]),
        _ => {
            wrong_kind(node, at, diags, what);
            None
        }
    }
}

/// Binds every entry of a map, even after a wrong one; returns `None` if any is wrong.
pub fn bind_entries<T, C: Default + Extend<T>>(
    entries: &[MapEntry],
    at: &Path<'_>,
    diags: &mut Diags,
    mut bind: impl FnMut(&MapEntry, &Path<'_>, &mut Diags) -> Option<T>,
) -> Option<C> {
    let mut all = Some(C::default());
    for entry in entries {
        let bound = bind(entry, &at.key(&entry.key), diags);
        all = all.zip(bound).map(|(mut all, bound)| {
            all.extend([bound]);
            all
        });
    }
    all
}

crate::text_setting! {
    Duration, "a duration", "30s", parse_some_time, |v| value::show_duration(*v);
    OrZero, "a duration", "30s", |text| value::parse_duration(text).map(OrZero), |v| value::show_duration(v.0);
    Size, "a size", "16KiB", |text| value::parse_size(text).map(Size), |v| value::show_size(v.0);
    Window, "a size from 16KiB to 1GiB", "256KiB", parse_window, |v| value::show_size(u64::from(v.0));
    value::Rate, "a rate", "500/s", value::parse_rate, |v| value::show_rate(*v);
    value::ByteRate, "bytes per second", "1MiB/s", value::parse_byte_rate, |v| value::show_byte_rate(*v);
    value::Percent, "a percentage", "10%", value::parse_percent, |v| format!("{}%", v.0);
    value::FactorPercent, "a percentage of at least 100%", "140%", value::parse_factor_percent, |v| format!("{}%", v.0);
    value::Decimal, "a number", "1.9", value::parse_decimal, |v| value::show_decimal(*v);
    value::NamePattern, "a host name or *.suffix", "*.example.com", value::parse_name_pattern, ToString::to_string;
    value::HostPattern, "a host, *, *.suffix or prefix.*", "*.example.com", value::parse_host_pattern, ToString::to_string;
    value::Authority, "a host", "shop.example.com", value::parse_authority, |v| v.0.clone();
    value::WordPattern, "a word or prefix*", "reports_*", value::parse_word_pattern, ToString::to_string;
    Cidr, "an address block", "127.0.0.0/8", Cidr::parse, ToString::to_string;
    ListenAddress, "an address to listen on", "127.0.0.1:5432", ListenAddress::parse, ToString::to_string;
    Endpoint, "the address of an endpoint", "127.0.0.1:5432", Endpoint::parse, ToString::to_string;
    std::net::IpAddr, "an IP address", "127.0.0.1", |text| text.parse().map_err(|_| format!("expected an IP address, not `{text}`")), ToString::to_string;
    std::net::SocketAddr, "an IP address with a port", "127.0.0.1:53", parse_socket, ToString::to_string;
    String, "text", "word", |text| Ok(text.to_owned()), Clone::clone;
    std::path::PathBuf, "a path", "certs/a.pem", parse_path, |v| v.display().to_string();
    Name, "a name", "orders-db", parse_name, ToString::to_string;
}

fn parse_some_time(text: &str) -> Result<Duration, String> {
    match value::parse_duration(text)? {
        Duration::ZERO => Err(ZERO.into()),
        duration => Ok(duration),
    }
}

const ZERO: &str = "the duration must not be zero; the minimum is 1ms";

fn parse_window(text: &str) -> Result<Window, String> {
    match u32::try_from(value::parse_size(text)?) {
        Ok(size @ 0x4000..=0x4000_0000) => Ok(Window(size)),
        _ => Err(format!("expected a size from 16KiB to 1GiB, not `{text}`")),
    }
}

fn parse_path(text: &str) -> Result<std::path::PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("expected a file path".into());
    }
    Ok(text.into())
}

fn parse_socket(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("expected an IP address with a port such as 127.0.0.1:53, not `{text}`")
    })
}

fn parse_name(text: &str) -> Result<Name, String> {
    let fits = !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits {
        Ok(text.into())
    } else {
        Err(format!(
            "`{text}` is not a valid name; use at most 128 letters, digits, `-`, `_` and `.`"
        ))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Bytes that a peer may send before they are consumed (a flow-control window).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window(pub u32);

/// A duration that may be zero; a plain [`Duration`] may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrZero(pub Duration);

/// A value or `none`, which means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

impl<T: Setting> Setting for OrNone<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if node.text() == Some("none") {
            return Some(Self(None));
        }
        let bound = T::bind(node, at, diags);
        let zero =
            node.text().is_some_and(|text| text.trim_end_matches(char::is_alphabetic) == "0");
        let help = if zero {
            Some("`none` means unlimited")
        } else {
            node.is_word("false").then_some("write `none`")
        };
        if bound.is_none()
            && let Some((finding, help)) = diags.last_mut().zip(help)
        {
            finding.help(help);
        }
        bound.map(|value| Self(Some(value)))
    }

    fn shape() -> Shape {
        Shape::OrNone(Box::new(T::shape()))
    }

    fn show(&self) -> Plain {
        self.0.as_ref().map_or_else(|| Plain::Text("none".into()), Setting::show)
    }

    fn absent() -> Option<Self> {
        T::absent().map(|value| Self(Some(value)))
    }
}

/// A section that may also be written as the value of one of its fields.
pub trait ShortForm: Setting {
    /// The field that a single value sets.
    const KEY: &'static str;

    /// Another field that a short form may set; `key` decides.
    const OTHER_KEY: Option<&'static str> = None;

    /// The field that the short form `node` sets.
    fn key(_node: &Node) -> &'static str {
        Self::KEY
    }

    /// The fields of a value of `KEY`, if it is a map: one with none but these is the short form too.
    const KEYS_OF_SHORT: &'static [&'static str] = &[];

    /// What to write instead of `true` or `false`, where those cannot be meant as the value of that field.
    const NOT_A_SWITCH: Option<&'static str> = None;
}

/// A section or its short form.
#[derive(Clone, Debug, PartialEq)]
pub struct Short<T>(pub T);

impl<T> std::ops::Deref for Short<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ShortForm> Setting for Short<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if let Value::Map(entries) = &node.value {
            let of_short = |entry: &MapEntry| T::KEYS_OF_SHORT.contains(&&*entry.key);
            if entries.is_empty() || !entries.iter().all(of_short) {
                return T::bind(node, at, diags).map(Self);
            }
        }
        if let Some(help) = T::NOT_A_SWITCH
            && (node.is_word("true") || node.is_word("false"))
        {
            wrong_kind(node, at, diags, &format!("a map with fields such as `{}`", T::KEY));
            diags.last_mut()?.help(help);
            return None;
        }
        let entry = MapEntry { key: T::key(node).into(), key_span: node.span, node: node.clone() };
        let long = Node { value: Value::Map(vec![entry]), span: node.span };
        T::bind(&long, at, diags).map(Self)
    }

    fn shape() -> Shape {
        let Shape::Section(section) = T::shape() else { return T::shape() };
        let keys = [Some(T::KEY), T::OTHER_KEY];
        let short = section().fields.into_iter().filter(|field| keys.contains(&Some(field.key)));
        Shape::Either(short.map(|field| field.shape).chain([T::shape()]).collect())
    }

    fn show(&self) -> Plain {
        self.0.show()
    }
}

/// An empty map or `true`, for something that has no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Empty;

impl Setting for Empty {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Self),
            Value::Map(entries) if entries.is_empty() => Some(Self),
            _ if node.is_word("true") => Some(Self),
            _ if node.is_word("false") => {
                wrong_kind(node, at, diags, "true");
                diags.last_mut()?.help("leave the field out");
                None
            }
            _ => {
                diags.error("wrong-kind", node.span, at, "this takes no settings; write `true`");
                None
            }
        }
    }

    fn shape() -> Shape {
        Shape::Empty
    }

    fn show(&self) -> Plain {
        Plain::Map(Vec::new())
    }
}

impl Setting for bool {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "true or false", |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("expected true or false, not `{text}`")),
        })
    }

    fn shape() -> Shape {
        Shape::Bool
    }

    fn show(&self) -> Plain {
        Plain::Bool(*self)
    }
}

/// An HTTP status code, from 100 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Setting for Status {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "a status code", |text| {
            let status = text.parse().ok().filter(|status| (100..600).contains(status));
            status
                .map(Self)
                .ok_or_else(|| format!("expected a status code from 100 to 599, not `{text}`"))
        })
    }

    fn shape() -> Shape {
        Shape::Count { min: 100, max: 599 }
    }

    fn show(&self) -> Plain {
        Plain::Number(self.0.into())
    }
}

/// An HTTP status code or an inclusive range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest.
    pub low: u16,
    /// The highest.
    pub high: u16,
}

impl Setting for StatusRange {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        bind_scalar(node, at, diags, "a status code or a range of them", |text| {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            let status = |text: &str| text.parse().ok().filter(|of| (100..600).contains(of));
            match (status(low), status(high)) {
                (Some(low), Some(high)) if low <= high => Ok(Self { low, high }),
                _ => Err(format!(
                    "expected a status code from 100 to 599 or a range such as 200-299, not `{text}`"
                )),
            }
        })
    }

    fn shape() -> Shape {
        let range = Shape::Text { what: "a range of status codes", example: "200-299" };
        Shape::Either(vec![Status::shape(), range])
    }

    fn show(&self) -> Plain {
        match self {
            Self { low, high } if low == high => Plain::Number((*low).into()),
            Self { low, high } => Plain::Text(format!("{low}-{high}")),
        }
    }
}

macro_rules! count_setting {
    ($($ty:ty, $min:literal, $max:expr, $number:expr;)+) => {$(
        impl Setting for $ty {
            fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
                bind_scalar(node, at, diags, "a number", |text| {
                    text.parse().map_err(|_| not_a_count(text, $min, $max))
                })
            }

            fn shape() -> Shape {
                Shape::Count { min: $min, max: $max }
            }

            fn show(&self) -> Plain {
                let number: fn(Self) -> u64 = $number;
                Plain::Number(number(*self))
            }
        }
    )+};
}

/// Why a text is not a whole number from `min` to `max`, and what to write instead.
fn not_a_count(text: &str, min: u64, max: u64) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    if digits(text) {
        return match text.parse::<u64>() {
            Ok(small) if small < min => {
                format!("expected a whole number of at least {min}, not `{text}`")
            }
            _ => format!("`{text}` is too large; the maximum is {max}"),
        };
    }
    if digits(number) {
        return format!("expected a whole number, not `{text}`; write {number}");
    }
    format!("expected a whole number, not `{text}`")
}

count_setting! {
    u16, 0, u64::from(Self::MAX), u64::from;
    NonZeroU16, 1, u64::from(u16::MAX), |count| u64::from(count.get());
    u32, 0, u64::from(Self::MAX), u64::from;
    u64, 0, Self::MAX, |count| count;
    NonZeroU32, 1, u64::from(u32::MAX), |count| u64::from(count.get());
    NonZeroU64, 1, u64::MAX, Self::get;
}

impl<T: Setting> Setting for Option<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        T::bind(node, at, diags).map(Some)
    }

    fn shape() -> Shape {
        T::shape()
    }

    fn show(&self) -> Plain {
        self.as_ref().map_or(Plain::Null, Setting::show)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Setting> Setting for Box<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        T::bind(node, at, diags).map(Self::new)
    }

    fn shape() -> Shape {
        T::shape()
    }

    fn show(&self) -> Plain {
        (**self).show()
    }

    fn absent() -> Option<Self> {
        T::absent().map(Self::new)
    }
}

impl<T: Setting> Setting for Spanned<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        T::bind(node, at, diags).map(|value| Self { value, span: node.span })
    }

    fn shape() -> Shape {
        T::shape()
    }

    fn show(&self) -> Plain {
        self.value.show()
    }

    fn absent() -> Option<Self> {
        T::absent().map(|value| Self { value, span: Span::default() })
    }
}

/// One value or a list of them.
impl<T: Setting> Setting for Vec<T> {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        let listed = matches!(node.value, Value::List(_));
        let mut all = Some(Self::new());
        for (index, item) in node.items().iter().enumerate() {
            let here = at.index(index);
            let bound = T::bind(item, if listed { &here } else { at }, diags);
            match (bound, &mut all) {
                (Some(value), Some(values)) => values.push(value),
                _ => all = None,
            }
        }
        all
    }

    fn shape() -> Shape {
        Shape::OneOrMany(Box::new(T::shape()))
    }

    fn show(&self) -> Plain {
        Plain::List(self.iter().map(Setting::show).collect())
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

/// Settings that another component binds later, such as those of a filter.
impl Setting for Node {
    fn bind(node: &Node, _at: &Path<'_>, _diags: &mut Diags) -> Option<Self> {
        Some(node.clone())
    }

    fn shape() -> Shape {
        Shape::Any
    }

    fn show(&self) -> Plain {
        self.value.as_written()
    }
}

/// The sentence "did you mean ...?" if a known word is near.
pub fn suggest_word(word: &str, known: &[&str]) -> Option<String> {
    nearest(word, known.iter().copied()).map(|near| format!("did you mean `{near}`?"))
}
