//! Kinds of filters by name, for connections and for HTTP alike, and what they may ask while their settings are checked.
//!
//! Owns: the interface of a factory, its registry, and its view of the configuration. Refuses to know: what a filter
//! does, and the sections of a configuration. Keeps: built-in and third-party filters are registered and configured in
//! the same way; a filter reaches only what it named while its settings were checked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Weak};

use sluice_core::{
    Diagnostic, Diags, Name, Node, Path, Plain, SecretSource, SecretText, Setting, Shape, Span,
    Spanned, ValueDef,
};
use sluice_expr::noting_tables;
use sluice_upstream::Cluster;

use super::content::{Content, LiveSecret, SecretUser};
use super::fetch::{FetchOrigin, FetchSchedule, Fetched, Fetches, FileOrigin};
use super::lookup::LiveMap;

/// A kind of filter, registered by name, one per process. `P` is what one use of it becomes.
pub trait FilterFactory<P: ?Sized>: Send + Sync + Debug {
    /// The name used in configurations.
    fn name(&self) -> &'static str;

    /// One sentence for the reference page.
    fn help(&self) -> &'static str;

    /// The shape of its settings.
    fn shape(&self) -> Shape;

    /// These settings with every short form expanded and every default written out; see [`long_form_of`]. `None` if they
    /// are not valid, or it is not known.
    fn long_form(&self, _settings: &Node) -> Option<Plain> {
        None
    }

    /// The type names by which control planes configure it.
    fn type_urls(&self) -> &'static [&'static str] {
        &[]
    }

    /// The values that it shares. What no filter declares, a configuration cannot name.
    fn values(&self) -> &'static [ValueDef] {
        &[]
    }

    /// Checks the settings of one use; reports errors to the context.
    fn check(&self, settings: &Node, context: &mut CheckContext<'_>) -> Option<Arc<P>>;
}

/// Settings of this type in their long form. `None` if they are not valid, or what is shown would not be read as the same.
pub fn long_form_of<S: Setting>(settings: &Node) -> Option<Plain> {
    let read = |settings: &Node| {
        let mut diags = Diags::new();
        let (bound, _) = noting_tables(|| S::bind(settings, &Path::ROOT, &mut diags));
        bound.filter(|_| !diags.has_errors()).map(|bound| bound.show())
    };
    let shown = read(settings)?;
    let again = read(&shown.to_node())?;
    (again == shown).then_some(shown)
}

/// The name of the filter in the key of a use, and the label: `lua/audit` is the use `audit` of the filter `lua`.
pub fn split_key(key: &str) -> (&str, Option<&str>) {
    key.split_once('/').map_or((key, None), |(name, label)| (name, Some(label)))
}

/// The owner of the state of a use, if `owner` is that of its chain or rule: uses of one filter share no state.
pub fn owner_of_use<'o>(owner: &'o str, key: &str) -> Cow<'o, str> {
    match split_key(key) {
        (_, None) => Cow::Borrowed(owner),
        (_, Some(label)) => Cow::Owned(format!("{owner}#{label}")),
    }
}

/// Checks the key of a use in a chain, which has those `before` it: each key occurs once, and a label has 1 to 32 letters,
/// digits, `-`, `_` and `.`.
pub fn check_key<'k>(
    key: &str,
    mut before: impl Iterator<Item = &'k str>,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<()> {
    const LENGTH_MAX: usize = 32;
    let (name, label) = split_key(key);
    if before.any(|other| other == key) {
        let message = format!("the filter `{key}` is listed twice");
        diags
            .error("duplicate-name", None, *at, message)
            .on_key()
            .help(format!("give the second a label: `{name}/second`"));
        return None;
    }
    let Some(label) = label else { return Some(()) };
    let of_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=LENGTH_MAX).contains(&label.len()) && label.bytes().all(of_label) {
        return Some(());
    }
    let message = format!("`{label}` cannot be the label of a filter");
    diags.error("bad-value", None, *at, message).on_key().help(format!(
        "use 1 to {LENGTH_MAX} letters, digits, `-`, `_` and `.` after the slash, such as `{name}/second`"
    ));
    None
}

