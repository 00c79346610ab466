//! Evaluation of expressions. Total: every failure is an [`EvalError`], nothing wraps, nothing panics.

use crate::functions::{EvalError, Function, MAX_BYTES, MAX_ITEMS, call};
use crate::ir::{BinaryOp, Expr, UnaryOp, VarId};
use crate::value::Value;

/// Where the values of variables come from.
pub trait Env {
    /// The value of a variable, if it has one.
    fn get(&self, v: VarId) -> Option<Value>;
}

impl Env for Vec<Option<Value>> {
    fn get(&self, v: VarId) -> Option<Value> {
        self.as_slice().get(v.0 as usize).cloned().flatten()
    }
}

/// No variable has a value: for constant expressions.
pub struct NoVars;

impl Env for NoVars {
    fn get(&self, _: VarId) -> Option<Value> {
        None
    }
}

/// The value of an expression.
///
/// # Errors
/// A variable without a value, operands of the wrong type, overflow, division by zero, an index outside
/// its list, or whatever a function reports.
pub fn eval(e: &Expr, env: &dyn Env, functions: &[Function]) -> Result<Value, EvalError> {
    match e {
        Expr::Const(c) => Ok(c.value().clone()),
        Expr::Var(v) => env
            .get(*v)
            .ok_or_else(|| EvalError("a variable has no value".to_owned())),
        Expr::Unary(op, x) => unary(*op, &eval(x, env, functions)?),
        Expr::Binary(op @ (BinaryOp::And | BinaryOp::Or), x, y) => {
            let left = truth(&eval(x, env, functions)?)?;
            if left == (*op == BinaryOp::Or) {
                return Ok(Value::Bool(left));
            }
            truth(&eval(y, env, functions)?).map(Value::Bool)
        }
        Expr::Binary(op, x, y) => binary(*op, &eval(x, env, functions)?, &eval(y, env, functions)?),
        Expr::Cond(c, yes, no) => {
            let branch = if truth(&eval(c, env, functions)?)? {
                yes
            } else {
                no
            };
            eval(branch, env, functions)
        }
        Expr::List(items) => {
            let items: Result<Vec<Value>, EvalError> =
                items.iter().map(|x| eval(x, env, functions)).collect();
            Ok(Value::list(items?))
        }
        Expr::Index(list, at) => index(&eval(list, env, functions)?, &eval(at, env, functions)?),
        Expr::Call(id, args) => {
            let function = functions
                .get(id.0 as usize)
                .ok_or_else(|| EvalError("no such function".to_owned()))?;
            let args: Result<Vec<Value>, EvalError> =
                args.iter().map(|x| eval(x, env, functions)).collect();
            call(function, &args?)
        }
    }
}

/// Applies an operator.
///
/// # Errors
/// An operand of the wrong type; overflow.
pub fn unary(op: UnaryOp, x: &Value) -> Result<Value, EvalError> {
    match (op, x) {
        (UnaryOp::Not, Value::Bool(b)) => Ok(Value::Bool(!b)),
        (UnaryOp::Neg, Value::Int(i)) => i
            .checked_neg()
            .map(Value::Int)
            .ok_or_else(|| overflow("-", x, None)),
        (UnaryOp::Neg, Value::Float(f)) => Ok(Value::float(-f)),
        (UnaryOp::Not, _) => Err(EvalError(format!("! of {}, which is no bool", shown(x)))),
        (UnaryOp::Neg, _) => Err(EvalError(format!("- of {}, which is no number", shown(x)))),
    }
}

/// Applies an operator to two values; `&&` and `||` of values that are there.
///
/// # Errors
/// Operands of the wrong type; overflow; division by zero.
pub fn binary(op: BinaryOp, x: &Value, y: &Value) -> Result<Value, EvalError> {
    Ok(match op {
        BinaryOp::Eq => Value::Bool(x == y),
        BinaryOp::Ne => Value::Bool(x != y),
        BinaryOp::Lt => Value::Bool(x < y),
        BinaryOp::Le => Value::Bool(x <= y),
        BinaryOp::Gt => Value::Bool(x > y),
        BinaryOp::Ge => Value::Bool(x >= y),
        BinaryOp::And => Value::Bool(truth(x)? && truth(y)?),
        BinaryOp::Or => Value::Bool(truth(x)? || truth(y)?),
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem => {
            return arithmetic(op, x, y);
        }
    })
}

