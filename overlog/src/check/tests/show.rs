//! Writes a checked program as text, one line for each relation, rule, fact and watch.

use crate::ir::{
    Action, AggOp, Aggregate, Arg, Atom, Expr, HeadArg, Program, RelKind, Relation, Rule,
    TableClass, Term, UnaryOp, VarId,
};

/// Everything but the built-in relations.
pub(super) fn program(p: &Program) -> String {
    let mut out = String::new();
    for r in p.relations.iter().filter(|r| !r.name.starts_with("sys_")) {
        out.push_str(&relation(p, r));
    }
    for r in &p.rules {
        out.push_str(&rule(p, r));
    }
    for f in &p.facts {
        out.push_str(&format!("fact {}{:?}\n", p.relation(f.rel).name, f.row));
    }
    for w in &p.watches {
        out.push_str(&format!("watch {} {:?}\n", p.relation(w.rel).name, w.flags));
    }
    out
}

fn relation(p: &Program, r: &Relation) -> String {
    let kind = match &r.kind {
        RelKind::Table(TableClass::Local) => "table".to_owned(),
        RelKind::Table(TableClass::Volatile) => "volatile table".to_owned(),
        RelKind::Table(TableClass::Replicated { by }) => {
            format!("table by {}", p.relation(*by).name)
        }
        RelKind::View { kept, invariant } => {
            format!(
                "{}{}",
                if *kept { "kept " } else { "lazy " },
                if *invariant { "invariant" } else { "view" }
            )
        }
        RelKind::Event { timer_ns: Some(ns) } => format!("timer of {ns}"),
        RelKind::Event { timer_ns: None } => "event".to_owned(),
        RelKind::Edge { .. } => "edge".to_owned(),
        RelKind::Tick => "tick".to_owned(),
    };
    let columns: Vec<String> = r
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let at = if r.location == Some(i) { "@" } else { "" };
            let key = if r.keys.contains(&i) { "*" } else { "" };
            let lattice = c
                .lattice
                .map_or_else(String::new, |l| format!("{l:?} ").to_lowercase());
            format!("{at}{}{key}: {lattice}{}", c.name, c.ty.name())
        })
        .collect();
    format!("{kind} {}({})\n", r.name, columns.join(", "))
}

/// A rule.
pub(super) fn rule(p: &Program, r: &Rule) -> String {
    let head = p
        .relations
        .get(r.head.rel.0 as usize)
        .map_or("?", |h| h.name.as_str());
    let action = match r.head.action {
        Action::Derive => "derive",
        Action::Emit => "emit",
        Action::Next => "next",
        Action::Send => "send",
        Action::Insert => "insert",
        Action::Delete => "delete",
        Action::Update => "update",
    };
    let args: Vec<String> = r
        .head
        .args
        .iter()
        .map(|a| match a {
            HeadArg::Expr(e) => expr(p, r, e),
            HeadArg::Agg(a) => agg(p, r, a),
            HeadArg::Any => "_".to_owned(),
            HeadArg::Add(e) => format!("+= {}", expr(p, r, e)),
        })
        .collect();
    let types: Vec<String> = r
        .vars
        .iter()
        .map(|v| format!("{}: {}", v.name, v.ty.name()))
        .collect();
    format!(
        "{}: {action} {head}({}) :- {} | {}\n",
        r.name,
        args.join(", "),
        terms(p, r, &r.body),
        types.join(", ")
    )
}

fn terms(p: &Program, r: &Rule, body: &[Term]) -> String {
    body.iter()
        .map(|t| term(p, r, t))
        .collect::<Vec<_>>()
        .join(", ")
}

fn term(p: &Program, r: &Rule, t: &Term) -> String {
    match t {
        Term::Atom(a) => atom(p, r, a),
        Term::Not(a) => format!("notin {}", atom(p, r, a)),
        Term::Test(e) => expr(p, r, e),
        Term::Assign(v, e) => format!("{} := {}", var(r, *v), expr(p, r, e)),
        Term::Unnest { pos, item, list } => {
            let pos = pos.map_or_else(String::new, |v| format!("{}, ", var(r, v)));
            format!("{pos}{} in {}", var(r, *item), expr(p, r, list))
        }
        Term::Agg {
            var: v,
            agg: a,
            body,
            outer,
        } => {
            let outer: Vec<String> = outer.iter().map(|v| var(r, *v)).collect();
            format!(
                "{} := {} by [{}] {{ {} }}",
                var(r, *v),
                agg(p, r, a),
                outer.join(" "),
                terms(p, r, body)
            )
        }
    }
}

fn atom(p: &Program, r: &Rule, a: &Atom) -> String {
    let args: Vec<String> = a
        .args
        .iter()
        .map(|arg| match arg {
            Arg::Var(v) => var(r, *v),
            Arg::Const(c) => c.to_string(),
            Arg::Any => "_".to_owned(),
        })
        .collect();
    format!("{}({})", p.relation(a.rel).name, args.join(", "))
}

fn agg(p: &Program, r: &Rule, a: &Aggregate) -> String {
    let args: Vec<String> = a.args.iter().map(|e| expr(p, r, e)).collect();
    let args = if a.op == AggOp::CountAll {
        "*".to_owned()
    } else {
        args.join(", ")
    };
    format!("{:?}<{args}>", a.op)
}

fn var(r: &Rule, v: VarId) -> String {
    let name = &r.vars[v.0 as usize].name;
    // Two variables of one name are told apart by their number.
    let same = r.vars.iter().filter(|other| other.name == *name).count() > 1;
    if same {
        format!("{name}.{}", v.0)
    } else {
        name.clone()
    }
}

fn expr(p: &Program, r: &Rule, e: &Expr) -> String {
    let list = |items: &[Expr]| {
        items
            .iter()
            .map(|x| expr(p, r, x))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match e {
        Expr::Const(c) => c.value().to_string(),
        Expr::Var(v) => var(r, *v),
        Expr::Unary(UnaryOp::Not, x) => format!("!{}", expr(p, r, x)),
        Expr::Unary(UnaryOp::Neg, x) => format!("-{}", expr(p, r, x)),
        Expr::Binary(op, x, y) => format!(
            "({} {} {})",
            expr(p, r, x),
            crate::expr::symbol(*op),
            expr(p, r, y)
        ),
        Expr::Cond(c, x, y) => format!(
            "({} ? {} : {})",
            expr(p, r, c),
            expr(p, r, x),
            expr(p, r, y)
        ),
        Expr::List(items) => format!("[{}]", list(items)),
        Expr::Index(l, i) => format!("{}[{}]", expr(p, r, l), expr(p, r, i)),
        Expr::Call(f, args) => format!("{}({})", p.functions[f.0 as usize].name, list(args)),
    }
}
