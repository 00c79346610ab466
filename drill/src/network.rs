//! Network namespaces: NameNodes on networks of their own, which can be cut off.
//!
//! Each has a namespace with one end of a veth pair; the other ends are ports of a bridge, on which this machine has an
//! address. Nothing of it touches another network. It needs root and the command `ip` (package iproute2).

use anyhow::{Context, Result, bail, ensure};
use std::process::Command;

/// Networks that are tried until one is free.
const TRIES: u32 = 200;

/// A bridge with namespaces on it. All are removed when this is dropped.
#[derive(Debug)]
pub struct Network {
    /// What all names begin with.
    tag: String,
    /// `10.x.y`.
    prefix: String,
    nodes: usize,
}

fn ip(args: &[&str]) -> Result<String> {
    let what = args.join(" ");
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("cannot run ip: install iproute2")?;
    if !output.status.success() {
        bail!(
            "ip {what}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Network {
    /// An empty one.
    ///
    /// # Errors
    /// Whoever runs this is not root; `ip` is missing or fails; no network is free.
    pub fn make() -> Result<Network> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "cutting NameNodes off needs network namespaces, and these need root: run the drill as root"
        );
        let pid = std::process::id();
        let routes = ip(&["-4", "route", "show", "table", "all"])?;
        let free = (0..TRIES)
            .map(|try_| {
                let number = pid.wrapping_add(try_);
                format!("10.{}.{}", 64 + number % 128, number / 128 % 256)
            })
            .find(|prefix| !routes.contains(&format!("{prefix}.")));
        let network = Network {
            tag: format!("bf{pid}"),
            prefix: free.context("no network of 10.0.0.0/8 is free for the drill")?,
            nodes: 0,
        };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        let address = format!("{}.254/24", network.prefix);
        ip(&["addr", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        Ok(network)
    }

    fn bridge(&self) -> String {
        format!("{}b", self.tag)
    }

    /// The namespace of a node, counted from 0.
    pub fn namespace(&self, at: usize) -> String {
        format!("{}n{at}", self.tag)
    }

    /// Where a node listens.
    pub fn host(&self, at: usize) -> String {
        format!("{}.{}", self.prefix, at + 1)
    }

    fn port(&self, at: usize) -> String {
        format!("{}p{at}", self.tag)
    }

    /// Adds the next node.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn add(&mut self) -> Result<()> {
        let at = self.nodes;
        let (namespace, port, end) = (
            self.namespace(at),
            self.port(at),
            format!("{}e{at}", self.tag),
        );
        // Counted first: what is half made is removed too.
        self.nodes += 1;
        ip(&["netns", "add", &namespace])?;
        ip(&[
            "link", "add", &port, "type", "veth", "peer", "name", &end, "netns", &namespace,
        ])?;
        let address = format!("{}/24", self.host(at));
        ip(&["-n", &namespace, "addr", "add", &address, "dev", &end])?;
        ip(&["-n", &namespace, "link", "set", &end, "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["link", "set", &port, "master", &self.bridge()])?;
        ip(&["link", "set", &port, "up"])?;
        Ok(())
    }

    /// Cuts a node off from everybody, or joins it again.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn cut(&self, at: usize, on: bool) -> Result<()> {
        let state = if on { "down" } else { "up" };
        ip(&["link", "set", &self.port(at), state]).map(|_| ())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Each is tried: one that was never made is no trouble, and nobody is there to hear of others.
        for at in 0..self.nodes {
            let _ = ip(&["link", "del", &self.port(at)]);
            let _ = ip(&["netns", "del", &self.namespace(at)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}
