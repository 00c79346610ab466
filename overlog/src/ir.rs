//! The checked program: names resolved, types known, sugar gone. The planner, the engine and the
//! oracle all read this and nothing else.

use crate::functions::Function;
use crate::packed;
use crate::value::Value;
use std::ops::Range;
use std::sync::Arc;

/// Index of a relation in [`Program::relations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelId(pub u32);

/// Index of a rule in [`Program::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// Index of a variable in [`Rule::vars`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarId(pub u32);

/// Index of a function in [`Program::functions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FnId(pub u32);

/// A checked program.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// All relations, the built-in ones (`sys_tick`, `sys_start`, `sys_error`, `sys_conflict`, `sys_violation`) first.
    pub relations: Vec<Relation>,
    /// All rules. A rule `e(X) :- body` whose body has no event and whose head is an event is already
    /// split into a hidden kept view and a rule on that view's `#insert` edge.
    pub rules: Vec<Rule>,
    /// Facts, in the order of the source; expressions are evaluated.
    pub facts: Vec<Fact>,
    /// `watch` declarations.
    pub watches: Vec<Watch>,
    /// The functions that rules call.
    pub functions: Vec<Function>,
    /// The sources, for diagnostics and `why`.
    pub sources: Vec<Source>,
}

/// A source text.
#[derive(Clone, Debug)]
pub struct Source {
    /// File name or the name that the host registered.
    pub name: String,
    /// The text.
    pub text: String,
}

/// A place in a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Index into [`Program::sources`].
    pub source: u32,
    /// Byte range in its text.
    pub range: Range<usize>,
}

/// A declared relation.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its name. Edges are named `t#insert` and `t#delete`; hidden views start with `$`.
    pub name: String,
    /// What it is.
    pub kind: RelKind,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Key columns, ascending. All columns where none were declared; empty for `keys()`.
    pub keys: Vec<usize>,
    /// The location column of a located event or relation.
    pub location: Option<usize>,
    /// A message that may leave before what its run and those before it changed is stored.
    pub eager: bool,
    /// Where it was declared.
    pub span: Span,
}

/// What a relation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelKind {
    /// Stored rows.
    Table(TableClass),
    /// Derived rows.
    View {
        /// Kept up to date, or evaluated on demand. Decided by the checker from `kept`, `lazy` and from who reads it.
        kept: bool,
        /// An `invariant`: a violation per row.
        invariant: bool,
    },
    /// Rows of one tick.
    Event {
        /// Period of a `timer`, ns; its one column is the wall time in ns.
        timer_ns: Option<i64>,
    },
    /// `t#insert` or `t#delete`: rows of table or view `of` that came or went at the end of the last tick. Read-only.
    Edge {
        /// The table or kept view.
        of: RelId,
        /// Insertions, or else deletions.
        insert: bool,
    },
    /// `sys_tick(Tick, Wall, Mono)`: one row in each tick; triggers nothing.
    Tick,
}

/// How long a table's rows last and who may change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableClass {
    /// This node's own, durable.
    Local,
    /// In memory only.
    Volatile,
    /// Durable; changed only by the event `by`, events derived from it and replicated state.
    Replicated {
        /// The event.
        by: RelId,
    },
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name; generated (`c0`, `c1`, ...) where the original forms give none.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Merge instead of replace.
    pub lattice: Option<Lattice>,
}

/// The type of a column or variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Type {
    Bool,
    Int,
    Float,
    Str,
    Bytes,
    Addr,
    List,
    Any,
}

/// How a lattice column merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lattice {
    /// The greater value.
    Max,
    /// The lesser value.
    Min,
    /// Logical or.
    Or,
    /// Logical and.
    And,
    /// Union of sorted lists without repeats.
    Set,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name; generated (`head_3`) where the source gives none.
    pub name: String,
    /// Its head.
    pub head: Head,
    /// Its terms, in the order of the source. The order never matters for the meaning.
    pub body: Vec<Term>,
    /// Its variables, those of nested bodies included (a nested body shares what is bound outside).
    pub vars: Vec<Var>,
    /// Where it stands.
    pub span: Span,
}

/// A variable of a rule.
#[derive(Clone, Debug)]
pub struct Var {
    /// Its name; `_` and variables made by the checker have a name that starts with `_`.
    pub name: String,
    /// Its type, `Any` where it is not known.
    pub ty: Type,
}

/// A rule's head.
#[derive(Clone, Debug)]
pub struct Head {
    /// The relation.
    pub rel: RelId,
    /// What is done with it.
    pub action: Action,
    /// One for each column.
    pub args: Vec<HeadArg>,
}

/// What a rule's head does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A row of a view.
    Derive,
    /// An event of this tick.
    Emit,
    /// An event of the next tick.
    Next,
    /// A message to the node in the location column: an event of a later tick there.
    Send,
    /// A row of a table, at the end of the tick.
    Insert,
    /// Deletes matching rows of a table at the end of the tick. Wildcards are allowed.
    Delete,
    /// Changes columns of the stored row with the key.
    Update,
}

/// One column of a head.
#[derive(Clone, Debug)]
pub enum HeadArg {
    /// A value. With aggregates in the head these are the group.
    Expr(Expr),
    /// An aggregate.
    Agg(Aggregate),
    /// `_` in a `delete`: any value. In an `update`: the column stays as it is.
    Any,
    /// `+=` of an `update`: all contributions of a tick are added up.
    Add(Expr),
}

/// An aggregate.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// Which.
    pub op: AggOp,
    /// Its arguments: none for `count<*>`; two for `argmin`, `argmax`, `top`, `least` (N, X); else one.
    pub args: Vec<Expr>,
}

