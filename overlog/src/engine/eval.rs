//! Expressions over packed values: what is only moved or compared is never decoded.

use crate::engine::fast;
use crate::expr;
use crate::functions::{EvalError, Function};
use crate::ir::{BinaryOp, Expr, UnaryOp};
use crate::packed;
use crate::value::Value;

/// Packed values of variables. Empty bytes: undefined.
pub trait Slots {
    /// The value of a slot.
    fn slot(&self, at: usize) -> &[u8];
}

impl Slots for Vec<Vec<u8>> {
    fn slot(&self, at: usize) -> &[u8] {
        self.as_slice().get(at).map_or(&[], Vec::as_slice)
    }
}

impl Slots for Vec<&[u8]> {
    fn slot(&self, at: usize) -> &[u8] {
        self.as_slice().get(at).copied().unwrap_or_default()
    }
}

/// A value on its way.
#[derive(Debug)]
pub enum Ev<'a> {
    /// Packed, somewhere else.
    Ref(&'a [u8]),
    /// An int.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// Packed.
    Own(Vec<u8>),
}

impl Ev<'_> {
    /// Appends the packed value.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Ev::Ref(b) => out.extend_from_slice(b),
            Ev::Own(b) => out.extend_from_slice(b),
            Ev::Int(i) => packed::pack_int(*i, out),
            Ev::Bool(b) => packed::pack(&Value::Bool(*b), out),
        }
    }

    /// Shows its packed bytes.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self.packed() {
            Some(b) => f(b),
            None => {
                let mut bytes = Vec::with_capacity(9);
                self.write(&mut bytes);
                f(&bytes)
            }
        }
    }

    /// The packed bytes, if it has them.
    pub(crate) fn packed(&self) -> Option<&[u8]> {
        match self {
            Ev::Ref(b) => Some(b),
            Ev::Own(b) => Some(b),
            Ev::Int(_) | Ev::Bool(_) => None,
        }
    }

    /// Its int, if it is one.
    pub(crate) fn int(&self) -> Option<i64> {
        match self {
            Ev::Int(i) => Some(*i),
            Ev::Bool(_) => None,
            Ev::Ref(b) => packed::unpack_int(b),
            Ev::Own(b) => packed::unpack_int(b),
        }
    }

    fn truth(&self) -> Option<bool> {
        match self {
            Ev::Bool(b) => Some(*b),
            other => other.value().ok()?.as_bool(),
        }
    }

    /// Decodes it.
    pub fn value(&self) -> Result<Value, EvalError> {
        match self {
            Ev::Int(i) => Ok(Value::Int(*i)),
            Ev::Bool(b) => Ok(Value::Bool(*b)),
            Ev::Ref(b) => unpack_one(b),
            Ev::Own(b) => unpack_one(b),
        }
    }
}

fn unpack_one(bytes: &[u8]) -> Result<Value, EvalError> {
    packed::unpack(bytes, 0)
        .map(|(v, _)| v)
        .ok_or_else(|| EvalError("a value is undefined".to_string()))
}

fn own(value: &Value) -> Ev<'static> {
    match value {
        Value::Int(i) => Ev::Int(*i),
        Value::Bool(b) => Ev::Bool(*b),
        other => {
            let mut out = Vec::new();
            packed::pack(other, &mut out);
            Ev::Own(out)
        }
    }
}

/// True if a variable of the expression is undefined: an error before it was reported, and what
/// depends on it is passed over.
pub fn undefined(e: &Expr, slots: &impl Slots) -> bool {
    match e {
        Expr::Const(_) => false,
        Expr::Var(v) => slots.slot(v.0 as usize).is_empty(),
        Expr::Unary(_, a) => undefined(a, slots),
        Expr::Binary(_, a, b) | Expr::Index(a, b) => undefined(a, slots) || undefined(b, slots),
        Expr::Cond(a, b, c) => undefined(a, slots) || undefined(b, slots) || undefined(c, slots),
        Expr::List(items) | Expr::Call(_, items) => items.iter().any(|x| undefined(x, slots)),
    }
}

/// Evaluates a condition.
pub fn test(e: &Expr, slots: &impl Slots, functions: &[Function]) -> Result<bool, EvalError> {
    eval(e, slots, functions)?
        .truth()
        .ok_or_else(|| EvalError("a condition is not true or false".to_string()))
}

/// Evaluates an expression and appends its packed value. What a failure leaves behind it is the caller's to drop.
pub fn eval_into(
    e: &Expr,
    slots: &impl Slots,
    functions: &[Function],
    out: &mut Vec<u8>,
) -> Result<(), EvalError> {
    match e {
        Expr::List(items) => {
            packed::begin_list(out);
            for item in items {
                eval_into(item, slots, functions, out)?;
            }
            packed::end_list(out);
        }
        Expr::Cond(c, a, b) => {
            let chosen = if test(c, slots, functions)? { a } else { b };
            eval_into(chosen, slots, functions, out)?;
        }
        _ => eval(e, slots, functions)?.write(out),
    }
    Ok(())
}

