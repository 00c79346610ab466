//! The built-in functions. docs/OVERLOG.md has a table of them.

use super::{EvalError, Function, MAX_BYTES, MAX_ITEMS};
use crate::engine::fast;
use crate::expr::shown;
use crate::ir::Type::{Addr, Any, Bool, Bytes, Float, Int, List, Str};
use crate::packed::Row;
use crate::value::Value;
use std::sync::OnceLock;

type Outcome = Result<Value, EvalError>;

/// The built-in functions.
pub fn builtins() -> &'static [Function] {
    static ALL: OnceLock<Vec<Function>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = [texts(), lists(), numbers(), conversions()].concat();
        for function in &mut all {
            function.fast = fast::of(&function.name);
        }
        all
    })
}

fn texts() -> Vec<Function> {
    vec![
        Function::new("split", &[Str, Str], List, |a| match a {
            [Value::Str(s), Value::Str(sep)] => split(s, sep),
            _ => wrong("split"),
        }),
        Function::new("join", &[List, Str], Str, |a| match a {
            [Value::List(l), Value::Str(sep)] => join(l, sep),
            _ => wrong("join"),
        }),
        Function::new("starts_with", &[Str, Str], Bool, |a| match a {
            [Value::Str(s), Value::Str(p)] => Ok(Value::Bool(s.starts_with(p))),
            _ => wrong("starts_with"),
        }),
        Function::new("ends_with", &[Str, Str], Bool, |a| match a {
            [Value::Str(s), Value::Str(p)] => Ok(Value::Bool(s.ends_with(p))),
            _ => wrong("ends_with"),
        }),
        Function::new("substr", &[Str, Int, Int], Str, |a| match a {
            [Value::Str(s), Value::Int(from), Value::Int(len)] => {
                Ok(Value::str(window(s, *from, *len)))
            }
            _ => wrong("substr"),
        }),
        Function::new("lower", &[Str], Str, |a| match a {
            [Value::Str(s)] => Ok(Value::str(s.to_ascii_lowercase())),
            _ => wrong("lower"),
        }),
        Function::new("upper", &[Str], Str, |a| match a {
            [Value::Str(s)] => Ok(Value::str(s.to_ascii_uppercase())),
            _ => wrong("upper"),
        }),
        Function::new("contains", &[Any, Any], Bool, |a| match a {
            [Value::List(l), x] => Ok(Value::Bool(l.contains(x))),
            [Value::Str(s), Value::Str(part)] => Ok(Value::Bool(find(s, part).is_some())),
            _ => wrong("contains takes a list and a value, or two strings"),
        }),
        Function::new("size", &[Any], Int, |a| match a {
            [Value::List(l)] => length(l.len()),
            [Value::Str(b) | Value::Bytes(b)] => length(b.len()),
            [x] => Err(EvalError(format!(
                "size of {}, which is no list, string or bytes",
                shown(x)
            ))),
            _ => wrong("size"),
        }),
    ]
}

fn lists() -> Vec<Function> {
    vec![
        Function::new("head", &[List], Any, |a| match a {
            [Value::List(l)] => l.first().cloned().ok_or_else(|| empty("head")),
            _ => wrong("head"),
        }),
        Function::new("last", &[List], Any, |a| match a {
            [Value::List(l)] => l.last().cloned().ok_or_else(|| empty("last")),
            _ => wrong("last"),
        }),
        Function::new("tail", &[List], List, |a| match a {
            [Value::List(l)] => l
                .split_first()
                .map(|(_, rest)| Value::list(rest))
                .ok_or_else(|| empty("tail")),
            _ => wrong("tail"),
        }),
        Function::new("init", &[List], List, |a| match a {
            [Value::List(l)] => l
                .split_last()
                .map(|(_, rest)| Value::list(rest))
                .ok_or_else(|| empty("init")),
            _ => wrong("init"),
        }),
        Function::new("slice", &[List, Int, Int], List, |a| match a {
            [Value::List(l), Value::Int(from), Value::Int(len)] => {
                Ok(Value::list(window(l, *from, *len)))
            }
            _ => wrong("slice"),
        }),
        Function::new("sort", &[List], List, |a| match a {
            [Value::List(l)] => {
                let mut items = l.to_vec();
                items.sort();
                Ok(Value::list(items))
            }
            _ => wrong("sort"),
        }),
        Function::new("unique", &[List], List, |a| match a {
            [Value::List(l)] => {
                let mut items = l.to_vec();
                items.sort();
                items.dedup();
                Ok(Value::list(items))
            }
            _ => wrong("unique"),
        }),
        Function::new("reverse", &[List], List, |a| match a {
            [Value::List(l)] => Ok(Value::list(l.iter().rev().cloned().collect::<Vec<_>>())),
            _ => wrong("reverse"),
        }),
        Function::new("range", &[Int, Int], List, |a| match a {
            [Value::Int(from), Value::Int(to)] => {
                let fits = to
                    .checked_sub(*from)
                    .is_some_and(|n| usize::try_from(n.max(0)).is_ok_and(|n| n <= MAX_ITEMS));
                if fits {
                    Ok(Value::list(
                        (*from..*to).map(Value::Int).collect::<Vec<_>>(),
                    ))
                } else {
                    Err(EvalError(format!(
                        "range({from}, {to}) has more than {MAX_ITEMS} items"
                    )))
                }
            }
            _ => wrong("range"),
        }),
    ]
}

