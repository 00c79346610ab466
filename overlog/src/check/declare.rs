//! Declarations: relations, their columns, keys and locations.

use super::{Checker, Dialect, Info};
use crate::ast::{self, Decl, DeclKind, Ident, Item, Key, Modifier, Term};
use crate::diag::{Diagnostic, code};
use crate::ir::{Column, RelId, RelKind, Relation, Span, TableClass, Type, Watch};
use crate::parser::{STATEMENTS, WORDS};
use std::collections::{BTreeMap, BTreeSet};

/// The built-in relations, in the order that the engine knows.
const SYSTEM: &[(&str, &[(&str, Type)])] = &[
    (
        "sys_tick",
        &[
            ("Tick", Type::Int),
            ("Wall", Type::Int),
            ("Mono", Type::Int),
        ],
    ),
    ("sys_start", &[("Now", Type::Int), ("New", Type::Bool)]),
    ("sys_error", &[("Rule", Type::Str), ("Message", Type::Str)]),
    (
        "sys_conflict",
        &[
            ("Table", Type::Str),
            ("Winner", Type::List),
            ("Loser", Type::List),
        ],
    ),
    (
        "sys_violation",
        &[("Invariant", Type::Str), ("Row", Type::List)],
    ),
];

impl Checker<'_> {
    pub(super) fn declare_system(&mut self) {
        for (name, columns) in SYSTEM {
            let column = |(name, ty): &(&str, Type)| Column {
                name: (*name).to_owned(),
                ty: *ty,
                lattice: None,
            };
            let columns: Vec<Column> = columns.iter().map(column).collect();
            let kind = if *name == "sys_tick" {
                RelKind::Tick
            } else {
                RelKind::Event { timer_ns: None }
            };
            let keys = (0..columns.len()).collect();
            let span = Span::default();
            let relation = Relation {
                name: (*name).to_owned(),
                kind,
                columns,
                keys,
                location: None,
                eager: false,
                span,
            };
            self.add_relation(
                relation,
                Info {
                    read_only: true,
                    ..Info::default()
                },
            );
        }
    }

    pub(super) fn declare_all(&mut self, items: &[Item]) {
        let marks = location_marks(items);
        let views = self.derived_originals(items);
        let mut by = Vec::new();
        for item in items {
            let Item::Relation(decl) = item else { continue };
            let Some(id) = self.declare(decl, &views, &marks) else {
                continue;
            };
            if let Some(event) = &decl.replicated_by {
                by.push((id, event));
            }
        }
        self.spread_addresses(items);
        for item in items {
            if let Item::Invariant {
                name,
                args,
                body,
                span,
            } = item
            {
                self.declare_invariant(name, args, body, span);
            }
        }
        for (id, event) in by {
            self.replicated_by(id, event);
        }
    }

    /// False, with a report, if the name cannot be declared.
    fn may_declare(&mut self, name: &Ident) -> bool {
        let text = name.text.as_str();
        let reserved = STATEMENTS.contains(&text) || WORDS.contains(&text) || text == "_";
        if reserved || text.starts_with("sys_") {
            let hint = if reserved {
                "it is a word of the language"
            } else {
                "names that begin with sys_ are the system's"
            };
            self.hinted(
                code::RESERVED,
                &name.span,
                format!("{text} is reserved"),
                hint,
            );
            return false;
        }
        let Some(id) = self.names.get(text) else {
            return true;
        };
        let first = self.relation(*id).span.clone();
        let place = self.program.sources.get(first.source as usize).map(|s| {
            let before = s.text.get(..first.range.start).unwrap_or_default();
            format!(
                "the first declaration is at {}:{}",
                s.name,
                before.matches('\n').count() + 1
            )
        });
        let mut diag = Diagnostic::error(
            code::DUPLICATE,
            &name.span,
            format!("{text} is declared twice"),
        );
        diag.hint = place;
        self.report(diag);
        false
    }

    fn declare(
        &mut self,
        decl: &Decl,
        views: &BTreeSet<String>,
        marks: &Marks<'_>,
    ) -> Option<RelId> {
        if !self.may_declare(&decl.name) {
            return None;
        }
        let name = decl.name.text.clone();
        let mut columns: Vec<Column> = Vec::new();
        for c in &decl.columns {
            if columns.iter().any(|other| other.name == c.name.text) {
                self.error(
                    code::DUPLICATE_COLUMN,
                    &c.name.span,
                    format!("{name} has two columns {}", c.name.text),
                );
            }
            columns.push(Column {
                name: c.name.text.clone(),
                ty: c.ty,
                lattice: c.lattice,
            });
        }
        let kind = self.kind(decl, views);
        let location = self.location(decl, &mut columns, marks);
        let keys = self.key_columns(decl, &columns);
        if columns.iter().any(|c| c.lattice.is_some()) {
            self.lattice_rule(decl, &columns, &keys, &kind);
        }
        let flag = |word: &str| decl.flags.iter().any(|f| f.text == word);
        let info = Info {
            original: decl.original,
            kept: flag("kept"),
            lazy: flag("lazy"),
            keyed: decl.keys.is_some(),
            read_only: matches!(decl.kind, DeclKind::Timer(_)),
        };
        let relation = Relation {
            name,
            kind,
            columns,
            keys,
            location,
            eager: decl.flags.iter().any(|f| f.text == "eager"),
            span: decl.name.span.clone(),
        };
        Some(self.add_relation(relation, info))
    }

    fn kind(&mut self, decl: &Decl, views: &BTreeSet<String>) -> RelKind {
        let view = RelKind::View {
            kept: false,
            invariant: false,
        };
        let event = RelKind::Event { timer_ns: None };
        let mut class = TableClass::Local;
        let allowed: &[&str] = match decl.kind {
            DeclKind::Table => &["volatile"],
            DeclKind::View => &["kept", "lazy"],
            DeclKind::Event => &["eager"],
            DeclKind::Timer(_) | DeclKind::Define => &[],
        };
        for flag in &decl.flags {
            if !allowed.contains(&flag.text.as_str()) {
                let message = format!("`{}` does not apply to this kind of relation", flag.text);
                let hint =
                    "volatile is for tables, kept and lazy are for views, eager is for events";
                self.hinted(code::BAD_MODIFIERS, &flag.span, message, hint);
            }
            if flag.text == "volatile" {
                class = TableClass::Volatile;
            }
        }
        let has = |word: &str| decl.flags.iter().any(|f| f.text == word);
        if has("kept") && has("lazy") {
            self.error(
                code::BAD_MODIFIERS,
                &decl.name.span,
                format!("{} cannot be both kept and lazy", decl.name.text),
            );
        }
        if let Some(by) = &decl.replicated_by {
            if decl.kind != DeclKind::Table {
                self.error(code::BAD_MODIFIERS, &by.span, "only tables are replicated");
            } else if class == TableClass::Volatile {
                self.error(
                    code::BAD_MODIFIERS,
                    &by.span,
                    format!("{} cannot be both volatile and replicated", decl.name.text),
                );
            }
        }
        if let (DeclKind::Event, Some(_), false) = (&decl.kind, &decl.keys, decl.original) {
            let message = format!(
                "{} is an event: events are sets and have no keys",
                decl.name.text
            );
            self.error(code::BAD_MODIFIERS, &decl.name.span, message);
        }
        match decl.kind {
            DeclKind::Table => RelKind::Table(class),
            DeclKind::View => view,
            DeclKind::Event => event,
            DeclKind::Timer(ns) => RelKind::Event { timer_ns: Some(ns) },
            DeclKind::Define if self.options.dialect == Dialect::Jol && decl.keys.is_none() => {
                event
            }
            DeclKind::Define if views.contains(&decl.name.text) => view,
            DeclKind::Define => RelKind::Table(TableClass::Local),
        }
    }

    /// The location column: marked in the declaration, or for the original forms in atoms.
    fn location(
        &mut self,
        decl: &Decl,
        columns: &mut [Column],
        marks: &Marks<'_>,
    ) -> Option<usize> {
        let declared: Vec<usize> = decl
            .columns
            .iter()
            .enumerate()
            .filter(|(_, c)| c.location)
            .map(|(i, _)| i)
            .collect();
        if let [_, second, ..] = declared.as_slice() {
            let span = decl
                .columns
                .get(*second)
                .map_or_else(Span::default, |c| c.name.span.clone());
            self.error(
                code::BAD_LOCATION,
                &span,
                format!("{} has two location columns", decl.name.text),
            );
        }
        let marked = marks.get(decl.name.text.as_str()).filter(|_| decl.original);
        let at = declared
            .first()
            .copied()
            .or_else(|| marked.and_then(|m| m.first().map(|(at, _)| *at)));
        for (other, span) in marked.into_iter().flatten() {
            if Some(*other) != at {
                let message = format!("`@` marks two different columns of {}", decl.name.text);
                self.error(code::BAD_LOCATION, span, message);
            }
        }
        let at = at.filter(|at| *at < columns.len())?;
        let column = columns.get_mut(at)?;
        match column.ty {
            Type::Addr | Type::Any => {}
            // Before there were addresses, locations were strings.
            Type::Str if decl.original => column.ty = Type::Addr,
            ty => {
                let span = decl
                    .columns
                    .get(at)
                    .map_or_else(Span::default, |c| c.name.span.clone());
                let message = format!(
                    "the location column {} is {}, not addr",
                    column.name,
                    ty.name()
                );
                self.report(
                    Diagnostic::error(code::BAD_LOCATION, &span, message)
                        .hint("declare it @Name: addr"),
                );
            }
        }
        Some(at)
    }

    fn key_columns(&mut self, decl: &Decl, columns: &[Column]) -> Vec<usize> {
        let Some(keys) = &decl.keys else {
            // What does not merge identifies the row.
            return columns
                .iter()
                .enumerate()
                .filter(|(_, c)| c.lattice.is_none())
                .map(|(i, _)| i)
                .collect();
        };
        let mut out = Vec::new();
        for key in keys {
            let (at, span, shown) = match key {
                Key::Name(name) => (
                    columns.iter().position(|c| c.name == name.text),
                    &name.span,
                    name.text.clone(),
                ),
                Key::Position(at, span) => {
                    let at = usize::try_from(*at).ok();
                    (
                        at.filter(|at| *at < columns.len()),
                        span,
                        at.map_or_else(String::new, |a| a.to_string()),
                    )
                }
            };
            match at {
                None => {
                    let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                    let message = format!("{} has no column {shown}", decl.name.text);
                    let hint = format!("its columns are {}", names.join(", "));
                    self.hinted(code::BAD_KEY, span, message, hint);
                }
                Some(at) if out.contains(&at) => {
                    self.error(
                        code::BAD_KEY,
                        span,
                        format!("key column {shown} is named twice"),
                    );
                }
                Some(at) => out.push(at),
            }
        }
        out.sort_unstable();
        out
    }

    fn lattice_rule(&mut self, decl: &Decl, columns: &[Column], keys: &[usize], kind: &RelKind) {
        for (at, column) in columns.iter().enumerate() {
            let span = decl
                .columns
                .get(at)
                .map_or_else(Span::default, |c| c.name.span.clone());
            match (column.lattice.is_some(), keys.contains(&at)) {
                (true, _) if matches!(kind, RelKind::Event { .. }) => {
                    self.error(
                        code::BAD_LATTICE,
                        &span,
                        format!("{} is an event: its rows do not merge", decl.name.text),
                    );
                }
                (true, true) => {
                    let message = format!("column {} merges, so it cannot be a key", column.name);
                    self.error(code::LATTICE_COLUMNS, &span, message);
                }
                (false, false) => {
                    let message = format!(
                        "beside a lattice column, {} must be a key or a lattice too",
                        column.name
                    );
                    let hint = "make what belongs together one column, a list: max<list>";
                    self.hinted(code::LATTICE_COLUMNS, &span, message, hint);
                }
                _ => {}
            }
        }
    }

    fn replicated_by(&mut self, table: RelId, event: &Ident) {
        let Some(by) = self.resolve_name(event) else {
            return;
        };
        let relation = self.relation(by);
        if matches!(relation.kind, RelKind::Event { timer_ns: None }) && !self.info(by).read_only {
            if let Some(relation) = self.relation_mut(table) {
                relation.kind = RelKind::Table(TableClass::Replicated { by });
            }
        } else {
            let message = format!("{} is no event that a log can give", event.text);
            self.hinted(
                code::BAD_REPLICATED_BY,
                &event.span,
                message,
                "declare it with event",
            );
        }
    }

    fn declare_invariant(&mut self, name: &Ident, args: &[ast::Arg], body: &[Term], span: &Span) {
        if !self.may_declare(name) {
            return;
        }
        let mut columns: Vec<Column> = Vec::new();
        for (at, arg) in args.iter().enumerate() {
            let named = match (&arg.name, &arg.value) {
                (Some(name), _) => Some(name.text.clone()),
                (
                    None,
                    ast::ArgValue::Expr(ast::Expr {
                        kind: ast::ExprKind::Var(name),
                        ..
                    }),
                ) => Some(name.clone()),
                _ => None,
            };
            let fresh = named.filter(|n| columns.iter().all(|c| c.name != *n));
            let name = fresh.unwrap_or_else(|| format!("c{at}"));
            columns.push(Column {
                name,
                ty: Type::Any,
                lattice: None,
            });
        }
        let kind = if self.reads_event(body) {
            RelKind::Event { timer_ns: None }
        } else {
            RelKind::View {
                kept: true,
                invariant: true,
            }
        };
        let keys = (0..columns.len()).collect();
        let span = Span {
            range: name.span.range.clone(),
            ..span.clone()
        };
        let relation = Relation {
            name: name.text.clone(),
            kind,
            columns,
            keys,
            location: None,
            eager: false,
            span,
        };
        self.add_relation(
            relation,
            Info {
                read_only: true,
                kept: true,
                ..Info::default()
            },
        );
    }

    /// A positive event among the terms?
    pub(super) fn reads_event(&self, body: &[Term]) -> bool {
        body.iter().any(|term| match term {
            Term::Atom(atom) => {
                let known = self.names.get(&atom.rel.text);
                atom.edge.is_some() || known.is_some_and(|id| self.relation(*id).is_event())
            }
            _ => false,
        })
    }

    /// The names that `define` declares and that an event-free rule of this node derives: they are views.
    fn derived_originals(&self, items: &[Item]) -> BTreeSet<String> {
        let mut events = BTreeSet::new();
        let mut defined = BTreeSet::new();
        for item in items {
            let Item::Relation(decl) = item else { continue };
            let jol_event = self.options.dialect == Dialect::Jol && decl.keys.is_none();
            match decl.kind {
                DeclKind::Event | DeclKind::Timer(_) => events.insert(decl.name.text.as_str()),
                DeclKind::Define if jol_event => events.insert(decl.name.text.as_str()),
                DeclKind::Define => defined.insert(decl.name.text.as_str()),
                _ => continue,
            };
        }
        events.extend(SYSTEM.iter().map(|(name, _)| *name));
        let is_event = |term: &Term| match term {
            Term::Atom(a) | Term::Not(a) => {
                a.edge.is_some() || events.contains(a.rel.text.as_str())
            }
            _ => false,
        };
        let mut views = BTreeSet::new();
        for item in items {
            let Item::Rule(rule) = item else { continue };
            let name = rule.head.rel.text.as_str();
            let local = rule.modifier == Modifier::None && !leaves_node(rule);
            if defined.contains(name) && local && !rule.body.iter().any(is_event) {
                views.insert(name.to_owned());
            }
        }
        views
    }

    /// The original programs keep addresses in strings. A string column of theirs is one of addresses if a variable
    /// joins it with one.
    fn spread_addresses(&mut self, items: &[Item]) {
        let groups: Vec<Vec<(RelId, usize)>> = items
            .iter()
            .flat_map(|item| self.joined_columns(item))
            .collect();
        loop {
            let mut changed = false;
            for group in &groups {
                let ty =
                    |(rel, at): &(RelId, usize)| self.relation(*rel).columns.get(*at).map(|c| c.ty);
                if !group.iter().any(|place| ty(place) == Some(Type::Addr)) {
                    continue;
                }
                for (rel, at) in group {
                    let original = self.info(*rel).original;
                    let column = self.relation_mut(*rel).and_then(|r| r.columns.get_mut(*at));
                    if let Some(column) = column.filter(|c| original && c.ty == Type::Str) {
                        column.ty = Type::Addr;
                        changed = true;
                    }
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// For each variable of a rule the columns where it stands, by position.
    fn joined_columns(&self, item: &Item) -> Vec<Vec<(RelId, usize)>> {
        let Item::Rule(rule) = item else {
            return Vec::new();
        };
        let mut atoms = Vec::from([&rule.head]);
        let mut todo: Vec<&Term> = rule.body.iter().collect();
        while let Some(term) = todo.pop() {
            match term {
                Term::Atom(atom) | Term::Not(atom) => atoms.push(atom),
                Term::Agg { body, .. } => todo.extend(body),
                _ => {}
            }
        }
        let mut groups: BTreeMap<&str, Vec<(RelId, usize)>> = BTreeMap::new();
        for atom in atoms {
            let Some(rel) = self.names.get(&atom.rel.text) else {
                continue;
            };
            for (at, arg) in atom
                .args
                .iter()
                .enumerate()
                .filter(|(_, a)| a.name.is_none())
            {
                if let ast::ArgValue::Expr(ast::Expr {
                    kind: ast::ExprKind::Var(name),
                    ..
                }) = &arg.value
                {
                    groups.entry(name).or_default().push((*rel, at));
                }
            }
        }
        groups.into_values().filter(|g| g.len() > 1).collect()
    }

    pub(super) fn watch(&mut self, name: &Ident, flags: Option<&Ident>) {
        let base = name.text.split('#').next().unwrap_or_default().to_owned();
        let Some(mut rel) = self.resolve_name(&Ident {
            text: base,
            span: name.span.clone(),
        }) else {
            return;
        };
        if let Some((_, edge)) = name.text.split_once('#') {
            let Some(id) = self.edge(rel, edge == "insert", &name.span) else {
                return;
            };
            rel = id;
        }
        let mut out = String::new();
        for c in flags.map_or("", |f| f.text.as_str()).chars() {
            // JOL wrote e (erase) for a row that another replaced.
            let c = if c == 'e' { 'd' } else { c };
            if !"adisr".contains(c) {
                let span = flags.map_or(&name.span, |f| &f.span);
                let hint = "flags are a (add), d (delete), i (insert into a rule), s (send) and r (receive)";
                self.report(
                    Diagnostic::error(code::BAD_WATCH, span, format!("unknown watch flag `{c}`"))
                        .hint(hint),
                );
            } else if !out.contains(c) {
                out.push(c);
            }
        }
        self.program.watches.push(Watch { rel, flags: out });
    }
}

/// Where `@` stands in the atoms of each relation.
type Marks<'s> = BTreeMap<&'s str, Vec<(usize, Span)>>;

fn location_marks(items: &[Item]) -> Marks<'_> {
    let mut marks = Marks::new();
    let mut todo: Vec<&Term> = Vec::new();
    let mut atoms: Vec<&ast::Atom> = Vec::new();
    for item in items {
        match item {
            Item::Rule(rule) => {
                atoms.push(&rule.head);
                todo.extend(&rule.body);
            }
            Item::Invariant { body, .. } => todo.extend(body),
            Item::Fact(atom) => atoms.push(atom),
            _ => {}
        }
    }
    while let Some(term) = todo.pop() {
        match term {
            Term::Atom(atom) | Term::Not(atom) => atoms.push(atom),
            Term::Agg { body, .. } => todo.extend(body),
            _ => {}
        }
    }
    for atom in atoms {
        for (at, arg) in atom
            .args
            .iter()
            .enumerate()
            .filter(|(_, arg)| arg.at && arg.name.is_none())
        {
            let of: &mut Vec<(usize, Span)> = marks.entry(atom.rel.text.as_str()).or_default();
            if of.iter().all(|(other, _)| *other != at) {
                of.push((at, arg.span.clone()));
            }
        }
    }
    marks
}

/// Is the location of the head another than that of the body, by the `@` marks?
fn leaves_node(rule: &ast::Rule) -> bool {
    fn location(atom: &ast::Atom) -> Option<&str> {
        let arg = atom.args.iter().find(|a| a.at)?;
        match &arg.value {
            ast::ArgValue::Expr(ast::Expr {
                kind: ast::ExprKind::Var(name),
                ..
            }) => Some(name),
            _ => Some(""),
        }
    }
    let Some(head) = location(&rule.head) else {
        return false;
    };
    let mut body = rule.body.iter().filter_map(|term| match term {
        Term::Atom(atom) | Term::Not(atom) => location(atom),
        _ => None,
    });
    body.next() != Some(head)
}
