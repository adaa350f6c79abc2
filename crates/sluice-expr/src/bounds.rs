//! Which expressions are accepted.
//!
//! Owns: the bounds on the size of an expression and on what evaluating it may cost, and the attributes that it names. Refuses
//! to know: values. Keeps: no loop is within another; nothing that a loop yields is larger than what it runs over; every
//! regex is a literal that was compiled here.

use std::collections::{HashMap, HashSet};

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators,
};
use regex::{Regex, RegexBuilder};

use crate::tables::LOOKUP;
use crate::{AttributeDef, AttributeUse};

/// The longest expression, in bytes.
pub(crate) const BYTES_MAX: usize = 4096;

/// The deepest nesting that the parser accepts.
pub(crate) const DEPTH_MAX: u16 = 48;

/// The deepest tree that is evaluated: evaluating recurses. A chain of operators is as deep as it is long.
const TREE_DEPTH_MAX: usize = 64;

/// The most operators, names, literals and calls.
const NODES_MAX: usize = 1024;

/// The most loops (`exists`, `all` and so on).
const LOOPS_MAX: usize = 8;

/// The most calls of `lookup`.
const LOOKUPS_MAX: usize = 8;

/// The size of a compiled regex, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// The most brackets within each other: the parser recurses.
const BRACKETS_MAX: usize = 40;

/// The longest chain of operators.
const CHAIN_MAX: usize = 96;

/// The most characters `&`, `|`, `?` and `:`.
const JOINS_MAX: usize = 256;

/// What a check finds.
#[derive(Debug, Default)]
pub(crate) struct AcceptedParts {
    pub(crate) uses: Vec<AttributeUse>,
    pub(crate) regexes: HashMap<String, Regex>,
    /// The names of lookup tables, each once.
    pub(crate) tables: Vec<String>,
}

/// Refuses what is nested so deeply, or has such long chains of operators, that parsing it would need much of the stack.
///
/// The estimate is never too low: a chain of operators, selections, indices and calls counts as as many levels, and what
/// is in brackets as part of the chain around it. `&&`, `||`, `?`, `:` and `,` begin a new chain.
pub(crate) fn check_nesting(text: &str) -> Result<(), String> {
    let mut levels = vec![OperatorRun::default()];
    let mut joins = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at).copied() {
        let last = levels.len() - 1;
        match byte {
            b'\'' | b'"' => {
                at = end_of_string(bytes, at);
                continue;
            }
            b'(' | b'[' | b'{' => {
                levels[last].add(1);
                levels.push(OperatorRun::default());
            }
            b')' | b']' | b'}' if last > 0 => {
                let inner = levels.pop().unwrap_or_default();
                levels[last - 1].add(inner.longest);
            }
            b'&' | b'|' | b'?' | b':' => {
                joins += 1;
                levels[last].length = 0;
            }
            b',' => levels[last].length = 0,
            b'+' | b'-' | b'*' | b'/' | b'%' | b'.' | b'<' | b'>' | b'=' | b'!' => {
                levels[last].add(1)
            }
            b'i' if bytes[at..].starts_with(b"in") => levels[last].add(1),
            _ => {}
        }
        let depth: usize = levels.iter().map(|chain| chain.longest).sum();
        if depth > CHAIN_MAX || levels.len() > BRACKETS_MAX || joins > JOINS_MAX {
            return Err(TOO_DEEP.into());
        }
        at += 1;
    }
    Ok(())
}

/// Operators in a row at one level of brackets.
#[derive(Clone, Copy, Debug, Default)]
struct OperatorRun {
    length: usize,
    longest: usize,
}

impl OperatorRun {
    fn add(&mut self, more: usize) {
        self.length += more;
        self.longest = self.longest.max(self.length);
    }
}

/// The place after a string that begins at `start`, or the end of the text.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let quote = text[start];
    let is_raw = start > 0 && matches!(text[start - 1], b'r' | b'R');
    let triple = [quote; 3];
    let end: &[u8] = if text[start..].starts_with(&triple) { &triple } else { &triple[..1] };
    let mut at = start + end.len();
    while at < text.len() {
        if text[at] == b'\\' && !is_raw {
            at += 2;
        } else if text[at..].starts_with(end) {
            return at + end.len();
        } else {
            at += 1;
        }
    }
    text.len()
}

const TOO_DEEP: &str = "the expression is nested too deeply, or has too many operators in a row";