/// Filters by name.
pub struct FilterRegistry<P: ?Sized>(BTreeMap<&'static str, Arc<dyn FilterFactory<P>>>);

impl<P: ?Sized> FilterRegistry<P> {
    /// Adds a filter, or replaces the one with the same name.
    pub fn register(&mut self, factory: Arc<dyn FilterFactory<P>>) {
        self.0.insert(factory.name(), factory);
    }

    /// The filter of a use with that key: its name, and a label after a slash where a chain uses it more than once.
    pub fn get(&self, key: &str) -> Option<&Arc<dyn FilterFactory<P>>> {
        self.0.get(split_key(key).0)
    }

    /// The filter that control planes configure by this type name.
    pub fn of_type(&self, url: &str) -> Option<&Arc<dyn FilterFactory<P>>> {
        self.0.values().find(|factory| factory.type_urls().contains(&url))
    }

    /// The values that these filters share.
    pub fn values(&self) -> impl Iterator<Item = &'static ValueDef> {
        self.0.values().flat_map(|factory| factory.values())
    }

    /// Every filter, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn FilterFactory<P>>> {
        self.0.values()
    }
}

impl<P: ?Sized> FromIterator<Arc<dyn FilterFactory<P>>> for FilterRegistry<P> {
    fn from_iter<I: IntoIterator<Item = Arc<dyn FilterFactory<P>>>>(factories: I) -> Self {
        Self(factories.into_iter().map(|factory| (factory.name(), factory)).collect())
    }
}

