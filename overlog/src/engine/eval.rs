//! Expressions over packed values: what is only moved or compared is never decoded.

use crate::functions::{EvalError, Function};
use crate::ir::{BinaryOp, Expr, UnaryOp};
use crate::packed;
use crate::value::Value;
use std::cmp::Ordering;

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

    fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Ev::Ref(b) => f(b),
            Ev::Own(b) => f(b),
            Ev::Int(_) | Ev::Bool(_) => {
                let mut bytes = Vec::with_capacity(9);
                self.write(&mut bytes);
                f(&bytes)
            }
        }
    }

    fn int(&self) -> Option<i64> {
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

    fn compare(&self, other: &Ev<'_>) -> Ordering {
        match (self, other) {
            (Ev::Int(a), Ev::Int(b)) => a.cmp(b),
            (Ev::Ref(a), Ev::Ref(b)) => a.cmp(b),
            _ => self.with(|a| other.with(|b| a.cmp(b))),
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

/// Evaluates an expression.
pub fn eval<'a>(
    e: &'a Expr,
    slots: &'a impl Slots,
    functions: &[Function],
) -> Result<Ev<'a>, EvalError> {
    match e {
        Expr::Const(v) => Ok(own(v)),
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
            packed::begin_list(&mut out);
            for item in items {
                eval(item, slots, functions)?.write(&mut out);
            }
            packed::end_list(&mut out);
            Ok(Ev::Own(out))
        }
        Expr::Index(list, at) => index(eval(list, slots, functions)?, &eval(at, slots, functions)?),
        Expr::Call(id, args) => {
            let function = functions
                .get(id.0 as usize)
                .ok_or_else(|| EvalError("no such function".to_string()))?;
            let mut values = Vec::with_capacity(args.len());
            for a in args {
                // A constant is a value already.
                let value = match a {
                    Expr::Const(v) => v.clone(),
                    _ => eval(a, slots, functions)?.value()?,
                };
                values.push(value);
            }
            Ok(own(&(function.body)(&values)?))
        }
    }
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
    match op {
        UnaryOp::Not => a
            .truth()
            .map(|b| Ev::Bool(!b))
            .ok_or_else(|| EvalError("! of what is not true or false".to_string())),
        UnaryOp::Neg => match a.value()? {
            Value::Int(i) => i.checked_neg().map(Ev::Int).ok_or_else(overflow),
            Value::Float(x) => Ok(own(&Value::float(-x))),
            other => Err(EvalError(format!("- of {other}"))),
        },
    }
}

fn overflow() -> EvalError {
    EvalError("integer overflow".to_string())
}

fn binary(op: BinaryOp, a: &Ev<'_>, b: &Ev<'_>) -> Result<Ev<'static>, EvalError> {
    match op {
        BinaryOp::Eq => Ok(Ev::Bool(a.compare(b) == Ordering::Equal)),
        BinaryOp::Ne => Ok(Ev::Bool(a.compare(b) != Ordering::Equal)),
        BinaryOp::Lt => Ok(Ev::Bool(a.compare(b) == Ordering::Less)),
        BinaryOp::Le => Ok(Ev::Bool(a.compare(b) != Ordering::Greater)),
        BinaryOp::Gt => Ok(Ev::Bool(a.compare(b) == Ordering::Greater)),
        BinaryOp::Ge => Ok(Ev::Bool(a.compare(b) != Ordering::Less)),
        _ => match (a.int(), b.int()) {
            (Some(x), Some(y)) => int_arithmetic(op, x, y).map(Ev::Int),
            _ => arithmetic(op, &a.value()?, &b.value()?).map(|v| own(&v)),
        },
    }
}

/// Arithmetic on ints; never wraps.
pub fn int_arithmetic(op: BinaryOp, x: i64, y: i64) -> Result<i64, EvalError> {
    let result = match op {
        BinaryOp::Add => x.checked_add(y),
        BinaryOp::Sub => x.checked_sub(y),
        BinaryOp::Mul => x.checked_mul(y),
        BinaryOp::Div | BinaryOp::Rem if y == 0 => {
            return Err(EvalError("division by zero".to_string()));
        }
        BinaryOp::Div => x.checked_div(y),
        BinaryOp::Rem => x.checked_rem(y),
        _ => return Err(EvalError("no such operation on ints".to_string())),
    };
    result.ok_or_else(overflow)
}

fn arithmetic(op: BinaryOp, a: &Value, b: &Value) -> Result<Value, EvalError> {
    match (op, a, b) {
        (_, Value::Float(x), Value::Float(y)) => match op {
            BinaryOp::Add => Ok(Value::float(x + y)),
            BinaryOp::Sub => Ok(Value::float(x - y)),
            BinaryOp::Mul => Ok(Value::float(x * y)),
            BinaryOp::Div | BinaryOp::Rem if *y == 0.0 => {
                Err(EvalError("division by zero".to_string()))
            }
            BinaryOp::Div => Ok(Value::float(x / y)),
            BinaryOp::Rem => Ok(Value::float(x % y)),
            _ => Err(EvalError("no such operation on floats".to_string())),
        },
        (BinaryOp::Add, Value::Str(x), Value::Str(y)) => Ok(Value::str([&x[..], &y[..]].concat())),
        (BinaryOp::Add, Value::Bytes(x), Value::Bytes(y)) => {
            Ok(Value::bytes([&x[..], &y[..]].concat()))
        }
        (BinaryOp::Add, Value::List(x), Value::List(y)) => {
            Ok(Value::list([&x[..], &y[..]].concat()))
        }
        _ => Err(EvalError(format!("no such operation on {a} and {b}"))),
    }
}
