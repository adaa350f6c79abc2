//! The macros that declare sections, choices and single values.

/// Declares a configuration section: a struct, and how it is bound, described and shown.
///
/// A field is required unless it has a default (`= "text"`, parsed as if it had been written) or its type may be absent
/// (`Option`, `Vec`, maps). `as "key"` sets a key that is a reserved word in Rust.
///
/// ```
/// use sluice_core::{Diags, Path, Setting, section};
/// section! {
///     /// A kettle.
///     pub struct Kettle {
///         /// How long it boils.
///         pub time: std::time::Duration = "3m",
///         /// What is written on it.
///         pub kind as "type": Option<String>,
///     }
/// }
/// let empty = sluice_core::Node { value: sluice_core::Value::Null, span: Default::default() };
/// let kettle = Kettle::bind(&empty, &Path::ROOT, &mut Diags::new()).expect("all fields may be left out");
/// assert_eq!(kettle.time.as_secs(), 180);
/// ```
#[macro_export]
macro_rules! section {
    ($(#[doc = $doc:literal])+ $vis:vis struct $name:ident {
        $($(#[doc = $fdoc:literal])+ pub $field:ident $(as $key:literal)? : $ty:ty $(= $default:literal)?,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[doc = $fdoc])+ pub $field: $ty,)+
        }

        impl $name {
            /// The keys of this section.
            const KEYS: &'static [&'static str] = &[$($crate::section!(@key $field $($key)?)),+];

            fn section_shape() -> $crate::settings::SectionShape {
                $crate::settings::SectionShape {
                    name: stringify!($name),
                    doc: [$($doc.trim()),+].join(" "),
                    fields: vec![$($crate::settings::FieldShape {
                        key: $crate::section!(@key $field $($key)?),
                        doc: [$($fdoc.trim()),+].join(" "),
                        required: $crate::section!(@default $($default)?).is_none()
                            && <$ty as $crate::settings::Setting>::absent().is_none(),
                        default: $crate::section!(@default $($default)?),
                        shape: <$ty as $crate::settings::Setting>::shape(),
                    }),+],
                }
            }
        }

        impl $crate::settings::Setting for $name {
            fn bind(
                node: &$crate::tree::Node,
                at: &$crate::settings::Path<'_>,
                diags: &mut $crate::diagnostics::Diags,
            ) -> Option<Self> {
                let fields = $crate::settings::Fields::open(node, at, diags, Self::KEYS)?;
                $(let $field: Option<$ty> = fields.take(
                    $crate::section!(@key $field $($key)?),
                    $crate::section!(@default $($default)?),
                    diags,
                );)+
                Some(Self { $($field: $field?),+ })
            }

            fn shape() -> $crate::settings::Shape {
                $crate::settings::Shape::Section(Self::section_shape)
            }

            /// A section whose fields are all optional may be omitted.
            fn absent() -> Option<Self> {
                let empty = $crate::tree::Node {
                    value: $crate::tree::Value::Null,
                    span: $crate::tree::Span::default(),
                };
                Self::bind(&empty, &$crate::settings::Path::ROOT, &mut $crate::diagnostics::Diags::new())
            }

            fn show(&self) -> $crate::settings::Plain {
                $crate::settings::Plain::Map(vec![$((
                    $crate::section!(@key $field $($key)?).to_owned(),
                    $crate::settings::Setting::show(&self.$field),
                )),+])
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (@default) => { None::<&'static str> };
    (@default $default:literal) => { Some($default) };
}

/// Declares a choice of words: an enum, and how it is bound, described and shown.
#[macro_export]
macro_rules! choice {
    ($(#[doc = $doc:literal])+ $vis:vis enum $name:ident {
        $($(#[doc = $vdoc:literal])+ $variant:ident = $word:literal,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $($(#[doc = $vdoc])+ $variant,)+
        }

        impl $name {
            /// The word in configuration and documentation.
            $vis const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl $crate::settings::Setting for $name {
            fn bind(
                node: &$crate::tree::Node,
                at: &$crate::settings::Path<'_>,
                diags: &mut $crate::diagnostics::Diags,
            ) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),+];
                // The error about a placeholder does not contain the value, so it lists the words.
                let words = match node.value {
                    $crate::tree::Value::Substituted(_) => format!("one of {}", WORDS.join(", ")),
                    _ => String::new(),
                };
                let what = if words.is_empty() { "a word" } else { &words };
                $crate::settings::bind_scalar(node, at, diags, what, |text| match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(match $crate::settings::suggest_word(text, WORDS) {
                        Some(near) => format!("`{text}` is not one of {}; {near}", WORDS.join(", ")),
                        None => format!("`{text}` is not one of {}", WORDS.join(", ")),
                    }),
                })
            }

            fn shape() -> $crate::settings::Shape {
                $crate::settings::Shape::Choice(vec![
                    $(($word, concat!($($vdoc),+))),+
                ])
            }

            fn show(&self) -> $crate::settings::Plain {
                $crate::settings::Plain::Text(self.word().to_owned())
            }
        }
    };
}

/// Makes types settings that are a single value: what it is, an example, how it is parsed and shown.
///
/// ```
/// use sluice_core::{Diags, Path, Setting};
/// struct Even(u32);
/// sluice_core::text_setting! {
///     Even, "an even number", "2", |text| match text.parse() {
///         Ok(number) if number % 2 == 0 => Ok(Even(number)),
///         _ => Err(format!("expected an even number, not `{text}`")),
///     }, |even| even.0.to_string();
/// }
/// ```
#[macro_export]
macro_rules! text_setting {
    ($($ty:ty, $what:literal, $example:literal, $parse:expr, $show:expr;)+) => {$(
        impl $crate::settings::Setting for $ty {
            fn bind(
                node: &$crate::tree::Node,
                at: &$crate::settings::Path<'_>,
                diags: &mut $crate::diagnostics::Diags,
            ) -> Option<Self> {
                $crate::settings::bind_scalar(node, at, diags, $what, $parse)
            }

            fn shape() -> $crate::settings::Shape {
                $crate::settings::Shape::Text { what: $what, example: $example }
            }

            fn show(&self) -> $crate::settings::Plain {
                let show: fn(&Self) -> String = $show;
                $crate::settings::Plain::Text(show(self))
            }
        }
    )+};
}
