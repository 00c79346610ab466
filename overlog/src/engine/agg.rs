//! Aggregates over packed values.

use crate::engine::eval::{Slots, eval_into};
use crate::functions::{EvalError, Function};
use crate::ir::{AggOp, Aggregate, Expr};
use crate::oracle::exact::ExactSum;
use crate::packed;
use crate::value::Value;
use hashbrown::HashSet;
use std::collections::BTreeSet;

/// The state of one aggregate of one group.
pub enum Acc {
    /// Contributions.
    CountAll(i64),
    /// Distinct values.
    Count(HashSet<Vec<u8>>),
    /// A sum, or a mean with `mean`.
    Sum {
        /// Divide by the number of contributions.
        mean: bool,
        /// Contributions.
        count: i64,
        /// Of ints; wide enough for any number of them.
        ints: i128,
        /// Of floats.
        floats: Option<Box<ExactSum>>,
        /// An int was added.
        any_int: bool,
    },
    /// The least, or the greatest with `max`.
    Best {
        /// The greatest.
        max: bool,
        /// X, then for argmin and argmax Y.
        best: Option<Vec<u8>>,
        /// Length of X.
        split: usize,
    },
    /// Sorted, with repeats.
    List(Vec<Vec<u8>>),
    /// Sorted, without repeats.
    Set(BTreeSet<Vec<u8>>),
    /// Sorted, without repeats, only so many.
    Extreme {
        /// The values.
        items: BTreeSet<Vec<u8>>,
        /// Keep so many: the greatest number that a contribution names.
        limit: usize,
        /// All contributions name the same number, so what is over it can go at once.
        fixed: bool,
        /// Keep the greatest.
        greatest: bool,
    },
    /// A contribution does not fit the aggregate, so the group has no value.
    Failed(EvalError),
}

/// The packed arguments of a binding's contributions to some aggregates, in room that is used again.
#[derive(Default)]
pub struct Arguments {
    bytes: Vec<u8>,
    /// For each aggregate: where its first argument ends, and its last.
    ends: Vec<(usize, usize)>,
}

impl Arguments {
    /// Works out the arguments of all aggregates of a head: a binding contributes to all or to none.
    ///
    /// # Errors
    /// One of them has no value.
    pub fn fill<'a>(
        &mut self,
        aggs: impl Iterator<Item = &'a Aggregate>,
        slots: &impl Slots,
        functions: &[Function],
    ) -> Result<(), EvalError> {
        self.bytes.clear();
        self.ends.clear();
        for agg in aggs {
            let start = self.bytes.len();
            let mut split = start;
            for (at, e) in agg.args.iter().enumerate() {
                eval_into(e, slots, functions, &mut self.bytes)?;
                if at == 0 {
                    split = self.bytes.len();
                }
            }
            self.ends.push((split, self.bytes.len()));
        }
        Ok(())
    }

    /// For each aggregate its arguments, one behind the other, and where the second starts.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let mut start = 0;
        self.ends.iter().map(move |(split, end)| {
            let args = self.bytes.get(start..*end).unwrap_or_default();
            let split = split - start;
            start = *end;
            (args, split)
        })
    }
}

impl Acc {
    /// Nothing contributed yet.
    pub fn new(agg: &Aggregate) -> Acc {
        let op = agg.op;
        match op {
            AggOp::CountAll => Acc::CountAll(0),
            AggOp::Count => Acc::Count(HashSet::new()),
            AggOp::Sum | AggOp::Avg => Acc::Sum {
                mean: op == AggOp::Avg,
                count: 0,
                ints: 0,
                floats: None,
                any_int: false,
            },
            AggOp::Min | AggOp::Any | AggOp::ArgMin => Acc::Best {
                max: false,
                best: None,
                split: 0,
            },
            AggOp::Max | AggOp::ArgMax => Acc::Best {
                max: true,
                best: None,
                split: 0,
            },
            AggOp::List => Acc::List(Vec::new()),
            AggOp::Set => Acc::Set(BTreeSet::new()),
            AggOp::Top | AggOp::Least => Acc::Extreme {
                items: BTreeSet::new(),
                limit: 0,
                fixed: matches!(agg.args.first(), Some(Expr::Const(_))),
                greatest: op == AggOp::Top,
            },
        }
    }

    /// Adds a contribution: packed arguments, and where the second starts.
    pub fn add(&mut self, args: &[u8], split: usize) {
        if let Err(error) = self.contribute(args, split) {
            *self = Acc::Failed(error);
        }
    }

