//! What a setting may look like, and a value in its long form.

/// What may be written for a setting.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A single value of a kind, with an example.
    Text {
        /// What it is: `a duration`.
        what: &'static str,
        /// One that is legal.
        example: &'static str,
    },
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Count {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// One of these words, each with its meaning.
    Choice(Vec<(&'static str, &'static str)>),
    /// Named fields; a function, since sections may hold themselves.
    Section(fn() -> SectionShape),
    /// The value or a list of them.
    OneOrMany(Box<Self>),
    /// A map of names to values.
    Named(Box<Self>),
    /// The value or the word `none`.
    OrNone(Box<Self>),
    /// A short form before the long one.
    Either(Vec<Self>),
    /// A map of exactly one of these entries.
    Tagged(Vec<FieldShape>),
    /// A map of any of these entries.
    Fields(Vec<FieldShape>),
    /// Anything; bound by whoever is named beside it.
    Any,
}

/// A section: its name on the reference page and its fields.
#[derive(Clone, Debug)]
pub struct SectionShape {
    /// The name of the type.
    pub name: &'static str,
    /// What it is for.
    pub doc: String,
    /// The fields, in the order they are shown.
    pub fields: Vec<FieldShape>,
}

/// A field of a section.
#[derive(Clone, Debug)]
pub struct FieldShape {
    /// The key.
    pub key: &'static str,
    /// What it means.
    pub doc: String,
    /// Whether it must be there.
    pub required: bool,
    /// The value when it is left out.
    pub default: Option<&'static str>,
    /// What may be written.
    pub shape: Shape,
}

/// A value without places: the long form that `explain` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// Nothing; fields that show so are left out.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Text.
    Text(String),
    /// Values in order.
    List(Vec<Self>),
    /// Named values in order.
    Map(Vec<(String, Self)>),
}
