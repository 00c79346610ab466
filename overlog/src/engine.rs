//! The engine: tables and kept views on differential dataflow, event rules against its arrangements.

pub mod agg;
pub mod changes;
pub mod eval;
pub mod events;
pub mod fast;
pub mod index;
pub mod lazy;
pub mod machine;
pub mod plan;
pub mod query;
pub mod slots;
pub mod spine;
pub mod state;
pub mod tables;
pub mod views;
pub mod watch;
