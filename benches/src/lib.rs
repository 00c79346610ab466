//! boomfs-benches