fn numbers() -> Vec<Function> {
    vec![
        Function::new("abs", &[Any], Any, |a| match a {
            [Value::Int(i)] => i
                .checked_abs()
                .map(Value::Int)
                .ok_or_else(|| EvalError(format!("abs({i}) does not fit 64 bits"))),
            [Value::Float(x)] => Ok(Value::float(x.abs())),
            [x] => Err(EvalError(format!(
                "abs of {}, which is no number",
                shown(x)
            ))),
            _ => wrong("abs"),
        }),
        Function::new("min", &[Any, Any], Any, |a| {
            a.iter().min().cloned().ok_or_else(|| empty("min"))
        }),
        Function::new("max", &[Any, Any], Any, |a| {
            a.iter().max().cloned().ok_or_else(|| empty("max"))
        }),
        Function::new("band", &[Int, Int], Int, |a| bits("band", a, |x, y| x & y)),
        Function::new("bor", &[Int, Int], Int, |a| bits("bor", a, |x, y| x | y)),
        Function::new("bxor", &[Int, Int], Int, |a| bits("bxor", a, |x, y| x ^ y)),
        Function::new("bnot", &[Int], Int, |a| match a {
            [Value::Int(x)] => Ok(Value::Int(!x)),
            _ => wrong("bnot"),
        }),
        Function::new("shl", &[Int, Int], Int, |a| {
            shift("shl", a, i64::checked_shl)
        }),
        Function::new("shr", &[Int, Int], Int, |a| {
            shift("shr", a, i64::checked_shr)
        }),
        Function::new("hash", &[Any], Int, |a| Ok(Value::Int(hash(a)))),
        Function::new("floor", &[Float], Int, |a| whole("floor", a, f64::floor)),
        Function::new("ceil", &[Float], Int, |a| whole("ceil", a, f64::ceil)),
        Function::new("round", &[Float], Int, |a| whole("round", a, f64::round)),
    ]
}

fn conversions() -> Vec<Function> {
    vec![
        Function::new("str", &[Any], Str, |a| match a {
            [Value::Str(b) | Value::Bytes(b) | Value::Addr(b)] => Ok(Value::str(b)),
            [x] => {
                let text = x.to_string();
                bounded(text.len())?;
                Ok(Value::str(text))
            }
            _ => wrong("str"),
        }),
        Function::new("int", &[Any], Int, |a| match a {
            [Value::Int(i)] => Ok(Value::Int(*i)),
            [Value::Bool(b)] => Ok(Value::Int(i64::from(*b))),
            [Value::Float(_)] => whole("int", a, f64::trunc),
            [x @ Value::Str(s)] => parse(s)
                .map(Value::Int)
                .ok_or_else(|| no_conversion(x, "int")),
            [x] => Err(no_conversion(x, "int")),
            _ => wrong("int"),
        }),
        Function::new("float", &[Any], Float, |a| match a {
            [Value::Float(x)] => Ok(Value::float(*x)),
            #[allow(clippy::cast_precision_loss)] // rounded to the nearest, as documented
            [Value::Int(i)] => Ok(Value::float(*i as f64)),
            [x @ Value::Str(s)] => parse(s)
                .map(Value::float)
                .ok_or_else(|| no_conversion(x, "float")),
            [x] => Err(no_conversion(x, "float")),
            _ => wrong("float"),
        }),
        Function::new("addr", &[Any], Addr, |a| match a {
            [Value::Str(b) | Value::Addr(b)] => Ok(Value::addr(b)),
            [x] => Err(no_conversion(x, "addr")),
            _ => wrong("addr"),
        }),
        Function::new("bytes", &[Any], Bytes, |a| match a {
            [Value::Str(b) | Value::Bytes(b) | Value::Addr(b)] => Ok(Value::bytes(b)),
            [x] => Err(no_conversion(x, "bytes")),
            _ => wrong("bytes"),
        }),
        Function::new("typeof", &[Any], Str, |a| match a {
            [x] => Ok(Value::str(type_of(x).name())),
            _ => wrong("typeof"),
        }),
    ]
}

