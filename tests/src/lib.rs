//! boomfs-tests
