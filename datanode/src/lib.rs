//! boomfs-datanode