/// Checks an expression.
pub(crate) fn check(root: &IdedExpr, known: &[AttributeDef]) -> Result<AcceptedParts, String> {
    let mut check = ExpressionCheck {
        known,
        depth: 0,
        nodes: 0,
        loops: 0,
        lookups: 0,
        bound: HashSet::new(),
        in_loop: false,
        found: AcceptedParts::default(),
    };
    check.walk(root)?;
    Ok(check.found)
}

struct ExpressionCheck<'a> {
    known: &'a [AttributeDef],
    depth: usize,
    nodes: usize,
    loops: usize,
    lookups: usize,
    /// The variables of the loops around.
    bound: HashSet<String>,
    in_loop: bool,
    found: AcceptedParts,
}

impl ExpressionCheck<'_> {
    fn walk(&mut self, of: &IdedExpr) -> Result<(), String> {
        self.depth += 1;
        if self.depth > TREE_DEPTH_MAX {
            return Err(TOO_DEEP.into());
        }
        self.part(of)?;
        self.depth -= 1;
        Ok(())
    }

    fn part(&mut self, of: &IdedExpr) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(format!("an expression has at most {NODES_MAX} parts"));
        }
        if let Some(path) = self.path_of(of) {
            return self.attribute(&path);
        }
        match &of.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if self.bound.contains(name) => Ok(()),
            Expr::Ident(name) => Err(self.unknown(name)),
            Expr::Select(select) => self.walk(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.walk(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.walk(&entry.key)?;
                    self.walk(&entry.value)
                }
                EntryExpr::StructField(field) => self.walk(&field.value),
            }),
            Expr::Struct(_) => Err("an expression cannot construct messages".into()),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Call(call) => {
                if call.func_name == "matches" {
                    self.regex(call.args.last())?;
                }
                if call.func_name == LOOKUP {
                    self.table(call)?;
                }
                if self.in_loop && call.func_name == operators::ADD {
                    return Err(
                        "`+` cannot be used within `exists`, `all`, `exists_one` and `filter`"
                            .into(),
                    );
                }
                call.target.iter().try_for_each(|target| self.walk(target))?;
                call.args.iter().try_for_each(|arg| self.walk(arg))
            }
        }
    }

    /// The names of `root.field`, `root.field.member`, `root["field"]` and so on, if it is not of a variable.
    fn path_of(&self, of: &IdedExpr) -> Option<Vec<Option<String>>> {
        match &of.expr {
            Expr::Ident(name) if !self.bound.contains(name) => Some(vec![Some(name.clone())]),
            Expr::Select(select) => {
                let mut path = self.path_of(&select.operand)?;
                path.push(Some(select.field.clone()));
                Some(path)
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [operand, index] = call.args.as_slice() else { return None };
                let mut path = self.path_of(operand)?;
                match &index.expr {
                    Expr::Literal(LiteralValue::String(text)) => {
                        path.push(Some(text.inner().to_owned()))
                    }
                    // A name that is only known later.
                    _ => path.push(None),
                }
                Some(path)
            }
            _ => None,
        }
    }

    fn attribute(&mut self, path: &[Option<String>]) -> Result<(), String> {
        let mut path = path.iter();
        let root = path.next().and_then(Option::as_deref).unwrap_or_default();
        let of_root = || self.known.iter().filter(|def| def.root == root);
        if of_root().next().is_none() {
            return Err(self.unknown(root));
        }
        let Some(Some(field)) = path.next() else {
            return Err(format!(
                "`{root}` needs a name after it, such as `{}`",
                example(self.known, root)
            ));
        };
        let def = of_root().find(|def| def.field == "*" || def.field == field);
        let Some(def) = def.copied() else {
            let fields: Vec<&str> = of_root().map(|def| def.field).collect();
            return Err(format!("`{root}` has no `{field}`; it has {}", fields.join(", ")));
        };
        let member = match (path.next(), path.next()) {
            (None, _) => None,
            (Some(Some(member)), None) if def.is_map => Some(member.to_ascii_lowercase()),
            _ => {
                return Err(format!(
                    "`{root}.{field}` has no parts whose name could be written here"
                ));
            }
        };
        self.note(def, field, member);
        Ok(())
    }

    fn note(&mut self, def: AttributeDef, field: &str, member: Option<String>) {
        let known = self.found.uses.iter_mut().find(|of| of.root == def.root && of.field == field);
        match known {
            Some(of) => match (&mut of.members, member) {
                (Some(members), Some(member)) if !members.contains(&member) => members.push(member),
                (Some(_), Some(_)) => {}
                (members, _) => *members = None,
            },
            None => {
                let (root, field) = (def.root, field.to_owned());
                let members = member.map(|member| vec![member]);
                self.found.uses.push(AttributeUse { root, field, members });
            }
        }
    }

    fn unknown(&self, name: &str) -> String {
        let mut roots: Vec<&str> = self.known.iter().map(|def| def.root).collect();
        roots.dedup();
        format!("there is no `{name}`; attributes begin with {}", roots.join(", "))
    }

    fn regex(&mut self, pattern: Option<&IdedExpr>) -> Result<(), String> {
        let Some(Expr::Literal(LiteralValue::String(text))) = pattern.map(|of| &of.expr) else {
            return Err("the regex of `matches` must be written out".into());
        };
        let text = text.inner();
        let regex = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
        let regex = regex.map_err(|error| format!("invalid regex: {error}"))?;
        self.found.regexes.insert(text.to_owned(), regex);
        Ok(())
    }

    fn table(&mut self, call: &CallExpr) -> Result<(), String> {
        let name = match (&call.target, call.args.as_slice()) {
            (None, [name, _] | [name, _, _]) => &name.expr,
            _ => {
                return Err(
                    "write `lookup('TABLE', key)` or `lookup('TABLE', key, default)`".into()
                );
            }
        };
        let Expr::Literal(LiteralValue::String(name)) = name else {
            return Err("the name of the table of `lookup` must be written out".into());
        };
        self.lookups += 1;
        if self.in_loop {
            return Err(
                "`lookup` cannot be used within `exists`, `all`, `exists_one` and `filter`".into(),
            );
        }
        if self.lookups > LOOKUPS_MAX {
            return Err(format!("an expression has at most {LOOKUPS_MAX} of `lookup`"));
        }
        let name = name.inner();
        if !self.found.tables.iter().any(|known| known == name) {
            self.found.tables.push(name.to_owned());
        }
        Ok(())
    }

    fn comprehension(&mut self, of: &ComprehensionExpr) -> Result<(), String> {
        self.loops += 1;
        if self.in_loop {
            return Err(
                "`exists`, `all`, `exists_one` and `filter` cannot contain each other".into()
            );
        }
        if self.loops > LOOPS_MAX {
            return Err(format!(
                "an expression has at most {LOOPS_MAX} of `exists`, `all` and so on"
            ));
        }
        self.walk(&of.iter_range)?;
        self.walk(&of.accu_init)?;
        let variables = [Some(&of.iter_var), of.iter_var2.as_ref(), Some(&of.accu_var)];
        let variables: Vec<String> = variables.into_iter().flatten().cloned().collect();
        self.bound.extend(variables.iter().cloned());
        self.in_loop = true;
        self.walk(&of.loop_cond)?;
        self.step(&of.loop_step, of)?;
        self.in_loop = false;
        self.walk(&of.result)?;
        self.bound.retain(|bound| !variables.contains(bound));
        Ok(())
    }

    /// What a loop does with each element. What it collects may be elements only: `filter`, but not `map`.
    fn step(&mut self, step: &IdedExpr, of: &ComprehensionExpr) -> Result<(), String> {
        let Expr::Call(call) = &step.expr else { return self.walk(step) };
        let is =
            |part: &IdedExpr, name: &String| matches!(&part.expr, Expr::Ident(own) if own == name);
        let collects = |part: &IdedExpr| match &part.expr {
            Expr::Call(call) if call.func_name == operators::ADD => {
                call.args.first().is_some_and(|first| is(first, &of.accu_var))
            }
            _ => false,
        };
        let element = |part: &IdedExpr| match &part.expr {
            Expr::Call(call) => match call.args.get(1).map(|arg| &arg.expr) {
                Some(Expr::List(list)) => list.elements.iter().all(|it| is(it, &of.iter_var)),
                Some(Expr::Literal(LiteralValue::Int(_))) => true,
                _ => false,
            },
            _ => false,
        };
        if collects(step) {
            return Err("`map` cannot be used; see `exists`, `all` and `filter`".into());
        }
        for arg in &call.args {
            if !collects(arg) {
                self.walk(arg)?;
            } else if !element(arg) {
                return Err("`map` cannot be used; see `exists`, `all` and `filter`".into());
            }
        }
        Ok(())
    }
}

/// An attribute of a root.
fn example(known: &[AttributeDef], root: &str) -> String {
    let def = known.iter().find(|def| def.root == root);
    match def.map(|def| def.field) {
        Some("*") | None => format!("{root}[\"name\"]"),
        Some(field) => format!("{root}.{field}"),
    }
}
