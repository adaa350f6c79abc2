//! Parses YAML into a spanned tree.
//!
//! Owns: anchors, merge keys, duplicate keys, and the bounds on expansion.
//! Refuses to know: what any key means. Keeps: this is the only module that knows the YAML crate; any
//! input results in a tree or in errors with a place, in bounded time and memory.

use std::collections::HashMap;
use std::sync::Arc;

use serde_yaml::granit_parser::{Event, Parser, ScalarStyle, Span as YamlSpan};
use sluice_core::tree::MapEntry;
use sluice_core::{Diags, Node, Span, Value};

#[cfg(test)]
mod tests;

/// Maximum number of nodes of a file, with aliases expanded.
const NODES_MAX: usize = 2_000_000;

/// Maximum number of nodes that the aliases of a file may expand to.
const ALIAS_NODES_MAX: usize = 100_000;

/// Maximum nesting depth of lists and maps.
const DEPTH_MAX: usize = 64;

/// Parses `text`, file number `file`, into a tree. An empty file is `Null`.
pub fn read(text: &str, file: u16, diags: &mut Diags) -> Option<Node> {
    let mut reader = YamlReader {
        events: Parser::new_from_str(text),
        text,
        file,
        anchors: HashMap::new(),
        nodes: 0,
        alias_nodes: 0,
        diags,
    };
    reader.document()
}

struct YamlReader<'a> {
    events: Parser<'a, serde_yaml::granit_parser::StrInput<'a>>,
    text: &'a str,
    file: u16,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    alias_nodes: usize,
    diags: &'a mut Diags,
}

/// Parsing cannot continue; the error is among the findings.
struct ReadStopped;

impl YamlReader<'_> {
    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        loop {
            let (event, span) = self.next().ok()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                event if root.is_some() => {
                    drop(event);
                    self.error(
                        "several-documents",
                        span,
                        "a file must contain a single YAML document",
                    )
                    .help("split it into several files in a folder");
                    return None;
                }
                event => root = Some(self.node(event, span, 0).ok()?),
            }
        }
        let nothing = Node { value: Value::Null, span: Span { file: self.file, start: 0, end: 0 } };
        Some(root.unwrap_or(nothing))
    }

    /// The next event that is not a comment.
    fn next(&mut self) -> Result<(Event<'static>, Span), ReadStopped> {
        loop {
            match self.events.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((owned(event), self.span(span))),
                Some(Err(error)) => {
                    let at = error.marker().byte_offset().unwrap_or(self.text.len());
                    let at = u32::try_from(at).unwrap_or(u32::MAX);
                    let span = Span { file: self.file, start: at, end: at.saturating_add(1) };
                    let help = help(self.text, at as usize, &error.info());
                    self.error("yaml", span, &format!("invalid YAML: {}", error.info())).help(help);
                    return Err(ReadStopped);
                }
                None => return Ok((Event::StreamEnd, Span { file: self.file, start: 0, end: 0 })),
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'static>,
        span: Span,
        depth: usize,
    ) -> Result<Node, ReadStopped> {
        self.nodes += 1;
        if self.nodes > NODES_MAX || depth > DEPTH_MAX {
            self.error("too-large", span, "the configuration is too large or nested too deeply");
            return Err(ReadStopped);
        }
        let before = self.nodes;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (scalar(&text, style, span), anchor),
            Event::SequenceStart(_, anchor, _) => (self.list(span, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map(span, depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, span),
            _ => {
                self.error("yaml", span, "expected a value here");
                return Err(ReadStopped);
            }
        };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node, ReadStopped> {
        let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
            self.error("yaml", span, "this alias refers to a value that contains it");
            return Err(ReadStopped);
        };
        self.nodes += size;
        self.alias_nodes += size;
        if self.alias_nodes > ALIAS_NODES_MAX {
            self.error("too-large", span, "the aliases expand to too many values")
                .help("write the values out, or use fewer aliases");
            return Err(ReadStopped);
        }
        Ok(node)
    }

    fn list(&mut self, span: Span, depth: usize) -> Result<Node, ReadStopped> {
        let mut items = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::SequenceEnd {
                let span = Span { end: at.end.max(span.end), ..span };
                return Ok(Node { value: Value::List(items), span: self.trim(span) });
            }
            items.push(self.node(event, at, depth + 1)?);
        }
    }

    fn map(&mut self, span: Span, depth: usize) -> Result<Node, ReadStopped> {
        let mut entries: Vec<MapEntry> = Vec::new();
        let mut places: HashMap<Arc<str>, Span> = HashMap::new();
        let mut merged: Vec<MapEntry> = Vec::new();
        loop {
            let (event, key_span) = self.next()?;
            if event == Event::MappingEnd {
                let span = Span { end: key_span.end.max(span.end), ..span };
                merged.retain(|entry| !places.contains_key(&entry.key));
                entries.extend(merged);
                return Ok(Node { value: Value::Map(entries), span: self.trim(span) });
            }
            let Event::Scalar(key, style, _, _) = event else {
                self.error("yaml", key_span, "a key must be a single value");
                return Err(ReadStopped);
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1)?;
            if key == "<<" && style == ScalarStyle::Plain {
                self.merge(node, &mut merged)?;
                continue;
            }
            let key: Arc<str> = key.as_ref().into();
            if let Some(first) = places.get(&key) {
                let first = *first;
                self.error("duplicate-key", key_span, &format!("duplicate key `{key}`"))
                    .other(first, "first declared here")
                    .help("keep one of them");
                continue;
            }
            places.insert(Arc::clone(&key), key_span);
            entries.push(MapEntry { key, key_span, node });
        }
    }

    /// `<<`: adds the fields of one or several maps, unless the map itself has a field of that name.
    fn merge(&mut self, node: Node, merged: &mut Vec<MapEntry>) -> Result<(), ReadStopped> {
        for item in node.items() {
            let Value::Map(fields) = &item.value else {
                self.error("yaml", item.span, "`<<` takes a map or a list of maps");
                return Err(ReadStopped);
            };
            for field in fields {
                if !merged.iter().any(|entry| entry.key == field.key) {
                    merged.push(field.clone());
                }
            }
        }
        Ok(())
    }

    fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: &str,
    ) -> &mut sluice_core::Diagnostic {
        self.diags.error(code, span, "", message)
    }

    fn span(&self, span: YamlSpan) -> Span {
        let byte = |offset: Option<usize>| u32::try_from(offset.unwrap_or(0)).unwrap_or(u32::MAX);
        let (start, end) = (byte(span.start.byte_offset()), byte(span.end.byte_offset()));
        Span { file: self.file, start, end: end.max(start) }
    }

    /// The parser ends a block where the next token begins; the white space before it is not part of the block.
    fn trim(&self, span: Span) -> Span {
        let text = self.text.get(span.start as usize..span.end as usize).unwrap_or_default();
        let kept = u32::try_from(text.trim_end().len()).unwrap_or(0);
        Span { end: span.start + kept, ..span }
    }
}

