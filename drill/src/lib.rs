//! Drills: clusters of real processes that are worked with while their parts are killed, stopped and started again, and
//! the proof that nothing was lost by it.
//!
//! Every operation of every client is written down with when it began and ended ([`history`]); afterwards
//! [`linear`] looks for an order of all of them that a single machine could have had. What was found, and how long each
//! failover took, is a report for people and programs ([`report`]).
//!
//! **Invariant:** only processes that the drill itself started are ever signalled; what happens to a cluster that runs
//! already, the commands of its file do.
#![allow(clippy::disallowed_methods)] // Drills are about real processes, with real clocks and files.

pub mod cluster;
#[cfg(test)]
mod cross;
mod disk;
pub mod drill;
pub mod given;
mod ground;
pub mod history;
pub mod linear;
mod look;
mod many;
pub mod model;
pub mod mounted;
pub mod network;
mod process;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod target;
mod wait;
pub mod workload;

pub use process::Process;
pub use wait::{eventually, within};
