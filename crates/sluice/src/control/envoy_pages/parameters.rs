//! The query of a page of Envoy.
//!
//! Owns: how it is read. Refuses to know: which parameters a page takes; as in Envoy, others are ignored. Keeps: a plus sign is
//! a plus sign, since filters are regexes; characters that are not escaped are taken as they are.

/// The parameters, decoded, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query.
    pub(super) fn read(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(pairs.map(|(name, value)| (decode(name), decode(value))).collect())
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(of, _)| *of == name).map(|(_, value)| value)
    }

    /// Whether a parameter is there, whatever its value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// Percent-decodes text; invalid escapes stay as they are.
fn decode(text: &str) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.filter(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match byte.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_they_come() {
        let read = Parameters::read(r"usedonly&filter=^listener\..*%24&x=a+b%2&=&&");
        assert_eq!(read.get("filter"), Some(r"^listener\..*$"));
        assert!(read.has("usedonly") && !read.has("used"));
        assert_eq!(read.get("x"), Some("a+b%2"));
        assert_eq!(Parameters::read(""), Parameters::default());
    }

    #[test]
    fn cut_and_random_queries_are_taken() {
        let whole = "filter=%5E%zz%e2%82%ac&a=%&b=%1";
        for end in 0..whole.len() {
            Parameters::read(&whole[..end]);
        }
        for _ in 0..2000 {
            let letters = ['%', '&', '=', '+', 'a', 'e', '0', '\u{e9}', '\\', '^', '$'];
            let letter = |_| letters[fastrand::usize(..letters.len())];
            let random: String = (0..fastrand::usize(..30)).map(letter).collect();
            Parameters::read(&random);
        }
    }
}
