//! Expressions, evaluated over the variables of a binding.

use crate::functions::Function;
use crate::ir::{BinaryOp, Expr, UnaryOp, VarId};
use crate::value::Value;

/// The value of each variable of a rule, as far as bound.
pub(super) type Vars = [Option<Value>];

/// All variables of the expression are bound.
pub(super) fn ready(e: &Expr, vars: &Vars) -> bool {
    match e {
        Expr::Const(_) => true,
        Expr::Var(v) => lookup(*v, vars).is_some(),
        Expr::Unary(_, x) => ready(x, vars),
        Expr::Binary(_, x, y) | Expr::Index(x, y) => ready(x, vars) && ready(y, vars),
        Expr::Cond(c, x, y) => ready(c, vars) && ready(x, vars) && ready(y, vars),
        Expr::List(items) | Expr::Call(_, items) => items.iter().all(|x| ready(x, vars)),
    }
}

pub(super) fn lookup(v: VarId, vars: &Vars) -> Option<&Value> {
    vars.get(v.0 as usize)?.as_ref()
}

/// The value, or why there is none.
pub(super) fn eval(e: &Expr, vars: &Vars, functions: &[Function]) -> Result<Value, String> {
    let go = |x: &Expr| eval(x, vars, functions);
    match e {
        Expr::Const(c) => Ok(c.value().clone()),
        Expr::Var(v) => lookup(*v, vars)
            .cloned()
            .ok_or_else(|| "a variable is not bound".to_owned()),
        Expr::Unary(UnaryOp::Not, x) => Ok(Value::Bool(!truth(&go(x)?)?)),
        Expr::Unary(UnaryOp::Neg, x) => match go(x)? {
            Value::Int(i) => i
                .checked_neg()
                .map(Value::Int)
                .ok_or_else(|| format!("-({i}) overflows")),
            Value::Float(f) => Ok(Value::float(-f)),
            other => Err(format!("-{other}: not a number")),
        },
        Expr::Binary(BinaryOp::And, x, y) => Ok(Value::Bool(truth(&go(x)?)? && truth(&go(y)?)?)),
        Expr::Binary(BinaryOp::Or, x, y) => Ok(Value::Bool(truth(&go(x)?)? || truth(&go(y)?)?)),
        Expr::Binary(op, x, y) => binary(*op, &go(x)?, &go(y)?),
        Expr::Cond(c, x, y) => {
            if truth(&go(c)?)? {
                go(x)
            } else {
                go(y)
            }
        }
        Expr::List(items) => Ok(Value::list(
            items.iter().map(go).collect::<Result<Vec<_>, _>>()?,
        )),
        Expr::Index(list, at) => {
            let (list, at) = (go(list)?, go(at)?);
            let (Some(items), Some(i)) = (list.as_list(), at.as_int()) else {
                return Err(format!("{list}[{at}]: not a list and an int"));
            };
            let item = usize::try_from(i).ok().and_then(|i| items.get(i));
            item.cloned()
                .ok_or_else(|| format!("{list}[{at}]: no such element"))
        }
        Expr::Call(f, args) => {
            let args = args.iter().map(go).collect::<Result<Vec<_>, _>>()?;
            let function = functions
                .get(f.0 as usize)
                .ok_or_else(|| "no such function".to_owned())?;
            for (arg, ty) in args.iter().zip(&function.args) {
                if !ty.admits(arg) {
                    return Err(format!("{}: {arg} is not {}", function.name, ty.name()));
                }
            }
            (function.body)(&args).map_err(|e| e.0)
        }
    }
}

/// A condition's value.
pub(super) fn truth(v: &Value) -> Result<bool, String> {
    v.as_bool()
        .ok_or_else(|| format!("{v} is neither true nor false"))
}

fn binary(op: BinaryOp, x: &Value, y: &Value) -> Result<Value, String> {
    use BinaryOp::{Add, And, Div, Eq, Ge, Gt, Le, Lt, Mul, Ne, Or, Rem, Sub};
    match op {
        Eq => Ok(Value::Bool(x == y)),
        Ne => Ok(Value::Bool(x != y)),
        Lt => Ok(Value::Bool(x < y)),
        Le => Ok(Value::Bool(x <= y)),
        Gt => Ok(Value::Bool(x > y)),
        Ge => Ok(Value::Bool(x >= y)),
        Add | Sub | Mul | Div | Rem => match (x, y) {
            (Value::Int(a), Value::Int(b)) => ints(op, *a, *b),
            (Value::Float(a), Value::Float(b)) => floats(op, *a, *b),
            _ if op == Add => concat(x, y),
            _ => Err(format!("{x} and {y}: not two numbers of one type")),
        },
        And | Or => Err("a condition stands where a value is needed".to_owned()),
    }
}

fn ints(op: BinaryOp, a: i64, b: i64) -> Result<Value, String> {
    if b == 0 && matches!(op, BinaryOp::Div | BinaryOp::Rem) {
        return Err(format!("{a} divided by zero"));
    }
    let exact = match op {
        BinaryOp::Add => a.checked_add(b),
        BinaryOp::Sub => a.checked_sub(b),
        BinaryOp::Mul => a.checked_mul(b),
        BinaryOp::Div => a.checked_div(b),
        _ => a.checked_rem(b),
    };
    exact
        .map(Value::Int)
        .ok_or_else(|| format!("overflow of {a} and {b}"))
}

fn floats(op: BinaryOp, a: f64, b: f64) -> Result<Value, String> {
    if b == 0.0 && matches!(op, BinaryOp::Div | BinaryOp::Rem) {
        return Err(format!("{a} divided by zero"));
    }
    Ok(Value::float(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        _ => a % b,
    }))
}

fn concat(x: &Value, y: &Value) -> Result<Value, String> {
    match (x, y) {
        (Value::Str(a), Value::Str(b)) => Ok(Value::str([&a[..], &b[..]].concat())),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::bytes([&a[..], &b[..]].concat())),
        (Value::List(a), Value::List(b)) => Ok(Value::list([&a[..], &b[..]].concat())),
        _ => Err(format!("{x} + {y}: not of one type")),
    }
}
