//! Aggregates of kept views, and heads: contributions by group, reduced.

use super::binding::{add, concat, owned, pack_all, project, slot, slots_of, var};
use super::body::{Bindings, Builder, Failed, distinct, push_updates};
use super::{Sink, totals};
use crate::engine::agg::Acc;
use crate::engine::eval::Slots;
use crate::engine::spine::{Diff, RowBuilder, RowSpine};
use crate::engine::tables::{Rows, arrange_pairs, check_row, columns_of};
use crate::functions::EvalError;
use crate::ir::{Aggregate, Expr, HeadArg, Rule, Term, VarId};
use crate::packed::{self, Row};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::{AsCollection, VecCollection};
use std::rc::Rc;
use timely::dataflow::operators::vec::{Filter, Map};
use timely::progress::Timestamp;

impl<'scope, T: Timestamp + Lattice> Builder<'_, 'scope, T> {
    /// For each distinct combination of the outer variables: the nested body, reduced; nothing gives
    /// the aggregate's value of nothing.
    pub(super) fn aggregate(
        &mut self,
        rule: &Rule,
        result: VarId,
        agg: &Aggregate,
        body: &[Term],
        outer: &[VarId],
        b: Bindings<'scope, T>,
    ) -> Result<Bindings<'scope, T>, Failed> {
        let width = rule.vars.len();
        let shared: Vec<usize> = outer.iter().map(|v| slot(*v)).collect();
        let (layout, pick) = (b.layout.clone(), shared.clone());
        let paired = b
            .rows
            .map(move |row| (project(&row, &layout, width, &pick), row));
        let groups = distinct(paired.clone().map(|(k, _)| k));
        let terms: Vec<&Term> = body.iter().collect();
        let start = Bindings {
            rows: groups.clone(),
            layout: shared.clone(),
        };
        let inner = self.body(rule, &terms, start)?;
        let group: Vec<Expr> = shared.iter().map(|s| Expr::Var(var(*s))).collect();
        let reduced = self.reduced(rule, body, inner, group, vec![agg.clone()]);
        let empty = vec![Acc::new(agg)];
        let mut results = reduced.clone().filter(|(_, value)| has_value(value));
        if let Ok(Some(nothing)) = finish(empty) {
            // A group that failed is there too: it is not nothing.
            let have = distinct(reduced.map(|(k, _)| k)).map(|k| (k, Row::default()));
            let pairs = groups.clone().map(|k| (k, Row::default()));
            let hit = arrange_pairs(pairs).join_core(arrange_pairs(have), |k, _, _| Some(owned(k)));
            let missing = groups.concat(hit.negate());
            results = results.concat(missing.map(move |k| (k, nothing.clone())));
        }
        let mut layout = b.layout;
        let rows = if layout.contains(&slot(result)) {
            let at = layout.clone();
            arrange_pairs(paired).join_core(arrange_pairs(results), move |_, binding, value| {
                let slots = slots_of(binding, &at, width);
                (slots.slot(slot(result)) == value).then(|| owned(binding))
            })
        } else {
            add(&mut layout, slot(result));
            arrange_pairs(paired).join_core(arrange_pairs(results), |_, binding, value| {
                Some(concat(binding, value))
            })
        };
        Ok(Bindings { rows, layout })
    }

    /// The values of aggregates over the bindings of a body, by group. A group that failed is there without
    /// [a value](has_value).
    fn reduced(
        &self,
        rule: &Rule,
        body: &[Term],
        b: Bindings<'scope, T>,
        group: Vec<Expr>,
        aggs: Vec<Aggregate>,
    ) -> VecCollection<'scope, T, (Row, Row), Diff> {
        let additive = totals::additive(self.program, body, &group, &aggs);
        let values: Vec<Expr> = aggs.iter().flat_map(|a| a.args.iter().cloned()).collect();
        let contributions = self.project_exprs(rule, b, group, values);
        if additive {
            totals::reduce(rule, contributions, aggs, &self.sink)
        } else {
            reduce(rule, contributions, aggs, &self.sink)
        }
    }

    /// Evaluates two lists of expressions for each binding.
    fn project_exprs(
        &self,
        rule: &Rule,
        b: Bindings<'scope, T>,
        first: Vec<Expr>,
        second: Vec<Expr>,
    ) -> VecCollection<'scope, T, (Row, Row), Diff> {
        let functions = self.program.functions.clone();
        let errors = Rc::clone(&self.sink.errors);
        let name = rule.name.clone();
        let width = rule.vars.len();
        let layout = b.layout;
        b.rows
            .inner
            .flat_map(move |(row, time, diff)| {
                let slots = slots_of(row.as_bytes(), &layout, width);
                let both = pack_all(&first, &slots, &functions)
                    .and_then(|a| Ok((a, pack_all(&second, &slots, &functions)?)));
                match both {
                    Ok(pair) => Some((pair, time, diff)),
                    Err(error) => {
                        if diff > 0 {
                            errors.borrow_mut().push((name.clone(), error.0));
                        }
                        None
                    }
                }
            })
            .as_collection()
    }

    pub(super) fn head(&self, rule: &Rule, b: Bindings<'scope, T>) -> Rows<'scope, T> {
        let mut group = Vec::new();
        let mut aggs = Vec::new();
        // Where each column of the head comes from: the group or the aggregates.
        let mut places = Vec::new();
        for arg in &rule.head.args {
            match arg {
                HeadArg::Agg(agg) => {
                    places.push((true, aggs.len()));
                    aggs.push(agg.clone());
                }
                HeadArg::Expr(e) | HeadArg::Add(e) => {
                    places.push((false, group.len()));
                    group.push(e.clone());
                }
                HeadArg::Any => {}
            }
        }
        if aggs.is_empty() {
            let rows = self
                .project_exprs(rule, b, group, Vec::new())
                .map(|(row, _)| row);
            return self.fitting(rule, rows);
        }
        let reduced = self.reduced(rule, &rule.body, b, group, aggs);
        let rows =
            reduced
                .filter(|(_, results)| has_value(results))
                .map(move |(group, results)| {
                    let (group, results) =
                        (columns_of(group.as_bytes()), columns_of(results.as_bytes()));
                    let mut out = Vec::new();
                    for (from_aggs, at) in &places {
                        let side = if *from_aggs { &results } else { &group };
                        out.extend_from_slice(
                            side.as_slice().get(*at).copied().unwrap_or_default(),
                        );
                    }
                    Row::from_bytes(out)
                });
        self.fitting(rule, rows)
    }

    /// Rows whose values have the types of their columns.
    fn fitting(&self, rule: &Rule, rows: Rows<'scope, T>) -> Rows<'scope, T> {
        let relation = self.program.relation(rule.head.rel).clone();
        let errors = Rc::clone(&self.sink.errors);
        let name = rule.name.clone();
        rows.inner
            .filter(move |(row, _, diff)| {
                let outcome = check_row(&relation, row.as_bytes());
                if let Err(message) = &outcome
                    && *diff > 0
                {
                    errors.borrow_mut().push((name.clone(), message.clone()));
                }
                outcome.is_ok()
            })
            .as_collection()
    }
}

/// Reduces contributions by group, from all of them.
fn reduce<'scope, T: Timestamp + Lattice>(
    rule: &Rule,
    pairs: VecCollection<'scope, T, (Row, Row), Diff>,
    aggs: Vec<Aggregate>,
    sink: &Sink,
) -> VecCollection<'scope, T, (Row, Row), Diff> {
    let errors = Rc::clone(&sink.errors);
    let name = rule.name.clone();
    arrange_pairs(pairs)
        .reduce_abelian::<_, RowBuilder<T>, RowSpine<T>, _, _>(
            "Aggregate",
            move |_, vals, out| {
                let mut accs: Vec<Acc> = aggs.iter().map(Acc::new).collect();
                contribute(&mut accs, &aggs, vals);
                match finish(accs) {
                    Ok(Some(row)) => out.push((row, 1)),
                    Ok(None) => {}
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

/// The aggregates of the group did not fail.
fn has_value(results: &Row) -> bool {
    !results.as_bytes().is_empty()
}

fn contribute(accs: &mut [Acc], aggs: &[Aggregate], vals: &[(&[u8], Diff)]) {
    for (val, times) in vals {
        for _ in 0..*times {
            let mut rest = *val;
            for (acc, agg) in accs.iter_mut().zip(aggs) {
                let first = packed::skip(rest);
                let both = agg.args.iter().fold(0, |end, _| {
                    end + packed::skip(rest.get(end..).unwrap_or_default())
                });
                let (args, behind) = rest.split_at(both.min(rest.len()));
                acc.add(args, first);
                rest = behind;
            }
        }
    }
}

fn finish(accs: Vec<Acc>) -> Result<Option<Row>, EvalError> {
    let mut out = Vec::new();
    for acc in accs {
        match acc.finish()? {
            Some(bytes) => out.extend_from_slice(&bytes),
            None => return Ok(None),
        }
    }
    Ok(Some(Row::from_bytes(out)))
}