/// The remedy for a parser error at a byte of the text.
fn help(text: &str, at: usize, info: &str) -> &'static str {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let says = |words: &[&str]| words.iter().any(|word| info.contains(word));
    if says(&["tab"]) || line.trim_start_matches(' ').starts_with('\t') {
        "indent with spaces; YAML does not allow tabs there"
    } else if line.contains("${") {
        "write the variable in quotes: inside `{ }` and `[ ]`, YAML reads the braces of `${NAME}` as its own"
    } else if says(&["unclosed"]) {
        "close what was opened here"
    } else if says(&["block mapping", "block collection", "mapping values"]) {
        "check the indentation: the fields of a map must start in the same column, and so must the items of a list; \
         quote values that contain `: `"
    } else if says(&["flow", "bracket", "illegal placement"]) {
        "check the brackets and commas before this position; quote values that contain `: `"
    } else {
        "quote values that begin with * & % [ { @ or contain `: ` or ` #`"
    }
}

/// A scalar; an empty value, `null` and `~` are `Null` if plain.
fn scalar(text: &str, style: ScalarStyle, span: Span) -> Node {
    let plain = style == ScalarStyle::Plain;
    let value = match text {
        "" | "~" | "null" if plain => Value::Null,
        _ => Value::Scalar { text: text.into(), quoted: !plain },
    };
    Node { value, span }
}

fn owned(event: Event<'_>) -> Event<'static> {
    match event {
        Event::StreamStart => Event::StreamStart,
        Event::StreamEnd => Event::StreamEnd,
        Event::DocumentStart(explicit, version) => Event::DocumentStart(explicit, version),
        Event::Scalar(text, style, anchor, _) => {
            Event::Scalar(text.into_owned().into(), style, anchor, None)
        }
        Event::SequenceStart(style, anchor, _) => Event::SequenceStart(style, anchor, None),
        Event::SequenceEnd => Event::SequenceEnd,
        Event::MappingStart(style, anchor, _) => Event::MappingStart(style, anchor, None),
        Event::MappingEnd => Event::MappingEnd,
        Event::Alias(anchor) => Event::Alias(anchor),
        // Comments and metadata, which are not used.
        _ => Event::DocumentEnd,
    }
}