/// Evaluates an expression.
pub fn eval<'a>(
    e: &'a Expr,
    slots: &'a impl Slots,
    functions: &[Function],
) -> Result<Ev<'a>, EvalError> {
    match e {
        Expr::Const(c) => Ok(match c.value() {
            Value::Int(i) => Ev::Int(*i),
            Value::Bool(b) => Ev::Bool(*b),
            _ => Ev::Ref(c.packed()),
        }),
        Expr::Var(v) => {
            let bytes = slots.slot(v.0 as usize);
            if bytes.is_empty() {
                return Err(EvalError("a value is undefined".to_string()));
            }
            Ok(Ev::Ref(bytes))
        }
        Expr::Unary(op, a) => unary(*op, &eval(a, slots, functions)?),
        Expr::Binary(BinaryOp::And, a, b) => Ok(Ev::Bool(
            test(a, slots, functions)? && test(b, slots, functions)?,
        )),
        Expr::Binary(BinaryOp::Or, a, b) => Ok(Ev::Bool(
            test(a, slots, functions)? || test(b, slots, functions)?,
        )),
        Expr::Binary(op, a, b) => binary(
            *op,
            &eval(a, slots, functions)?,
            &eval(b, slots, functions)?,
        ),
        Expr::Cond(c, a, b) => {
            if test(c, slots, functions)? {
                eval(a, slots, functions)
            } else {
                eval(b, slots, functions)
            }
        }
        Expr::List(items) => {
            let mut out = Vec::with_capacity(items.len() * 8 + 2);
            eval_into(e, slots, functions, &mut out)?;
            Ok(Ev::Own(out))
        }
        Expr::Index(list, at) => index(eval(list, slots, functions)?, &eval(at, slots, functions)?),
        Expr::Call(id, args) => {
            let function = functions
                .get(id.0 as usize)
                .ok_or_else(|| EvalError("no such function".to_string()))?;
            match args.as_slice() {
                [a] => call(function, [eval(a, slots, functions)?]),
                [a, b] => call(
                    function,
                    [eval(a, slots, functions)?, eval(b, slots, functions)?],
                ),
                _ => {
                    let args: Result<Vec<_>, _> =
                        args.iter().map(|a| eval(a, slots, functions)).collect();
                    call(function, args?)
                }
            }
        }
    }
}

fn call<'a>(function: &Function, args: impl AsRef<[Ev<'a>]>) -> Result<Ev<'a>, EvalError> {
    let args = args.as_ref();
    if let Some(result) = function.fast.and_then(|fast| fast(args)) {
        return Ok(result);
    }
    let values: Result<Vec<Value>, EvalError> = args.iter().map(Ev::value).collect();
    Ok(own(&(function.body)(&values?)?))
}

fn index<'a>(list: Ev<'a>, at: &Ev<'_>) -> Result<Ev<'a>, EvalError> {
    let at = at
        .int()
        .ok_or_else(|| EvalError("an index is not an int".to_string()))?;
    let outside = || EvalError(format!("index {at} is outside of the list"));
    let n = usize::try_from(at).map_err(|_| outside())?;
    match list {
        Ev::Ref(b) => packed::list_items(b)
            .nth(n)
            .map(Ev::Ref)
            .ok_or_else(outside),
        Ev::Own(b) => packed::list_items(&b)
            .nth(n)
            .map(|x| Ev::Own(x.to_vec()))
            .ok_or_else(outside),
        _ => Err(EvalError("indexing what is no list".to_string())),
    }
}

fn unary(op: UnaryOp, a: &Ev<'_>) -> Result<Ev<'static>, EvalError> {
    if let (UnaryOp::Not, Ev::Bool(b)) = (op, a) {
        return Ok(Ev::Bool(!b));
    }
    expr::unary(op, &a.value()?).map(|v| own(&v))
}

fn binary(op: BinaryOp, a: &Ev<'_>, b: &Ev<'_>) -> Result<Ev<'static>, EvalError> {
    let order = || fast::compare(a, b).unwrap_or_else(|| a.with(|a| b.with(|b| a.cmp(b))));
    let fast = match op {
        BinaryOp::Eq => Some(Ev::Bool(order().is_eq())),
        BinaryOp::Ne => Some(Ev::Bool(order().is_ne())),
        BinaryOp::Lt => Some(Ev::Bool(order().is_lt())),
        BinaryOp::Le => Some(Ev::Bool(order().is_le())),
        BinaryOp::Gt => Some(Ev::Bool(order().is_gt())),
        BinaryOp::Ge => Some(Ev::Bool(order().is_ge())),
        _ => match (a.int(), b.int()) {
            (Some(x), Some(y)) => int_arithmetic(op, x, y).map(Ev::Int),
            _ if op == BinaryOp::Add => fast::concat(a, b),
            _ => None,
        },
    };
    match fast {
        Some(result) => Ok(result),
        None => expr::binary(op, &a.value()?, &b.value()?).map(|v| own(&v)),
    }
}

/// Arithmetic on ints; never wraps. `None` if there is no result.
fn int_arithmetic(op: BinaryOp, x: i64, y: i64) -> Option<i64> {
    match op {
        BinaryOp::Add => x.checked_add(y),
        BinaryOp::Sub => x.checked_sub(y),
        BinaryOp::Mul => x.checked_mul(y),
        BinaryOp::Div => x.checked_div(y),
        BinaryOp::Rem => x.checked_rem(y),
        _ => None,
    }
}