fn wrong<T>(what: &str) -> Result<T, EvalError> {
    Err(EvalError(format!("{what}: wrong arguments")))
}

fn empty(what: &str) -> EvalError {
    EvalError(format!("{what} of an empty list"))
}

fn no_conversion(x: &Value, to: &str) -> EvalError {
    EvalError(format!("{} is no {to}", shown(x)))
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn length(n: usize) -> Outcome {
    i64::try_from(n)
        .map(Value::Int)
        .map_err(|_| EvalError("size does not fit 64 bits".to_owned()))
}

fn bounded(bytes: usize) -> Result<(), EvalError> {
    if bytes > MAX_BYTES {
        Err(EvalError(format!(
            "a string of more than {MAX_BYTES} bytes"
        )))
    } else {
        Ok(())
    }
}

/// The part from a position on, cut to what is there.
fn window<T>(items: &[T], from: i64, len: i64) -> &[T] {
    let start = usize::try_from(from.max(0))
        .unwrap_or(usize::MAX)
        .min(items.len());
    let end = start
        .saturating_add(usize::try_from(len.max(0)).unwrap_or(usize::MAX))
        .min(items.len());
    items.get(start..end).unwrap_or_default()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|w| w == part)
}

/// An empty separator splits nothing.
fn split(text: &[u8], separator: &[u8]) -> Outcome {
    let mut items = Vec::new();
    let mut rest = text;
    while !separator.is_empty() {
        let Some(at) = find(rest, separator) else {
            break;
        };
        items.push(Value::str(rest.get(..at).unwrap_or_default()));
        rest = rest.get(at + separator.len()..).unwrap_or_default();
        if items.len() > MAX_ITEMS {
            return Err(EvalError(format!(
                "split makes more than {MAX_ITEMS} items"
            )));
        }
    }
    items.push(Value::str(rest));
    Ok(Value::list(items))
}

fn join(items: &[Value], separator: &[u8]) -> Outcome {
    let mut out = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let Value::Str(text) = item else {
            return Err(EvalError(format!("join: {} is no string", shown(item))));
        };
        if i > 0 {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(text);
        bounded(out.len())?;
    }
    Ok(Value::str(out))
}

fn bits(name: &str, args: &[Value], op: fn(i64, i64) -> i64) -> Outcome {
    match args {
        [Value::Int(x), Value::Int(y)] => Ok(Value::Int(op(*x, *y))),
        _ => wrong(name),
    }
}

/// A shift by a distance outside 0..64 is an error; bits shifted out are lost, `shr` keeps the sign.
fn shift(name: &str, args: &[Value], op: fn(i64, u32) -> Option<i64>) -> Outcome {
    let [Value::Int(x), Value::Int(distance)] = args else {
        return wrong(name);
    };
    let shifted = u32::try_from(*distance).ok().and_then(|d| op(*x, d));
    shifted
        .map(Value::Int)
        .ok_or_else(|| EvalError(format!("{name} by {distance} is outside 0..63")))
}

/// A float made whole, if it then fits 64 bits.
fn whole(name: &str, args: &[Value], op: fn(f64) -> f64) -> Outcome {
    let [Value::Float(x)] = args else {
        return wrong(name);
    };
    let rounded = op(*x);
    // 2^63 is a float, 2^63 - 1 is none.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
        #[allow(clippy::cast_possible_truncation)] // within the range by the test above
        Ok(Value::Int(rounded as i64))
    } else {
        Err(EvalError(format!(
            "{name}({}) does not fit 64 bits",
            Value::float(*x)
        )))
    }
}

/// FNV-1a, 64 bits, of the packed value, without the sign bit: the same on every node and in every version.
fn hash(args: &[Value]) -> i64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in Row::new(args).as_bytes() {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    i64::try_from(state & (u64::MAX >> 1)).unwrap_or(0)
}

fn type_of(x: &Value) -> crate::ir::Type {
    [Bool, Int, Float, Str, Bytes, Addr, List]
        .into_iter()
        .find(|t| t.admits(x))
        .unwrap_or(Any)
}
