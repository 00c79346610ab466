//! Whole clusters, rules and shells, in one thread, in virtual time, from a seed.
//!
//! A run is a function of its seed: what goes wrong once goes wrong again with the same one.

mod clocks;
mod cluster;
mod failover;
mod faults;
mod group;
mod losses;
mod smoke;
mod space;
mod trace;
mod user;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
