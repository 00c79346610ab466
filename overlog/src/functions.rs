//! The functions that rules can call: the built-in ones and those that the host registers.

mod builtin;
#[cfg(test)]
mod tests;

use crate::engine::fast::Fast;
use crate::expr::shown;
use crate::ir::Type;
use crate::value::Value;
use std::fmt;
use std::sync::Arc;

pub use builtin::builtins;

/// The longest string that `+` or a built-in function makes.
pub const MAX_BYTES: usize = 1 << 24;

/// The longest list that `+` or a built-in function makes.
pub const MAX_ITEMS: usize = 1 << 20;

/// Why an expression has no value. Never stops a node: the binding is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvalError(pub String);

/// The code of a function. Deterministic; must not panic.
pub type Body = Arc<dyn Fn(&[Value]) -> Result<Value, EvalError> + Send + Sync>;

/// A function.
#[derive(Clone)]
pub struct Function {
    /// Its name in rules.
    pub name: String,
    /// Types of its arguments.
    pub args: Vec<Type>,
    /// Type of its result.
    pub result: Type,
    /// Its code.
    pub body: Body,
    /// The same on packed values, of some built-in ones.
    pub(crate) fast: Option<Fast>,
}

impl Function {
    /// A function of this name, types and code.
    pub fn new(
        name: impl Into<String>,
        args: &[Type],
        result: Type,
        body: impl Fn(&[Value]) -> Result<Value, EvalError> + Send + Sync + 'static,
    ) -> Function {
        Function {
            name: name.into(),
            args: args.to_vec(),
            result,
            body: Arc::new(body),
            fast: None,
        }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.args.len())
    }
}

/// Calls a function; its arguments and result are checked against its types.
///
/// # Errors
/// The wrong number or types of arguments, a result of another type than the function promises,
/// or what the function itself reports.
pub fn call(function: &Function, args: &[Value]) -> Result<Value, EvalError> {
    if args.len() != function.args.len() {
        return Err(EvalError(format!(
            "{} takes {} arguments, not {}",
            function.name,
            function.args.len(),
            args.len()
        )));
    }
    for (at, (value, ty)) in args.iter().zip(&function.args).enumerate() {
        if !ty.admits(value) {
            let (name, at, ty) = (&function.name, at + 1, ty.name());
            return Err(EvalError(format!(
                "{name}: argument {at} is {}, which is no {ty}",
                shown(value)
            )));
        }
    }
    let result = (function.body)(args)?;
    if !function.result.admits(&result) {
        let (name, ty) = (&function.name, function.result.name());
        return Err(EvalError(format!(
            "{name} promises {ty} and gave {}",
            shown(&result)
        )));
    }
    Ok(result)
}
