//! Aggregates over a list of contributions.

use super::exact::ExactSum;
use crate::ir::AggOp;
use crate::value::Value;
use std::collections::BTreeSet;

/// The aggregate's value. `None`: of nothing it has none (only in bodies: an empty group of a head does not exist).
pub(super) fn aggregate(op: AggOp, contributions: &[Vec<Value>]) -> Result<Option<Value>, String> {
    let first = || contributions.iter().filter_map(|args| args.first());
    let second = || contributions.iter().filter_map(|args| args.get(1));
    let count = |n: usize| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let value = match op {
        AggOp::CountAll => count(contributions.len()),
        AggOp::Count => count(first().collect::<BTreeSet<_>>().len()),
        AggOp::Sum => sum(&first().collect::<Vec<_>>())?,
        AggOp::Avg if contributions.is_empty() => return Ok(None),
        AggOp::Avg => mean(&first().collect::<Vec<_>>())?,
        AggOp::Min | AggOp::Any => return Ok(first().min().cloned()),
        AggOp::Max => return Ok(first().max().cloned()),
        AggOp::List => {
            let mut items: Vec<Value> = first().cloned().collect();
            items.sort();
            Value::list(items)
        }
        AggOp::Set => Value::list(
            first()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>(),
        ),
        AggOp::ArgMin => return Ok(first().zip(second()).min().map(|(_, y)| y.clone())),
        AggOp::ArgMax => return Ok(first().zip(second()).max().map(|(_, y)| y.clone())),
        AggOp::Top | AggOp::Least => {
            let items: Vec<Value> = second()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            let mut wanted = 0;
            for n in first() {
                let n = n
                    .as_int()
                    .ok_or_else(|| format!("{n} is not a number of rows"))?;
                wanted = wanted.max(usize::try_from(n.max(0)).unwrap_or(usize::MAX));
            }
            let skipped = if op == AggOp::Top {
                items.len().saturating_sub(wanted)
            } else {
                0
            };
            Value::list(
                items
                    .into_iter()
                    .skip(skipped)
                    .take(wanted)
                    .collect::<Vec<_>>(),
            )
        }
    };
    Ok(Some(value))
}

/// The sum of ints or of floats.
pub(super) fn sum(items: &[&Value]) -> Result<Value, String> {
    match total(items)? {
        Total::Ints(n) => i64::try_from(n)
            .map(Value::Int)
            .map_err(|_| format!("the sum {n} overflows")),
        Total::Floats(x) => Ok(Value::float(x)),
    }
}

fn mean(items: &[&Value]) -> Result<Value, String> {
    let n = items.len() as f64;
    Ok(Value::float(match total(items)? {
        Total::Ints(i) => i as f64 / n,
        Total::Floats(x) => x / n,
    }))
}

enum Total {
    Ints(i128),
    Floats(f64),
}

fn total(items: &[&Value]) -> Result<Total, String> {
    let mut ints = 0_i128;
    let mut floats = ExactSum::default();
    let (mut any_int, mut any_float) = (false, false);
    for item in items {
        match item {
            Value::Int(i) => {
                any_int = true;
                ints += i128::from(*i);
            }
            Value::Float(x) => {
                any_float = true;
                floats.add(*x);
            }
            other => return Err(format!("{other} is not a number to add")),
        }
    }
    match (any_int, any_float) {
        (true, true) => Err("ints and floats do not add".to_owned()),
        (_, false) => Ok(Total::Ints(ints)),
        (false, true) => Ok(Total::Floats(floats.round())),
    }
}
