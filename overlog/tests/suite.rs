//! The language, as a test of each sentence of its contract and as properties of random programs. Each test runs on
//! the engine and on the oracle.

mod suite {
    #[macro_use]
    mod harness;
    mod compare;
    mod generator;
    mod declarations;
    mod properties;
    mod rules;
    mod shrink;
    mod subject;
    mod time;
}
