//! Overlog on differential dataflow: parse, check, plan, run.
//!
//! [`Program`](ir::Program) is a checked program; [`Node`](node::Node) runs it: a deterministic function from
//! inputs to changes, messages and replies that knows nothing of clocks, sockets or disks.

pub mod api;
pub mod ast;
pub mod check;
pub mod diag;
pub mod digest;
pub mod engine;
pub mod expr;
pub mod functions;
pub mod ir;
pub mod lexer;
pub mod node;
pub mod oracle;
pub mod packed;
pub mod parser;
pub mod value;

pub use check::{CompileOptions, CompiledQuery, Dialect, Sources, compile, compile_query};
pub use digest::Digest;
pub use packed::Row;
pub use value::Value;