/// An aggregate function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggOp {
    /// `count<*>`: one for each distinct combination of body rows.
    CountAll,
    /// `count<X>`: distinct values.
    Count,
    /// One contribution from each distinct combination of body rows.
    Sum,
    /// Mean as a float; one contribution from each distinct combination of body rows.
    Avg,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// Sorted; one contribution from each distinct combination of body rows.
    List,
    /// Sorted, without repeats.
    Set,
    /// The least value.
    Any,
    /// Least Y of the least X.
    ArgMin,
    /// Greatest Y of the greatest X.
    ArgMax,
    /// The N greatest X, ascending, without repeats.
    Top,
    /// The N least X, ascending, without repeats.
    Least,
}

/// A term of a body.
#[derive(Clone, Debug)]
pub enum Term {
    /// A row of a relation.
    Atom(Atom),
    /// `notin`: no such row. A variable that occurs nowhere else is existential and is already `Arg::Any`.
    Not(Atom),
    /// A condition.
    Test(Expr),
    /// `V := expr`. If V is bound elsewhere it must be equal. An expression as an argument of an atom is
    /// lowered to a fresh variable and this.
    Assign(VarId, Expr),
    /// `I, X in L`: each element of the list with its position from 0.
    Unnest {
        /// The position.
        pos: Option<VarId>,
        /// The element; must be equal if bound elsewhere.
        item: VarId,
        /// The list.
        list: Expr,
    },
    /// `N := agg { body }`, for each binding of what is bound outside.
    Agg {
        /// The result.
        var: VarId,
        /// The aggregate.
        agg: Aggregate,
        /// The nested body. Its variables that also occur outside (in a positive term or `:=`) are shared; others are local.
        body: Vec<Term>,
        /// The shared variables: they must be bound before this is evaluated.
        outer: Vec<VarId>,
    },
}

/// A relation with arguments.
#[derive(Clone, Debug)]
pub struct Atom {
    /// The relation.
    pub rel: RelId,
    /// One for each column.
    pub args: Vec<Arg>,
    /// Where it stands.
    pub span: Span,
}

/// An argument of an atom.
#[derive(Clone, Debug)]
pub enum Arg {
    /// A variable.
    Var(VarId),
    /// A constant.
    Const(Value),
    /// `_`.
    Any,
}

/// A constant of an expression, packed once and for all.
#[derive(Clone, Debug)]
pub struct Constant {
    value: Value,
    packed: Arc<[u8]>,
}

impl Constant {
    /// Its value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Its packed bytes.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }
}

impl From<Value> for Constant {
    fn from(value: Value) -> Constant {
        let mut packed = Vec::new();
        packed::pack(&value, &mut packed);
        Constant {
            value,
            packed: packed.into(),
        }
    }
}

/// An expression.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A constant.
    Const(Constant),
    /// A variable.
    Var(VarId),
    /// `!x`, `-x`.
    Unary(UnaryOp, Box<Expr>),
    /// `x op y`. `&&` and `||` evaluate the right side only if needed.
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `c ? a : b`.
    Cond(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `[a, b, c]`.
    List(Vec<Expr>),
    /// `l[i]`: an element of a list, from 0; outside it is an error.
    Index(Box<Expr>, Box<Expr>),
    /// A call.
    Call(FnId, Vec<Expr>),
}

/// An operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UnaryOp {
    Not,
    Neg,
}

/// An operator. Comparisons use the total order of values; `Add` is for ints, floats, strings and lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
}

/// A fact: an insertion made once per store (of a volatile table: at every start).
#[derive(Clone, Debug)]
pub struct Fact {
    /// The table, or the event or view (a view's facts are stored beside what is derived).
    pub rel: RelId,
    /// The row.
    pub row: Vec<Value>,
}

/// A `watch(rel, flags)`.
#[derive(Clone, Debug)]
pub struct Watch {
    /// The relation.
    pub rel: RelId,
    /// Which of a d i s r; all where none are given.
    pub flags: String,
}

impl Program {
    /// The relation with this id.
    pub fn relation(&self, id: RelId) -> &Relation {
        #[allow(clippy::indexing_slicing)] // ids come from the checker that built the table
        &self.relations[id.0 as usize]
    }

    /// Finds a relation by name.
    pub fn find(&self, name: &str) -> Option<RelId> {
        let at = self.relations.iter().position(|r| r.name == name)?;
        u32::try_from(at).ok().map(RelId)
    }
}

impl Relation {
    /// Rows last for one tick only.
    pub fn is_event(&self) -> bool {
        matches!(self.kind, RelKind::Event { .. } | RelKind::Edge { .. })
    }

    /// Rows are stored.
    pub fn is_table(&self) -> bool {
        matches!(self.kind, RelKind::Table(_))
    }

    /// Rows are derived.
    pub fn is_view(&self) -> bool {
        matches!(self.kind, RelKind::View { .. })
    }

    /// Has a column that merges.
    pub fn has_lattice(&self) -> bool {
        self.columns.iter().any(|c| c.lattice.is_some())
    }
}

impl Type {
    /// A value of this type?
    pub fn admits(self, value: &Value) -> bool {
        match self {
            Type::Any => true,
            Type::Bool => matches!(value, Value::Bool(_)),
            Type::Int => matches!(value, Value::Int(_)),
            Type::Float => matches!(value, Value::Float(_)),
            Type::Str => matches!(value, Value::Str(_)),
            Type::Bytes => matches!(value, Value::Bytes(_)),
            Type::Addr => matches!(value, Value::Addr(_)),
            Type::List => matches!(value, Value::List(_)),
        }
    }

    /// Its name in the language.
    pub fn name(self) -> &'static str {
        match self {
            Type::Any => "any",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Float => "float",
            Type::Str => "string",
            Type::Bytes => "bytes",
            Type::Addr => "addr",
            Type::List => "list",
        }
    }
}