// Not derived: that would require the same of `P`.
impl<P: ?Sized> Clone for FilterRegistry<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: ?Sized> Debug for FilterRegistry<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// Where a filter is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterOwner<'a> {
    /// On a listener, before a chain is selected.
    Listener(&'a str),
    /// On a chain.
    Chain {
        /// The listener.
        listener: &'a str,
        /// The chain.
        chain: &'a str,
    },
    /// On a virtual host or a rule of these routes.
    Routes(&'a str),
}

/// What the settings of a filter may name.
pub trait FilterNames {
    /// Returns a cluster and notes that `owner` uses it; reports a name that does not exist.
    fn cluster(
        &mut self,
        owner: FilterOwner<'_>,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<Cluster>>;

    /// Checks that routes exist; reports a name that does not.
    fn routes(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> bool;

    /// Returns the text of a secret and notes that it is used; reports a name that does not exist.
    fn secret(
        &mut self,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<SecretText>;

    /// Returns a lookup table and notes that it is used; reports a name that does not exist.
    fn map(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> Option<LiveMap>;

    /// Tells `user` of every later text of a secret.
    fn follow(&mut self, name: &Name, user: Weak<dyn SecretUser>);

    /// The fetches of the process.
    fn fetches(&self) -> Arc<Fetches>;

    /// The folder that relative paths are resolved against; `None` if there is none.
    fn folder(&self) -> Option<&FilePath>;
}

/// One use of a filter, while its settings are checked.
pub struct CheckContext<'a> {
    /// The place of the settings.
    pub at: &'a Path<'a>,
    /// Where the filter is used.
    pub owner: FilterOwner<'a>,
    /// Errors and warnings.
    pub diags: &'a mut Diags,
    names: &'a mut dyn FilterNames,
}

impl Debug for CheckContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckContext({:?})", self.owner)
    }
}

impl<'a> CheckContext<'a> {
    /// The context of settings that stand `at` a place.
    pub fn new(
        at: &'a Path<'a>,
        owner: FilterOwner<'a>,
        diags: &'a mut Diags,
        names: &'a mut dyn FilterNames,
    ) -> Self {
        Self { at, owner, diags, names }
    }

    /// The context of settings within these.
    pub fn within<'b>(&'b mut self, at: &'b Path<'b>) -> CheckContext<'b> {
        CheckContext { at, owner: self.owner, diags: self.diags, names: self.names }
    }

    /// Reports that the settings at `span` name none of the fields of which exactly one is needed, or more than one of them.
    pub fn not_exactly_one(&mut self, span: Span, none: bool, message: &str) -> &mut Diagnostic {
        let code = if none { "missing-field" } else { "short-and-long" };
        self.diags.error(code, span, self.at, message)
    }

    /// Reads the settings as their section, and supplies the lookup tables that expressions in them name.
    pub fn bind<S: Setting>(&mut self, settings: &Node) -> Option<S> {
        let (bound, tables) = noting_tables(|| S::bind(settings, self.at, self.diags));
        for table in tables {
            let found = settings.find_text(table.expression(), self.at);
            let (at, span) = found.unwrap_or_else(|| (self.at.to_string(), settings.span));
            let name = Spanned { value: table.name().into(), span };
            let map = self.names.map(&name, &Path::ROOT.key(&at), self.diags)?;
            table.supply(Arc::new(map));
        }
        bound
    }

    /// Returns the cluster that the field `key` names, and marks it as used.
    pub fn cluster(&mut self, name: &Spanned<Name>, key: &str) -> Option<Arc<Cluster>> {
        self.names.cluster(self.owner, name, &self.at.key(key), self.diags)
    }

    /// Checks that the routes exist that the field `key` names.
    pub fn routes(&mut self, name: &Spanned<Name>, key: &str) -> bool {
        self.names.routes(name, &self.at.key(key), self.diags)
    }

    /// Returns the secret that the field `key` gives or names, parsed, and marks it as used. If the secret of the
    /// configuration gets another text, the handle follows; the filter is not created again.
    pub fn secret<T: Content>(
        &mut self,
        source: &SecretSource,
        key: &str,
    ) -> Option<LiveSecret<T>> {
        let at = self.at.key(key);
        let (name, text) = match source {
            SecretSource::Text(text) => (None, text.clone()),
            SecretSource::Named(name) => (Some(name), self.names.secret(name, &at, self.diags)?),
        };
        match LiveSecret::new(name.map(|name| &name.value), &text) {
            Ok(secret) => {
                if let Some(name) = name {
                    self.names.follow(&name.value, Arc::downgrade(&secret.user()));
                }
                Some(secret)
            }
            Err(problem) => {
                let span = name.map(|name| name.span);
                self.diags.error(
                    "bad-secret",
                    span,
                    at,
                    format!("cannot use this secret: {problem}"),
                );
                None
            }
        }
    }

    /// Returns the lookup table that the field `key` names, and marks it as used.
    pub fn map(&mut self, name: &Spanned<Name>, key: &str) -> Option<LiveMap> {
        self.names.map(name, &self.at.key(key), self.diags)
    }

    /// Declares content that is fetched while the configuration that this filter belongs to is in force, and as long as
    /// something holds the handle. Equal fetches are one.
    pub fn fetch<T: Content>(
        &mut self,
        origin: impl FetchOrigin + 'static,
        schedule: FetchSchedule,
    ) -> Fetched<T> {
        self.names.fetches().declare(Arc::new(origin), schedule)
    }

    /// Declares the content of the file that the field `key` names. It is read and checked now, so that it is there from
    /// the beginning, and again whenever it changes.
    pub fn file<T: Content>(&mut self, path: &Spanned<PathBuf>, key: &str) -> Option<Fetched<T>> {
        let origin = FileOrigin { path: self.path(&path.value, key)?, limit: T::LIMIT };
        match self.names.fetches().declare_file(origin) {
            Ok(fetched) => Some(fetched),
            Err(problem) => {
                let message = format!("cannot use {}: {problem}", path.value.display());
                self.diags.error("bad-file", path.span, self.at.key(key), message);
                None
            }
        }
    }

    /// Returns the path that the field `key` names, relative to the configuration files.
    pub fn path(&mut self, path: &FilePath, key: &str) -> Option<PathBuf> {
        match self.names.folder() {
            Some(folder) => Some(folder.join(path)),
            None if path.is_absolute() => Some(path.to_owned()),
            None => {
                let message = format!("the path {} is relative to nothing", path.display());
                let at = self.at.key(key);
                self.diags.error("bad-value", None, at, message).help("write an absolute path");
                None
            }
        }
    }
}

/// A configuration without clusters, routes, secrets and maps, for tests of filters.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl FilterNames for NoNames {
    fn cluster(
        &mut self,
        _: FilterOwner<'_>,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<Cluster>> {
        diags.error("unknown-name", name.span, at, format!("there is no cluster `{}`", name.value));
        None
    }

    fn routes(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> bool {
        let message = format!("there are no routes named `{}`", name.value);
        diags.error("unknown-name", name.span, at, message);
        false
    }

    fn secret(
        &mut self,
        name: &Spanned<Name>,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<SecretText> {
        diags.error("unknown-name", name.span, at, format!("there is no secret `{}`", name.value));
        None
    }

    fn map(&mut self, name: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) -> Option<LiveMap> {
        diags.error("unknown-name", name.span, at, format!("there is no map `{}`", name.value));
        None
    }

    fn follow(&mut self, _: &Name, _: Weak<dyn SecretUser>) {}

    fn fetches(&self) -> Arc<Fetches> {
        Arc::default()
    }

    fn folder(&self) -> Option<&FilePath> {
        None
    }
}
