//! Counts, sums and means of ints, kept as totals in the multiplicity of their group: a change costs the same however
//! large the group is, and no contribution is stored.

use super::Sink;
use super::binding::owned;
use super::body::push_updates;
use crate::engine::agg::int_total;
use crate::engine::spine::{Diff, RowBuilder, RowSpine};
use crate::engine::tables::{arrange_pairs, columns_of};
use crate::functions::EvalError;
use crate::ir::{AggOp, Aggregate, Arg, BinaryOp, Expr, Program, Rule, Term, Type, UnaryOp, VarId};
use crate::packed::{self, Row};
use crate::value::Value;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::{AsCollection, VecCollection};
use std::collections::BTreeSet;
use std::rc::Rc;
use timely::dataflow::operators::vec::Map;
use timely::progress::Timestamp;

/// The number of contributions, how many were no ints after all (a function of the host may not keep its word), then the
/// sum of each aggregate's argument (0 where it only counts). 128 bits hold any sum of 64-bit ints, so what overflows on
/// the way and comes back is exact.
type Totals = Vec<i128>;

/// True if all these aggregates over a body follow from totals: what they add up is an int, and what they count comes
/// once.
pub(super) fn additive(
    program: &Program,
    body: &[Term],
    group: &[Expr],
    aggs: &[Aggregate],
) -> bool {
    aggs.iter().all(|agg| match (agg.op, agg.args.first()) {
        (AggOp::CountAll, _) => true,
        (AggOp::Sum | AggOp::Avg, Some(e)) => is_int(program, body, e),
        (AggOp::Count, Some(Expr::Var(v))) => comes_once(program, body, group, *v),
        _ => false,
    })
}

/// The expression has no values but ints.
fn is_int(program: &Program, body: &[Term], e: &Expr) -> bool {
    let int = |e: &Expr| is_int(program, body, e);
    match e {
        Expr::Const(v) => matches!(v.value(), Value::Int(_)),
        Expr::Var(v) => body.iter().any(|term| match term {
            Term::Atom(atom) => {
                let columns = &program.relation(atom.rel).columns;
                let mut both = atom.args.iter().zip(columns);
                both.any(|(arg, c)| matches!(arg, Arg::Var(x) if x == v) && c.ty == Type::Int)
            }
            _ => false,
        }),
        Expr::Unary(UnaryOp::Neg, x) => int(x),
        Expr::Binary(op, x, y) => {
            use BinaryOp::{Add, Div, Mul, Rem, Sub};
            matches!(op, Add | Sub | Mul | Div | Rem) && int(x) && int(y)
        }
        Expr::Cond(_, x, y) => int(x) && int(y),
        Expr::Call(f, _) => program
            .functions
            .get(f.0 as usize)
            .is_some_and(|f| f.result == Type::Int),
        Expr::Unary(..) | Expr::Index(..) | Expr::List(_) => false,
    }
}

/// No two bindings of a group have one value of the variable: group and value fix the row of each atom.
fn comes_once(program: &Program, body: &[Term], group: &[Expr], counted: VarId) -> bool {
    let given = group.iter().filter_map(|e| match e {
        Expr::Var(v) => Some(*v),
        _ => None,
    });
    let given: BTreeSet<VarId> = given.chain([counted]).collect();
    body.iter().all(|term| match term {
        Term::Atom(atom) => {
            let relation = program.relation(atom.rel);
            // The keys of a view are an invariant, and may be violated.
            let fixing = |c: usize| relation.is_view() || relation.keys.contains(&c);
            atom.args.iter().enumerate().all(|(c, arg)| match arg {
                Arg::Const(_) => true,
                Arg::Var(v) => given.contains(v) || !fixing(c),
                Arg::Any => !fixing(c),
            })
        }
        Term::Unnest { .. } => false,
        Term::Not(_) | Term::Test(_) | Term::Assign(..) | Term::Agg { .. } => true,
    })
}

/// Reduces contributions by group.
pub(super) fn reduce<'scope, T: Timestamp + Lattice>(
    rule: &Rule,
    contributions: VecCollection<'scope, T, (Row, Row), Diff>,
    aggs: Vec<Aggregate>,
    sink: &Sink,
) -> VecCollection<'scope, T, (Row, Row), Diff> {
    let ops: Vec<(AggOp, usize)> = aggs.iter().map(|a| (a.op, a.args.len())).collect();
    let arguments = ops.clone();
    let weighed = contributions
        .inner
        .map(move |((group, args), time, diff)| {
            let weight = weigh(&arguments, args.as_bytes(), diff);
            ((group, Row::default()), time, weight)
        })
        .as_collection();
    let errors = Rc::clone(&sink.errors);
    let name = rule.name.clone();
    arrange_pairs(weighed)
        .reduce_abelian::<_, RowBuilder<T>, RowSpine<T>, _, _>(
            "Totals",
            move |_, vals, out| {
                let Some((_, totals)) = vals.first() else {
                    return;
                };
                match values(&ops, totals) {
                    Ok(row) => out.push((row, 1)),
                    Err(error) => {
                        errors.borrow_mut().push((name.clone(), error.0));
                        out.push((Row::default(), 1));
                    }
                }
            },
            push_updates,
        )
        .as_collection(|k, v| (owned(k), owned(v)))
}

fn weigh(ops: &[(AggOp, usize)], args: &[u8], diff: Diff) -> Totals {
    let times = diff as i128;
    let mut args = columns_of(args).into_iter();
    let mut strange = 0;
    let mut sums = Vec::with_capacity(ops.len());
    for (op, arguments) in ops {
        let argument = args.by_ref().take(*arguments).last();
        sums.push(match (op, argument.and_then(packed::unpack_int)) {
            (AggOp::Sum | AggOp::Avg, Some(i)) => i128::from(i) * times,
            (AggOp::Sum | AggOp::Avg, None) => {
                strange = times;
                0
            }
            _ => 0,
        });
    }
    [vec![times, strange], sums].concat()
}

fn values(ops: &[(AggOp, usize)], totals: &Totals) -> Result<Row, EvalError> {
    let [count, strange, sums @ ..] = totals.as_slice() else {
        return Ok(Row::default());
    };
    if *strange != 0 {
        return Err(EvalError("a sum of what is no number".to_string()));
    }
    let count = i64::try_from(*count).unwrap_or(i64::MAX);
    let mut out = Vec::new();
    for ((op, _), sum) in ops.iter().zip(sums) {
        match op {
            AggOp::Sum | AggOp::Avg => {
                out.extend(int_total(*op == AggOp::Avg, count, *sum)?.unwrap_or_default());
            }
            _ => packed::pack_int(count, &mut out),
        }
    }
    Ok(Row::from_bytes(out))
}
