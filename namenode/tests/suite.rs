//! The NameNode's rules, run on the engine without a shell: requests in, batches decided, replies out.
//!
//! `BOOMFS_RULES` names a folder of rule files to test instead of the built-in ones; `BOOMFS_CASES` is the number of
//! cases of each property (128); `BOOMFS_SEED` is the seed of the model's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests read rule files and variables of the environment"
)]

#[allow(
    dead_code,
    reason = "the driver serves more kinds of test than there are yet"
)]
#[path = "suite/driver.rs"]
mod driver;

#[path = "suite/helpers.rs"]
mod helpers;

#[path = "suite/namespace.rs"]
mod namespace;

#[path = "suite/order.rs"]
mod order;

#[path = "suite/sessions.rs"]
mod sessions;

#[path = "suite/blocks.rs"]
mod blocks;

#[path = "suite/datanodes.rs"]
mod datanodes;

#[path = "suite/repair.rs"]
mod repair;

#[path = "suite/paxos.rs"]
mod paxos;

#[path = "suite/permissions.rs"]
mod permissions;

#[path = "suite/reads.rs"]
mod reads;

#[path = "suite/tree.rs"]
mod tree;

#[path = "suite/model.rs"]
mod model;
