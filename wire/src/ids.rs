//! Identifiers. Each is a positive 63-bit number, so that it is an Overlog `int` too.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The id as an Overlog `int`.
            pub fn as_i64(self) -> i64 {
                self.0.cast_signed()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// An inode. `Ino::ROOT` is the root directory; 0 is no inode.
    Ino
);
id!(
    /// A block of a file; never reused.
    BlockId
);
id!(
    /// A generation stamp: which pipeline wrote a replica. Grows per block.
    Generation
);
id!(
    /// A client's session with the NameNode.
    SessionId
);
id!(
    /// A DataNode, as the NameNode registered it; 0 is "not registered yet".
    NodeId
);
id!(
    /// The cluster that a store or a data folder belongs to; chosen at random when it is made.
    ClusterId
);

impl Ino {
    /// The root directory.
    pub const ROOT: Ino = Ino(1);
}
