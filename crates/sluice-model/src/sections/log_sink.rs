//! The destination of an access log: a stream, a file or a loaded library.
//!
//! Owns: the forms that `sink` takes. Refuses to know: how records get there. Keeps: a text is always a stream or a file.

use sluice_core::settings::{Path, Plain, Setting, Shape, bind_scalar};
use sluice_core::tree::Value;
use sluice_core::{Diags, Node, section};
use sluice_module::LoggerLibrary;

/// The destination of an access log.
#[derive(Clone, Debug, PartialEq)]
pub enum LogSink {
    /// `stdout`, `stderr` or the path of a file.
    Text(String),
    /// A library.
    Library(Box<LoggerLibrary>),
}

section! {
    /// A destination of records that is no file.
    pub struct OtherSink {
        /// A library that gets every record (`sluice_filter.h`).
        pub module: LoggerLibrary,
    }
}

impl Setting for LogSink {
    fn bind(node: &Node, at: &Path<'_>, diags: &mut Diags) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            let other = OtherSink::bind(node, at, diags)?;
            return Some(Self::Library(Box::new(other.module)));
        }
        let what = "stdout, stderr, the path of a file or { module: { library: PATH } }";
        bind_scalar(node, at, diags, what, |text| Ok(Self::Text(text.to_owned())))
    }

    fn shape() -> Shape {
        let text = Shape::Text { what: "stdout, stderr or the path of a file", example: "stdout" };
        Shape::Either(vec![text, OtherSink::shape()])
    }

    fn show(&self) -> Plain {
        match self {
            Self::Text(text) => Plain::Text(text.clone()),
            Self::Library(library) => OtherSink { module: (**library).clone() }.show(),
        }
    }
}