    fn contribute(&mut self, args: &[u8], split: usize) -> Result<(), EvalError> {
        let (first, second) = args.split_at(split.min(args.len()));
        match self {
            Acc::CountAll(n) => *n += 1,
            Acc::Count(set) => {
                set.get_or_insert_with(first, <[u8]>::to_vec);
            }
            Acc::Sum {
                count,
                ints,
                floats,
                any_int,
                ..
            } => {
                *count += 1;
                match packed::unpack(first, 0) {
                    Some((Value::Int(i), _)) => {
                        *ints += i128::from(i);
                        *any_int = true;
                    }
                    Some((Value::Float(x), _)) => floats.get_or_insert_default().add(x),
                    _ => return Err(EvalError("a sum of what is no number".to_string())),
                }
            }
            Acc::Best {
                max,
                best,
                split: kept,
            } => {
                let better = best
                    .as_deref()
                    .is_none_or(|b| if *max { args > b } else { args < b });
                if better {
                    let best = best.get_or_insert_default();
                    best.clear();
                    best.extend_from_slice(args);
                    *kept = if second.is_empty() { 0 } else { first.len() };
                }
            }
            Acc::List(items) => items.push(first.to_vec()),
            Acc::Set(items) => {
                items.insert(first.to_vec());
            }
            Acc::Extreme {
                items,
                limit,
                fixed,
                greatest,
            } => {
                let wanted = packed::unpack_int(first)
                    .ok_or_else(|| EvalError("not a number of rows".to_string()))?;
                *limit = (*limit).max(usize::try_from(wanted).unwrap_or_default());
                items.insert(second.to_vec());
                if *fixed {
                    cut(items, *limit, *greatest);
                }
            }
            Acc::Failed(_) => {}
        }
        Ok(())
    }

    /// True if nothing that is greater than all before can change the result of a `least` of a fixed number.
    pub fn full(&self) -> bool {
        matches!(self, Acc::Extreme { items, limit, greatest: false, .. } if items.len() >= *limit)
    }

    /// The result; `None`: nothing has none.
    pub fn finish(self) -> Result<Option<Vec<u8>>, EvalError> {
        let mut out = Vec::new();
        match self {
            Acc::CountAll(n) => packed::pack_int(n, &mut out),
            Acc::Count(set) => {
                packed::pack_int(i64::try_from(set.len()).unwrap_or(i64::MAX), &mut out)
            }
            Acc::Sum {
                mean,
                count,
                ints,
                floats,
                any_int,
            } => {
                return sum(mean, count, ints, floats, any_int);
            }
            Acc::Best { best, split, .. } => {
                let Some(mut best) = best else {
                    return Ok(None);
                };
                best.drain(..split);
                return Ok(Some(best));
            }
            Acc::List(mut items) => {
                items.sort_unstable();
                write_list(items.iter(), &mut out);
            }
            Acc::Set(items) => write_list(items.iter(), &mut out),
            Acc::Extreme {
                mut items,
                limit,
                greatest,
                ..
            } => {
                cut(&mut items, limit, greatest);
                write_list(items.iter(), &mut out);
            }
            Acc::Failed(error) => return Err(error),
        }
        Ok(Some(out))
    }
}

fn cut(items: &mut BTreeSet<Vec<u8>>, limit: usize, greatest: bool) {
    while items.len() > limit {
        if greatest {
            items.pop_first();
        } else {
            items.pop_last();
        }
    }
}

fn write_list<'a>(items: impl Iterator<Item = &'a Vec<u8>>, out: &mut Vec<u8>) {
    packed::begin_list(out);
    items.for_each(|i| out.extend_from_slice(i));
    packed::end_list(out);
}

/// The sum or mean of so many ints that add up to this.
///
/// # Errors
/// The sum does not fit.
pub fn int_total(mean: bool, count: i64, ints: i128) -> Result<Option<Vec<u8>>, EvalError> {
    sum(mean, count, ints, None, count > 0)
}

fn sum(
    mean: bool,
    count: i64,
    ints: i128,
    floats: Option<Box<ExactSum>>,
    any_int: bool,
) -> Result<Option<Vec<u8>>, EvalError> {
    if any_int && floats.is_some() {
        return Err(EvalError("ints and floats do not add".to_string()));
    }
    if mean && count == 0 {
        return Ok(None);
    }
    let value = match (mean, floats) {
        (false, None) => Value::Int(
            i64::try_from(ints).map_err(|_| EvalError(format!("the sum {ints} overflows")))?,
        ),
        (false, Some(f)) => Value::float(f.round()),
        (true, None) => Value::float(ints as f64 / count as f64),
        (true, Some(f)) => Value::float(f.round() / count as f64),
    };
    let mut out = Vec::new();
    packed::pack(&value, &mut out);
    Ok(Some(out))
}
