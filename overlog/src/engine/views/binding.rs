//! Bindings of a body as packed values, one after the other in the order of a layout of slots, and what is done with
//! one of them: terms that need nothing else, keys and columns of joins.

use crate::engine::eval::{self, Slots};
use crate::engine::plan::IndexDef;
use crate::engine::spine::Diff;
use crate::engine::tables::Rows;
use crate::functions::{EvalError, Function};
use crate::ir::{Arg, Atom, Expr, RelId, Term, VarId};
use crate::packed::{self, Row};
use differential_dataflow::VecCollection;
use differential_dataflow::lattice::Lattice;
use std::collections::BTreeSet;
use timely::progress::Timestamp;

pub(super) fn run_local(
    term: &Term,
    slots: &Vec<&[u8]>,
    functions: &[Function],
    before: &[usize],
    after: &[usize],
    row: &Row,
    results: &mut Vec<Row>,
) -> Result<(), EvalError> {
    match term {
        Term::Test(e) => {
            let holds = eval::test(e, slots, functions)?;
            results.extend(holds.then(|| row.clone()));
        }
        Term::Assign(v, e) => {
            let mut value = Vec::new();
            eval::eval(e, slots, functions)?.write(&mut value);
            if before.len() < after.len() {
                results.push(concat(row.as_bytes(), &value));
            } else if slots.slot(slot(*v)) == value {
                results.push(row.clone());
            }
        }
        Term::Unnest { pos, item, list } => {
            let mut bytes = Vec::new();
            eval::eval(list, slots, functions)?.write(&mut bytes);
            if !packed::is_list(&bytes) {
                return Err(EvalError("unnesting what is no list".to_string()));
            }
            for (i, element) in packed::list_items(&bytes).enumerate() {
                let mut number = Vec::new();
                packed::pack_int(i64::try_from(i).unwrap_or(i64::MAX), &mut number);
                let mut out = row.as_bytes().to_vec();
                let mut matches = true;
                let given = [
                    (pos.map(slot), number.as_slice()),
                    (Some(slot(*item)), element),
                ];
                let mut fresh: Vec<(usize, &[u8])> = Vec::new();
                for (at, value) in given {
                    let Some(at) = at else { continue };
                    let earlier = fresh.iter().find(|(s, _)| *s == at).map(|(_, v)| *v);
                    if before.contains(&at) {
                        matches &= slots.slot(at) == value;
                    } else if let Some(earlier) = earlier {
                        matches &= earlier == value;
                    } else {
                        out.extend_from_slice(value);
                        fresh.push((at, value));
                    }
                }
                if matches {
                    results.push(Row::from_bytes(out));
                }
            }
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn pack_all(
    exprs: &[Expr],
    slots: &Vec<&[u8]>,
    functions: &[Function],
) -> Result<Row, EvalError> {
    let mut out = Vec::new();
    for e in exprs {
        eval::eval(e, slots, functions)?.write(&mut out);
    }
    Ok(Row::from_bytes(out))
}

/// Columns of the value part of a join that are bound by it, or checked against a column before.
pub(super) enum Fresh {
    Skip,
    Bind,
    /// Equal to the nth fresh one.
    Same(usize),
}

pub(super) fn fresh_columns(atom: &Atom, def: &IndexDef, layout: &mut Vec<usize>) -> Vec<Fresh> {
    let mut new: Vec<usize> = Vec::new();
    let columns = def
        .order
        .iter()
        .skip(def.key_columns)
        .map(|c| match atom.args.get(*c) {
            Some(Arg::Var(v)) => match new.iter().position(|s| *s == slot(*v)) {
                Some(at) => Fresh::Same(at),
                None => {
                    new.push(slot(*v));
                    Fresh::Bind
                }
            },
            _ => Fresh::Skip,
        })
        .collect();
    layout.extend(new);
    columns
}

pub(super) fn extend(binding: &[u8], val: &[u8], fresh: &[Fresh]) -> Option<Row> {
    let mut out = binding.to_vec();
    let mut bound: Vec<&[u8]> = Vec::new();
    let mut rest = val;
    for column in fresh {
        let (value, after) = packed::split_first(rest);
        rest = after;
        match column {
            Fresh::Skip => {}
            Fresh::Bind => {
                out.extend_from_slice(value);
                bound.push(value);
            }
            Fresh::Same(at) => {
                if bound.as_slice().get(*at).copied() != Some(value) {
                    return None;
                }
            }
        }
    }
    Some(Row::from_bytes(out))
}

pub(super) fn keyed<'scope, T: Timestamp + Lattice>(
    rows: Rows<'scope, T>,
    layout: &[usize],
    width: usize,
    atom: &Atom,
    def: &IndexDef,
) -> VecCollection<'scope, T, (Row, Row), Diff> {
    let layout = layout.to_vec();
    let key: Vec<Arg> = def
        .order
        .iter()
        .take(def.key_columns)
        .filter_map(|c| atom.args.get(*c).cloned())
        .collect();
    rows.map(move |row| {
        let slots = slots_of(row.as_bytes(), &layout, width);
        let mut out = Vec::new();
        for arg in &key {
            match arg {
                Arg::Var(v) => out.extend_from_slice(slots.slot(slot(*v))),
                Arg::Const(c) => packed::pack(c, &mut out),
                Arg::Any => {}
            }
        }
        (Row::from_bytes(out), row)
    })
}

pub(super) fn known_columns(atom: &Atom, layout: &[usize]) -> BTreeSet<usize> {
    atom.args
        .iter()
        .enumerate()
        .filter(|(_, a)| match a {
            Arg::Var(v) => layout.contains(&slot(*v)),
            Arg::Const(_) => true,
            Arg::Any => false,
        })
        .map(|(c, _)| c)
        .collect()
}

pub(super) fn key_first(rel: RelId, key: &[usize], columns: usize) -> IndexDef {
    let mut order = key.to_vec();
    order.extend((0..columns).filter(|c| !key.contains(c)));
    IndexDef {
        rel,
        order,
        key_columns: key.len(),
        unique_width: columns,
    }
}

pub(super) fn slots_of<'a>(row: &'a [u8], layout: &[usize], width: usize) -> Vec<&'a [u8]> {
    let mut slots: Vec<&[u8]> = vec![&[]; width];
    let mut rest = row;
    for at in layout {
        let (value, after) = packed::split_first(rest);
        if let Some(s) = slots.as_mut_slice().get_mut(*at) {
            *s = value;
        }
        rest = after;
    }
    slots
}

pub(super) fn project(row: &Row, layout: &[usize], width: usize, pick: &[usize]) -> Row {
    let slots = slots_of(row.as_bytes(), layout, width);
    Row::from_bytes(
        pick.iter()
            .map(|s| slots.slot(*s))
            .collect::<Vec<_>>()
            .concat(),
    )
}

pub(super) fn slot(v: VarId) -> usize {
    v.0 as usize
}

pub(super) fn var(slot: usize) -> VarId {
    VarId(u32::try_from(slot).unwrap_or(u32::MAX))
}

pub(super) fn add(layout: &mut Vec<usize>, slot: usize) {
    if !layout.contains(&slot) {
        layout.push(slot);
    }
}

pub(super) fn owned(bytes: &[u8]) -> Row {
    Row::from_bytes(bytes.to_vec())
}

pub(super) fn concat(a: &[u8], b: &[u8]) -> Row {
    Row::from_bytes([a, b].concat())
}
