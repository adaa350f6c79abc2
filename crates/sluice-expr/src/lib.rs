//! Expressions in the Common Expression Language (CEL) over attributes of requests and connections.
//!
//! Owns: which expressions are accepted, and what one costs at most. Refuses to know: where attributes come from, and what an
//! expression decides. Keeps: an expression names only attributes that exist, and its cost is
//! bounded by its own size and that of one attribute, whatever a client sends.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::IdedExpr;
use cel::extractors::{Arguments, This};
use cel::objects::Key;
use cel::{Context, Env, ExecutionError, Value};
use regex::Regex;

mod bounds;
mod tables;
#[cfg(test)]
mod tests;

pub use tables::{ExpressionTable, TableUse, noting_tables};

/// An attribute that expressions may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeDef {
    /// `request`, `connection` and so on.
    pub root: &'static str,
    /// The name after it; `*` for any name, which is then written `root["name"]`.
    pub field: &'static str,
    /// Whether it is a map, of which an expression may name a member.
    pub is_map: bool,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// True or false.
    Bool(bool),
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// Texts by name.
    Map(Vec<(String, String)>),
}

/// An attribute that an expression uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeUse {
    /// `request`, `connection` and so on.
    pub root: &'static str,
    /// The name after it.
    pub field: String,
    /// The members of a map that are used; `None` for all.
    pub members: Option<Vec<String>>,
}

/// What an expression is about.
pub trait AttributeSource {
    /// The value of an attribute; `None` if there is none.
    fn attribute(&self, of: &AttributeUse) -> Option<AttributeValue>;
}

/// Why an expression has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoResult {
    /// An attribute, or a member of it, that it uses does not exist; `has(...)` tells.
    Absent,
    /// Types that do not fit, a division by zero and the like.
    Failed,
}

/// An expression: one that is true or false, or one that makes a value.
#[derive(Clone)]
pub struct Expression {
    source: Box<str>,
    root: Arc<IdedExpr>,
    uses: Arc<[AttributeUse]>,
    regexes: Arc<HashMap<String, Regex>>,
    tables: Arc<[TableUse]>,
}

static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

impl Expression {
    /// Parses an expression over these attributes.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str, known: &[AttributeDef]) -> Result<Self, String> {
        if text.len() > bounds::BYTES_MAX {
            return Err(format!("an expression has at most {} bytes", bounds::BYTES_MAX));
        }
        bounds::check_nesting(text)?;
        let parser =
            STANDARD.parser().max_recursion_depth(bounds::DEPTH_MAX).error_recovery_limit(0);
        let mut root = parser.parse(text).map_err(|errors| {
            let first = errors.errors.first();
            let place = first.map_or(String::new(), |error| {
                format!(" at line {}, column {}", error.pos.0, error.pos.1)
            });
            format!("this is no expression of CEL{place}")
        })?;
        let checked = bounds::check(&root, known)?;
        if !checked.tables.is_empty() {
            tables::allow_absent_keys(&mut root);
        }
        Ok(Self {
            source: text.into(),
            root: Arc::new(root),
            uses: checked.uses.into(),
            regexes: Arc::new(checked.regexes),
            tables: tables::note(checked.tables, text)?,
        })
    }

    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The attributes that it uses.
    pub fn uses(&self) -> &[AttributeUse] {
        &self.uses
    }

    /// Whether it is true.
    ///
    /// # Errors
    /// It is neither true nor false.
    pub fn is_true(&self, source: &dyn AttributeSource) -> Result<bool, NoResult> {
        match self.resolve(source)? {
            Value::Bool(result) => Ok(result),
            _ => Err(NoResult::Failed),
        }
    }

    /// What it makes, as a text: a text as it is, numbers in decimal, `true` or `false`.
    ///
    /// # Errors
    /// It makes nothing of these; null is what does not exist.
    pub fn text(&self, source: &dyn AttributeSource) -> Result<String, NoResult> {
        match self.resolve(source)? {
            Value::String(text) => Ok(text.to_string()),
            Value::Bool(flag) => Ok(flag.to_string()),
            Value::Int(number) => Ok(number.to_string()),
            Value::UInt(number) => Ok(number.to_string()),
            Value::Float(number) => Ok(number.to_string()),
            Value::Null => Err(NoResult::Absent),
            _ => Err(NoResult::Failed),
        }
    }

    fn resolve(&self, source: &dyn AttributeSource) -> Result<Value, NoResult> {
        let mut context = Context::with_env(Arc::clone(&STANDARD));
        if !self.regexes.is_empty() {
            let regexes = Arc::clone(&self.regexes);
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| {
                regexes.get(&*pattern).is_some_and(|regex| regex.is_match(&text))
            };
            context.add_function("matches", matches).map_err(|_| NoResult::Failed)?;
        }
        if !self.tables.is_empty() {
            let tables = Arc::clone(&self.tables);
            let lookup = move |Arguments(args): Arguments| tables::look_up(&tables, &args);
            context.add_function(tables::LOOKUP, lookup).map_err(|_| NoResult::Failed)?;
        }
        let mut roots: HashMap<&'static str, HashMap<Key, Value>> = HashMap::new();
        for of in &*self.uses {
            let fields = roots.entry(of.root).or_default();
            if let Some(value) = source.attribute(of) {
                fields.insert(Key::from(of.field.clone()), value.into());
            }
        }
        for (root, fields) in roots {
            context.add_variable_from_value(root, fields);
        }
        Value::resolve(&self.root, &context).map_err(|error| match error {
            ExecutionError::NoSuchKey(_) => NoResult::Absent,
            _ => NoResult::Failed,
        })
    }
}

impl From<AttributeValue> for Value {
    fn from(value: AttributeValue) -> Self {
        match value {
            AttributeValue::Bool(flag) => Self::Bool(flag),
            AttributeValue::Number(number) => Self::Int(number),
            AttributeValue::Text(text) => text.into(),
            AttributeValue::Map(members) => {
                members.into_iter().collect::<HashMap<String, String>>().into()
            }
        }
    }
}

impl PartialEq for Expression {
    /// Expressions are equal if they were written alike.
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({})", self.source)
    }
}
