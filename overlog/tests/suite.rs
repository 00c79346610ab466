//! The language, as a test of each sentence of its contract and as properties of random programs. Each test runs on
//! the engine and on the oracle.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod suite {
    #[macro_use]
    mod harness;
    mod compare;
    mod declarations;
    mod docs;
    mod errors;
    mod generator;
    mod properties;
    mod rules;
    mod shrink;
    mod subject;
    mod time;
}
