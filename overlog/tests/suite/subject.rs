//! What is tested: the engine and the oracle behind one interface.

use overlog::Row;
use overlog::api::{Options, Output, RunError, Time};
use overlog::ir::{Program, RelId};
use overlog::node::{Budget, Progress};
use std::sync::Arc;

/// A node that runs programs.
pub trait Subject: Sized {
    const NAME: &str;
    fn new(program: Arc<Program>, options: Options) -> Result<Self, RunError>;
    fn restore(&mut self, rel: RelId, rows: Vec<Row>) -> Result<(), RunError>;
    fn start(&mut self, new: bool, time: Time) -> Result<Output, RunError>;
    fn run(&mut self, inputs: Vec<(RelId, Row)>, time: Time) -> Result<Output, RunError>;
    fn rows(&mut self, rel: RelId) -> Vec<Row>;
    /// The rows of a query, sorted, or why there are none.
    fn query(&mut self, query: &str) -> Result<Vec<Row>, String>;
}

impl Subject for overlog::oracle::Node {
    const NAME: &str = "oracle";

    fn new(program: Arc<Program>, options: Options) -> Result<Self, RunError> {
        overlog::oracle::Node::new(program, options)
    }

    fn restore(&mut self, rel: RelId, rows: Vec<Row>) -> Result<(), RunError> {
        self.restore(rel, rows)
    }

    fn start(&mut self, new: bool, time: Time) -> Result<Output, RunError> {
        self.start(new, time)
    }

    fn run(&mut self, inputs: Vec<(RelId, Row)>, time: Time) -> Result<Output, RunError> {
        self.run(inputs, time)
    }

    fn rows(&mut self, rel: RelId) -> Vec<Row> {
        overlog::oracle::Node::rows(self, rel)
    }

    fn query(&mut self, query: &str) -> Result<Vec<Row>, String> {
        let compiled =
            overlog::check::compile_query(self.program(), query).map_err(|d| d.render())?;
        overlog::oracle::Node::query(self, &compiled).map_err(|e| e.to_string())
    }
}

impl Subject for overlog::node::Node {
    const NAME: &str = "engine";

    fn new(program: Arc<Program>, options: Options) -> Result<Self, RunError> {
        overlog::node::Node::new(program, options)
    }

    fn restore(&mut self, rel: RelId, rows: Vec<Row>) -> Result<(), RunError> {
        self.restore(rel, rows)
    }

    fn start(&mut self, new: bool, time: Time) -> Result<Output, RunError> {
        self.start(new, time)
    }

    fn run(&mut self, inputs: Vec<(RelId, Row)>, time: Time) -> Result<Output, RunError> {
        self.run(inputs, time)
    }

    fn rows(&mut self, rel: RelId) -> Vec<Row> {
        self.rows(rel)
    }

    fn query(&mut self, query: &str) -> Result<Vec<Row>, String> {
        let compiled =
            overlog::check::compile_query(self.program(), query).map_err(|d| d.render())?;
        let mut query = overlog::node::Node::query(
            self,
            &compiled.rule,
            &compiled.functions,
            Budget::default(),
        )?;
        loop {
            match query.step(100) {
                Progress::Pending => {}
                Progress::Done(rows) => return Ok(rows),
                Progress::Failed(why) => return Err(why),
            }
        }
    }
}
