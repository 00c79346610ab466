//! The engine: tables and kept views on differential dataflow, event rules against its arrangements.

pub mod spine;
pub mod index;
pub mod plan;
pub mod eval;
pub mod events;
pub mod agg;
pub mod machine;
pub mod tables;
pub mod views;
pub mod changes;
pub mod lazy;
pub mod query;
pub mod state;
pub mod watch;
