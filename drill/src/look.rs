//! What NameNodes say of themselves.

use boomfs_client::{Client, Config, Identity};
use boomfs_io::Io;
use std::time::Duration;

/// How long a NameNode may take to say who it is; one that is stopped does not.
const IDENTIFY: Duration = Duration::from_millis(500);

/// What the NameNode of an address says of itself; `None` if it does not answer.
pub async fn identity(addr: &str) -> Option<Identity> {
    let config = Config {
        deadline: IDENTIFY,
        stale: true,
        ..Config::new(vec![addr.to_owned()], "drill")
    };
    let client = Client::observer(Io::real(), config).await.ok()?;
    let identity = client.identify().await.ok();
    // It is gone with the client anyway.
    let _ = client.close().await;
    identity
}

/// Which of them leads, counted from 0. Those that are known not to run are not asked.
pub async fn leader(addrs: &[String], runs: impl Fn(usize) -> bool) -> Option<usize> {
    for (at, addr) in addrs.iter().enumerate() {
        if runs(at) && identity(addr).await.is_some_and(|i| i.leads) {
            return Some(at);
        }
    }
    None
}
