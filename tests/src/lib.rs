//! The harness of whole-system tests: clusters of real processes of the `boomfs` binary.
//!
//! A [`Lab`] is a temporary folder with the processes and mounts of one test. When it is dropped, the processes
//! that it started are killed and what is mounted in it is unmounted, whatever became of the test.
//!
//! **Invariant:** every wait has a deadline, no port is fixed, and nothing but own children is ever killed.
#![allow(clippy::disallowed_methods)] // Tests watch real processes, with real clocks and files.

mod cluster;
mod fuse;
mod lab;
mod tree;

pub use boomfs_drill::{Process, eventually, within};
pub use cluster::{Parts, Up};
pub use fuse::{Fuse, fuse};
pub use lab::{Lab, Ran};
pub use tree::{Tree, differences};
