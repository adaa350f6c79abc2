//! Parses and checks the query of a page.
//!
//! Owns: which parameters each page takes. Keeps: an unknown parameter is an error, so that the result of a typo is not
//! mistaken for one about everything.

use crate::{AdminChange, Question, Selection};

/// The query of a page of items.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// `format=json` or `format=text`, if given.
    pub(crate) json: Option<bool>,
    /// Which items.
    pub(crate) selection: Selection,
}

/// Parses the query of a page of items; `filtered` pages take `listener` and `limit`.
pub(crate) fn of_page(query: &str, filtered: bool) -> Result<Query, String> {
    let mut read = Query::default();
    for (name, text) in pairs(query) {
        match name.as_str() {
            "format" => read.json = Some(format(&text)?),
            "listener" if filtered => read.selection.listener = Some(text),
            "limit" if filtered => {
                let number =
                    text.parse().map_err(|_| format!("`limit` must be a number, not `{text}`"));
                read.selection.limit = Some(number?);
            }
            _ => {
                let known = if filtered { "format, listener, limit" } else { "format" };
                return Err(unknown(&name, known));
            }
        }
    }
    Ok(read)
}

fn format(text: &str) -> Result<bool, String> {
    match text {
        "json" => Ok(true),
        "text" => Ok(false),
        _ => Err(format!("`format` must be json or text, not `{text}`")),
    }
}

fn unknown(name: &str, known: &str) -> String {
    format!("unknown parameter `{name}`; this page takes: {known}")
}

/// Parses the query of `/try`.
pub(crate) fn question(query: &str) -> Result<(Question, Option<bool>), String> {
    let (mut question, mut json) = (Question::default(), None);
    for (name, text) in pairs(query) {
        match name.as_str() {
            "listener" => question.listener = Some(text),
            "method" => question.method = Some(text),
            "host" => question.host = Some(text),
            "path" => question.path = Some(text),
            "header" => question.headers.push(text),
            "source" => question.source = Some(text),
            "sni" => question.sni = Some(text),
            "tls" => question.tls = Some(text),
            "client_certificate" => question.client_certificate = Some(text),
            "version" => question.version = Some(text),
            "value" => question.values.push(text),
            "as" => question.identity = Some(text),
            "format" => json = Some(format(&text)?),
            _ => {
                return Err(unknown(
                    &name,
                    "listener, method, host, path, header, source, sni, tls, client_certificate, version, value, as, format",
                ));
            }
        }
    }
    Ok((question, json))
}

/// How a page takes changes, if it does.
pub(crate) fn how_to_change(path: &str) -> Option<&'static str> {
    Some(match path {
        "/runtime" => {
            "POST ?key=NAME&value=VALUE overrides a value, without `value` removes the override"
        }
        "/listeners" => "POST ?listener=NAME&action=pause|resume stops accepting or goes on",
        "/connections" => "POST ?id=NUMBER&action=kill ends a connection or flow",
        "/log" => {
            "POST ?level=LEVEL sets the level, as in `debug` or `sluice_upstream=debug`, and level=default removes it; &for=10m sets an end"
        }
        "/overrides" => {
            "POST ?cluster=NAME&address=ADDRESS&action=ACTION with drain, maintenance or ready, or action=weight&weight=N; &for=10m sets an end"
        }
        _ => return None,
    })
}

/// Parses the query of a change; `None` if the page takes none.
pub(crate) fn change(path: &str, query: &str) -> Option<Result<AdminChange, String>> {
    Some(match path {
        "/runtime" => parameters(path, query, ["key"], ["value"])
            .map(|([key], [value])| AdminChange::Runtime { key, value }),
        "/listeners" => parameters(path, query, ["listener", "action"], [])
            .map(|([listener, action], [])| AdminChange::Listener { listener, action }),
        "/connections" => parameters(path, query, ["id", "action"], [])
            .map(|([id, action], [])| AdminChange::Connection { id, action }),
        "/log" => parameters(path, query, ["level"], ["for"])
            .map(|([level], [lasts])| AdminChange::Log { level, lasts }),
        "/overrides" => {
            parameters(path, query, ["cluster", "address", "action"], ["weight", "for"]).map(
                |([cluster, address, action], [weight, lasts])| AdminChange::Endpoint {
                    cluster,
                    address,
                    action,
                    weight,
                    lasts,
                },
            )
        }
        _ => return None,
    })
}