fn arithmetic(op: BinaryOp, x: &Value, y: &Value) -> Result<Value, EvalError> {
    let sign = symbol(op);
    match (x, y) {
        (Value::Int(a), Value::Int(b)) => {
            if *b == 0 && matches!(op, BinaryOp::Div | BinaryOp::Rem) {
                return Err(EvalError(format!("division by zero: {a} {sign} 0")));
            }
            let result = match op {
                BinaryOp::Add => a.checked_add(*b),
                BinaryOp::Sub => a.checked_sub(*b),
                BinaryOp::Mul => a.checked_mul(*b),
                BinaryOp::Div => a.checked_div(*b),
                _ => a.checked_rem(*b),
            };
            result
                .map(Value::Int)
                .ok_or_else(|| overflow(sign, x, Some(y)))
        }
        (Value::Float(a), Value::Float(b)) => {
            if *b == 0.0 && matches!(op, BinaryOp::Div | BinaryOp::Rem) {
                return Err(EvalError(format!("division by zero: {a:?} {sign} 0.0")));
            }
            Ok(Value::float(match op {
                BinaryOp::Add => a + b,
                BinaryOp::Sub => a - b,
                BinaryOp::Mul => a * b,
                BinaryOp::Div => a / b,
                _ => a % b,
            }))
        }
        _ if op == BinaryOp::Add => concat(x, y),
        _ => Err(EvalError(format!(
            "{} {sign} {}: both must be ints or both floats",
            shown(x),
            shown(y)
        ))),
    }
}

fn concat(x: &Value, y: &Value) -> Result<Value, EvalError> {
    let joined = |a: &[u8], b: &[u8]| {
        if a.len() + b.len() > MAX_BYTES {
            return Err(EvalError(format!(
                "+ makes a value of more than {MAX_BYTES} bytes"
            )));
        }
        Ok([a, b].concat())
    };
    match (x, y) {
        (Value::Str(a), Value::Str(b)) => joined(a, b).map(Value::str),
        (Value::Bytes(a), Value::Bytes(b)) => joined(a, b).map(Value::bytes),
        (Value::List(a), Value::List(b)) => {
            if a.len() + b.len() > MAX_ITEMS {
                return Err(EvalError(format!(
                    "+ makes a list of more than {MAX_ITEMS} items"
                )));
            }
            Ok(Value::list([&a[..], &b[..]].concat()))
        }
        _ => Err(EvalError(format!(
            "{} + {}: both must be ints, floats, strings, bytes or lists",
            shown(x),
            shown(y)
        ))),
    }
}

fn index(list: &Value, at: &Value) -> Result<Value, EvalError> {
    let (Value::List(items), Value::Int(i)) = (list, at) else {
        return Err(EvalError(format!(
            "{}[{}]: an index takes a list and an int",
            shown(list),
            shown(at)
        )));
    };
    let item = usize::try_from(*i).ok().and_then(|i| items.get(i));
    item.cloned()
        .ok_or_else(|| EvalError(format!("index {i} is outside a list of {}", items.len())))
}

fn truth(x: &Value) -> Result<bool, EvalError> {
    x.as_bool()
        .ok_or_else(|| EvalError(format!("{} is no bool", shown(x))))
}

fn overflow(sign: &str, x: &Value, y: Option<&Value>) -> EvalError {
    EvalError(match y {
        Some(y) => format!("{x} {sign} {y} does not fit 64 bits"),
        None => format!("{sign}({x}) does not fit 64 bits"),
    })
}

pub(crate) fn symbol(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => "/",
        BinaryOp::Rem => "%",
        BinaryOp::Eq => "==",
        BinaryOp::Ne => "!=",
        BinaryOp::Lt => "<",
        BinaryOp::Le => "<=",
        BinaryOp::Gt => ">",
        BinaryOp::Ge => ">=",
        BinaryOp::And => "&&",
        BinaryOp::Or => "||",
    }
}

/// A value for an error message: long ones are cut.
pub(crate) fn shown(x: &Value) -> String {
    const LONGEST: usize = 60;
    match x {
        Value::List(l) if l.len() > 8 => format!("a list of {}", l.len()),
        Value::Str(b) | Value::Bytes(b) | Value::Addr(b) if b.len() > LONGEST => {
            format!("a value of {} bytes", b.len())
        }
        _ => {
            let text = x.to_string();
            if text.chars().count() > LONGEST {
                format!("{}..", text.chars().take(LONGEST).collect::<String>())
            } else {
                text
            }
        }
    }
}
