//! Lookup tables in expressions: `lookup('NAME', key)`, and `lookup('NAME', key, default)`.
//!
//! Owns: which tables an expression names, and its handles on them. Refuses to know: what a table has, and which exist. Keeps:
//! an expression that names a table is accepted only where somebody takes note of it, and so can supply the table.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, OnceLock};

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use cel::{ExecutionError, Value};

/// The function's name.
pub(crate) const LOOKUP: &str = "lookup";

/// A table that expressions look something up in.
pub trait ExpressionTable: Send + Sync {
    /// The value for a key.
    fn get(&self, key: &str) -> Option<String>;
}

/// A table as an expression names it. Clones share the handle.
#[derive(Clone)]
pub struct TableUse(Arc<TableSlot>);

struct TableSlot {
    name: Box<str>,
    expression: Box<str>,
    table: OnceLock<Arc<dyn ExpressionTable>>,
}

impl TableUse {
    /// The name of the table.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The expression, as it was written.
    pub fn expression(&self) -> &str {
        &self.0.expression
    }

    /// Supplies the table; the first one stays.
    pub fn supply(&self, table: Arc<dyn ExpressionTable>) {
        // An error says that there is one already, which stays.
        let _ = self.0.table.set(table);
    }
}

impl fmt::Debug for TableUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableUse({})", self.0.name)
    }
}

thread_local! {
    /// The tables of the expressions that are parsed in [`noting_tables`]; `None` outside.
    static NOTED: RefCell<Option<Vec<TableUse>>> = const { RefCell::new(None) };
}

/// Reads something that may contain expressions, and returns the tables that they name: the caller supplies each of them.
/// Expressions that are parsed elsewhere cannot name any.
pub fn noting_tables<T>(read: impl FnOnce() -> T) -> (T, Vec<TableUse>) {
    let before = NOTED.replace(Some(Vec::new()));
    let result = read();
    let noted = NOTED.replace(before).unwrap_or_default();
    (result, noted)
}

/// Takes note of the tables that an expression names.
///
/// # Errors
/// No tables are supplied here.
pub(crate) fn note(names: Vec<String>, expression: &str) -> Result<Arc<[TableUse]>, String> {
    let uses = names.into_iter().map(|name| {
        let (name, expression, table) = (name.into(), expression.into(), OnceLock::new());
        TableUse(Arc::new(TableSlot { name, expression, table }))
    });
    let uses: Arc<[TableUse]> = uses.collect();
    NOTED.with_borrow_mut(|noted| match noted {
        _ if uses.is_empty() => Ok(()),
        Some(noted) => {
            noted.extend(uses.iter().cloned());
            Ok(())
        }
        None => Err("there are no lookup tables here; let `set_values` look the value up, and use that: `metadata[\"set.NAME\"]`"),
    })?;
    Ok(uses)
}

/// Lets keys be attributes that do not exist: these have no entry, as null has none. Otherwise what is not known of a client
/// would leave a condition about a table open.
pub(crate) fn allow_absent_keys(of: &mut IdedExpr) {
    match &mut of.expr {
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| allow_absent_keys(target));
            call.args.iter_mut().for_each(allow_absent_keys);
            if call.func_name == LOOKUP
                && let Some(key) = call.args.get_mut(1)
                && let Some(exists) = existence(key)
            {
                let own = std::mem::take(key);
                let null = part(Expr::Literal(LiteralValue::Null));
                *key = call_of(operators::CONDITIONAL, vec![exists, own, null]);
            }
        }
        Expr::Select(select) => allow_absent_keys(&mut select.operand),
        Expr::List(list) => list.elements.iter_mut().for_each(allow_absent_keys),
        _ => {}
    }
}

/// Whether an attribute exists, as an expression; `None` if the expression is no attribute.
fn existence(of: &IdedExpr) -> Option<IdedExpr> {
    let (operand, field) = match &of.expr {
        Expr::Select(select) if !select.test => (&*select.operand, select.field.clone()),
        Expr::Call(call) if call.func_name == operators::INDEX => {
            let [operand, index] = call.args.as_slice() else { return None };
            let Expr::Literal(LiteralValue::String(field)) = &index.expr else { return None };
            (operand, field.inner().to_owned())
        }
        _ => return None,
    };
    let select = SelectExpr { operand: Box::new(operand.clone()), field, test: true };
    let exists = part(Expr::Select(select));
    Some(match existence(operand) {
        None => exists,
        Some(outer) => call_of(operators::LOGICAL_AND, vec![outer, exists]),
    })
}

fn part(expr: Expr) -> IdedExpr {
    IdedExpr { id: 0, expr }
}

fn call_of(name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    part(Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }))
}

/// Evaluates a call. Null is what a table does not have, and has no entry in any.
pub(crate) fn look_up(tables: &[TableUse], args: &[Value]) -> Result<Value, ExecutionError> {
    let wrong = || ExecutionError::function_error(LOOKUP, "expected the name of a table and a key");
    let (Value::String(name), key, default) = (match args {
        [name, key] => (name, key, None),
        [name, key, default] => (name, key, Some(default)),
        _ => return Err(wrong()),
    }) else {
        return Err(wrong());
    };
    let key = match key {
        Value::String(key) => Some(Cow::Borrowed(key.as_str())),
        Value::Int(key) => Some(Cow::Owned(key.to_string())),
        Value::UInt(key) => Some(Cow::Owned(key.to_string())),
        Value::Null => None,
        _ => return Err(wrong()),
    };
    let of_name = tables.iter().find(|table| *table.0.name == ***name);
    let table = of_name.and_then(|of| of.0.table.get());
    let found = table.zip(key).and_then(|(table, key)| table.get(&key));
    Ok(match found {
        Some(value) => value.into(),
        None => default.cloned().unwrap_or(Value::Null),
    })
}
