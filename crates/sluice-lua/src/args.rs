//! Arguments of the functions that scripts call, and what these return.
//!
//! Owns: reading arguments, and how an error reaches the script. Refuses to know: any function. Keeps: an error is a text
//! that Lua raises itself, within the memory of the state; only a lack of memory is an error of the call.

use mlua::{Integer, IntoLua, Lua, LuaString, MultiValue, Value};

/// Why a function has no result.
#[derive(Debug)]
pub(crate) enum OpError {
    /// Something that the script did wrong.
    Said(String),
    /// Lua cannot go on.
    Lua(mlua::Error),
}

impl From<mlua::Error> for OpError {
    fn from(error: mlua::Error) -> Self {
        Self::Lua(error)
    }
}

impl From<String> for OpError {
    fn from(message: String) -> Self {
        Self::Said(message)
    }
}

impl From<&str> for OpError {
    fn from(message: &str) -> Self {
        Self::Said(message.into())
    }
}

/// What a function returns to the script.
pub(crate) type OpResult = Result<MultiValue, OpError>;

/// A result for `settle` of the sandbox: `true` and the values, or `false` and the message.
pub(crate) fn settled(lua: &Lua, result: OpResult) -> mlua::Result<MultiValue> {
    match result {
        Ok(mut values) => {
            values.push_front(Value::Boolean(true));
            Ok(values)
        }
        Err(OpError::Said(message)) => {
            let message = Value::String(lua.create_string(message)?);
            Ok(MultiValue::from_vec(vec![Value::Boolean(false), message]))
        }
        Err(OpError::Lua(error)) => Err(error),
    }
}

/// One value to return.
pub(crate) fn one(lua: &Lua, value: impl IntoLua) -> OpResult {
    Ok(MultiValue::from_vec(vec![value.into_lua(lua)?]))
}

/// Nothing to return.
pub(crate) fn nothing() -> OpResult {
    Ok(MultiValue::new())
}

/// The arguments of a call.
#[derive(Debug)]
pub(crate) struct Args<'a> {
    lua: &'a Lua,
    of: &'static str,
    values: Vec<Value>,
}

impl<'a> Args<'a> {
    /// `of` is the function, for messages.
    pub(crate) const fn new(lua: &'a Lua, of: &'static str, values: Vec<Value>) -> Self {
        Self { lua, of, values }
    }

    /// Takes the argument at `index`.
    pub(crate) fn value(&mut self, index: usize) -> Value {
        self.values.get_mut(index).map(std::mem::take).unwrap_or_default()
    }

    /// A text; numbers are converted, as Lua does.
    pub(crate) fn text(&mut self, index: usize) -> Result<LuaString, OpError> {
        self.optional_text(index)?.ok_or_else(|| self.wrong(index, "string", "nil"))
    }

    /// A text, or nil.
    pub(crate) fn optional_text(&mut self, index: usize) -> Result<Option<LuaString>, OpError> {
        match self.value(index) {
            Value::Nil => Ok(None),
            Value::String(text) => Ok(Some(text)),
            value @ (Value::Integer(_) | Value::Number(_)) => Ok(self.lua.coerce_string(value)?),
            other => Err(self.wrong(index, "string", other.type_name())),
        }
    }

    /// A text in UTF-8.
    pub(crate) fn word(&mut self, index: usize) -> Result<String, OpError> {
        let text = self.text(index)?;
        let word = std::str::from_utf8(&text.as_bytes()).map(str::to_owned);
        word.map_err(|_| self.wrong(index, "text in UTF-8", "other bytes"))
    }

    /// A whole number.
    pub(crate) fn integer(&mut self, index: usize) -> Result<Integer, OpError> {
        self.optional_integer(index)?.ok_or_else(|| self.wrong(index, "number", "nil"))
    }

    /// A whole number, or nil; fractions are cut off.
    pub(crate) fn optional_integer(&mut self, index: usize) -> Result<Option<Integer>, OpError> {
        let value = self.value(index);
        if value.is_nil() {
            return Ok(None);
        }
        let kind = value.type_name();
        let number = self.lua.coerce_number(value)?.filter(|number| number.is_finite());
        #[allow(clippy::cast_possible_truncation, reason = "a float that is too large saturates")]
        let whole = number.map(|number| number as Integer);
        whole.map(Some).ok_or_else(|| self.wrong(index, "number", kind))
    }

    /// Whether an argument is neither nil nor false.
    pub(crate) fn is_true(&mut self, index: usize) -> bool {
        !matches!(self.value(index), Value::Nil | Value::Boolean(false))
    }

    /// The error that an argument is not what is expected.
    pub(crate) fn wrong(&self, index: usize, expected: &str, got: &str) -> OpError {
        let of = self.of;
        let place = index + 1;
        OpError::Said(format!("bad argument #{place} to '{of}' ({expected} expected, got {got})"))
    }
}