/// The values of parameters, some of them required.
fn parameters<const N: usize, const M: usize>(
    path: &str,
    query: &str,
    required: [&str; N],
    optional: [&str; M],
) -> Result<([String; N], [Option<String>; M]), String> {
    let mut needed = [const { String::new() }; N];
    let mut others = [const { None }; M];
    for (name, text) in pairs(query) {
        let place = |names: &[&str]| names.iter().position(|known| *known == name);
        if let Some(place) = place(&required) {
            needed[place] = text;
        } else if let Some(place) = place(&optional) {
            others[place] = Some(text);
        } else {
            return Err(unknown(&name, &[&required[..], &optional].concat().join(", ")));
        }
    }
    if let Some(missing) = needed.iter().position(String::is_empty) {
        let how = how_to_change(path).unwrap_or_default();
        return Err(format!("`{}` is missing; {how}", required[missing]));
    }
    Ok((needed, others))
}

/// The parameters of a query, decoded.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// Percent-decodes text; invalid escapes stay as they are.
fn decode(text: &str) -> String {
    let bytes = text.replace('+', " ").into_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_from_the_query() {
        let asked = question(
            "host=a.test&path=%2Fa%3Fb&header=X-A%3A+1&header=x&value=a.b:1&as=basic:a&format=json",
        );
        let expected = Question {
            host: Some("a.test".into()),
            path: Some("/a?b".into()),
            headers: vec!["X-A: 1".into(), "x".into()],
            values: vec!["a.b:1".into()],
            identity: Some("basic:a".into()),
            ..Question::default()
        };
        assert_eq!(asked, Ok((expected, Some(true))));
        assert!(question("hots=a").unwrap_err().contains("unknown parameter `hots`"));
        assert_eq!(decode("%zz%4"), "%zz%4");
    }

    #[test]
    fn each_page_takes_its_own_parameters_and_no_other() {
        let read = of_page("limit=3&listener=a%20b", true).unwrap();
        let selection = Selection { listener: Some("a b".into()), limit: Some(3) };
        assert_eq!(read, Query { json: None, selection });
        assert_eq!(of_page("format=text", false).unwrap().json, Some(false));
        assert!(of_page("limit=3", false).unwrap_err().contains("takes: format"));
        assert!(of_page("limit=many", true).unwrap_err().contains("number"));
        assert!(of_page("format=xml", true).unwrap_err().contains("json or text"));
        assert!(change("/clusters", "a=b").is_none());
        let wrong = |path, query| change(path, query).unwrap().unwrap_err();
        assert!(wrong("/runtime", "value=1").starts_with("`key` is missing; POST ?key=NAME"));
        assert!(wrong("/overrides", "cluster=a&address=b").starts_with("`action` is missing"));
        assert!(wrong("/connections", "id=3").starts_with("`action` is missing; POST ?id=NUMBER"));
        assert!(wrong("/log", "levle=debug").contains("this page takes: level, for"));
        let kill = AdminChange::Connection { id: "3".into(), action: "kill".into() };
        assert_eq!(change("/connections", "id=3&action=kill"), Some(Ok(kill)));
        let log = AdminChange::Log { level: "warn,h2=debug".into(), lasts: Some("5m".into()) };
        assert_eq!(change("/log", "level=warn,h2%3Ddebug&for=5m"), Some(Ok(log)));
        assert!(wrong("/overrides", "wait=1").contains("cluster, address, action, weight, for"));
        let runtime = AdminChange::Runtime { key: "a".into(), value: None };
        assert_eq!(change("/runtime", "key=a"), Some(Ok(runtime)));
        let query = "cluster=a&address=%5B::1%5D:5&action=weight&weight=3&for=1m";
        let endpoint = AdminChange::Endpoint {
            cluster: "a".into(),
            address: "[::1]:5".into(),
            action: "weight".into(),
            weight: Some("3".into()),
            lasts: Some("1m".into()),
        };
        assert_eq!(change("/overrides", query), Some(Ok(endpoint)));
    }
}
