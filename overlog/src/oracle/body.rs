//! Bodies of rules: all bindings that make the terms hold, by nested loops.

use super::agg::aggregate;
use super::eval::{Vars, eval, lookup, ready, truth};
use super::rel::{World, rel};
use crate::functions::Function;
use crate::ir::{Aggregate, Arg, Atom, Expr, Term, VarId};
use crate::value::Value;

/// What bodies are evaluated over.
pub(super) struct Solver<'a> {
    pub(super) world: &'a World,
    pub(super) functions: &'a [Function],
}

/// Values of variables. If an expression failed, the binding is followed to its end only to know whether the
/// failure is to be reported: what the failed term would have bound stays unbound.
#[derive(Clone)]
pub(super) struct Binding {
    pub(super) vars: Vec<Option<Value>>,
    /// Why the binding is dropped.
    pub(super) errors: Vec<String>,
    /// Failures in nested bodies, which drop nothing out here.
    pub(super) notes: Vec<String>,
}

impl Binding {
    pub(super) fn new(vars: usize) -> Binding {
        Binding {
            vars: vec![None; vars],
            errors: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Binds the variable, or compares if it is bound.
    fn unify(&mut self, v: VarId, value: Value) -> bool {
        match self.vars.get_mut(v.0 as usize) {
            Some(Some(known)) => *known == value,
            Some(slot) => {
                *slot = Some(value);
                true
            }
            None => false,
        }
    }

    fn fail(&mut self, why: String) {
        self.errors.push(why);
    }
}

impl Solver<'_> {
    /// Calls `found` for each combination of rows that makes all terms hold.
    pub(super) fn solve(&self, terms: &[Term], start: Binding, found: &mut dyn FnMut(&Binding)) {
        for term in terms {
            if let Term::Atom(atom) = term
                && rel(self.world, atom.rel).rows.is_empty()
            {
                return;
            }
        }
        self.step(terms.iter().collect(), start, found);
    }

    fn step(&self, mut pending: Vec<&Term>, mut b: Binding, found: &mut dyn FnMut(&Binding)) {
        while let Some(at) = self.pick(&pending, &b.vars) {
            match pending.swap_remove(at) {
                Term::Test(e) => match eval(e, &b.vars, self.functions).and_then(|v| truth(&v)) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(why) => b.fail(why),
                },
                Term::Assign(v, e) => match eval(e, &b.vars, self.functions) {
                    Ok(value) if b.unify(*v, value.clone()) => {}
                    Ok(_) => return,
                    Err(why) => b.fail(why),
                },
                Term::Not(atom) => {
                    if self.rows(atom, &b).next().is_some() {
                        return;
                    }
                }
                Term::Atom(atom) => {
                    for extended in self.rows(atom, &b) {
                        self.step(pending.clone(), extended, found);
                    }
                    return;
                }
                Term::Unnest { pos, item, list } => match self.elements(list, &b.vars) {
                    Ok(items) => {
                        for (i, value) in items.into_iter().enumerate() {
                            let mut next = b.clone();
                            let at = Value::Int(i64::try_from(i).unwrap_or(i64::MAX));
                            if next.unify(*item, value) && pos.is_none_or(|p| next.unify(p, at)) {
                                self.step(pending.clone(), next, found);
                            }
                        }
                        return;
                    }
                    Err(why) => b.fail(why),
                },
                Term::Agg {
                    var,
                    agg,
                    body,
                    outer,
                } => match self.nested(agg, body, outer, &mut b) {
                    Ok(Some(value)) if b.unify(*var, value.clone()) => {}
                    Ok(_) => return,
                    Err(why) => b.fail(why),
                },
            }
        }
        if !pending.is_empty() && b.errors.is_empty() {
            b.fail("a variable is not bound".to_owned());
        }
        // After a failure, what is unbound matches anything under `notin` too.
        if pending
            .iter()
            .any(|t| matches!(t, Term::Not(atom) if self.rows(atom, &b).next().is_some()))
        {
            return;
        }
        found(&b);
    }

    /// The next term: what only checks or computes, then the atom that looks smallest, then aggregates.
    fn pick(&self, pending: &[&Term], vars: &Vars) -> Option<usize> {
        let cost = |term: &Term| -> Option<usize> {
            match term {
                Term::Test(e) | Term::Assign(_, e) => ready(e, vars).then_some(0),
                Term::Not(atom) => {
                    let bound = |a: &Arg| !matches!(a, Arg::Var(v) if lookup(*v, vars).is_none());
                    atom.args.iter().all(bound).then_some(1)
                }
                Term::Unnest { list, .. } => ready(list, vars).then_some(2),
                Term::Atom(atom) => {
                    let fixed = atom
                        .args
                        .iter()
                        .filter(|a| fixed(a, vars).is_some())
                        .count();
                    Some(3 + (rel(self.world, atom.rel).rows.len() >> (2 * fixed).min(60)))
                }
                Term::Agg { outer, .. } => outer
                    .iter()
                    .all(|v| lookup(*v, vars).is_some())
                    .then_some(usize::MAX),
            }
        };
        let costs = pending
            .iter()
            .enumerate()
            .filter_map(|(i, t)| Some((cost(t)?, i)));
        costs.min().map(|(_, i)| i)
    }

    /// The binding extended by each matching row.
    fn rows(&self, atom: &Atom, b: &Binding) -> impl Iterator<Item = Binding> {
        let mut columns = Vec::new();
        let mut values = Vec::new();
        for (c, arg) in atom.args.iter().enumerate() {
            if let Some(v) = fixed(arg, &b.vars) {
                columns.push(c);
                values.push(v.clone());
            }
        }
        rel(self.world, atom.rel)
            .matching(&columns, &values)
            .into_iter()
            .filter_map(move |row| {
                let mut next = b.clone();
                let same = atom
                    .args
                    .iter()
                    .zip(row.iter())
                    .all(|(arg, value)| match arg {
                        Arg::Var(v) => next.unify(*v, value.clone()),
                        Arg::Const(_) | Arg::Any => true,
                    });
                same.then_some(next)
            })
    }

    fn elements(&self, list: &Expr, vars: &Vars) -> Result<Vec<Value>, String> {
        let value = eval(list, vars, self.functions)?;
        value
            .as_list()
            .map(<[Value]>::to_vec)
            .ok_or_else(|| format!("{value} is not a list"))
    }

    fn nested(
        &self,
        agg: &Aggregate,
        body: &[Term],
        outer: &[VarId],
        b: &mut Binding,
    ) -> Result<Option<Value>, String> {
        let mut start = Binding::new(b.vars.len());
        for v in outer {
            if let Some(value) = lookup(*v, &b.vars) {
                start.unify(*v, value.clone());
            }
        }
        let mut contributions = Vec::new();
        let mut notes = Vec::new();
        self.solve(body, start, &mut |inner| {
            notes.extend(inner.notes.iter().cloned());
            if !inner.errors.is_empty() {
                notes.extend(inner.errors.iter().cloned());
                return;
            }
            let args = agg
                .args
                .iter()
                .map(|e| eval(e, &inner.vars, self.functions));
            match args.collect::<Result<Vec<_>, _>>() {
                Ok(args) => contributions.push(args),
                Err(why) => notes.push(why),
            }
        });
        b.notes.extend(notes);
        aggregate(agg.op, &contributions)
    }
}

/// The value that the argument must have.
fn fixed<'a>(arg: &'a Arg, vars: &'a Vars) -> Option<&'a Value> {
    match arg {
        Arg::Const(v) => Some(v),
        Arg::Var(v) => lookup(*v, vars),
        Arg::Any => None,
    }
}
