//! Clusters: one process for all of it, or a process for each part.

use crate::{Lab, Process, eventually};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// How long a part may take to start or stop.
const PART: Duration = Duration::from_secs(60);

/// A `boomfs up`.
pub struct Up<'a> {
    lab: &'a Lab,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its data folder.
    pub data: PathBuf,
    /// The process.
    pub process: Process,
}

impl<'a> Up<'a> {
    /// Starts one on the lab's folders `data` and `mnt`, and waits until it is ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start(lab: &'a Lab, more: &[&str]) -> Result<Up<'a>> {
        let mount = lab.mountpoint("mnt")?;
        let data = lab.path("data");
        let (place, folder) = (mount.display().to_string(), data.display().to_string());
        let mut args = vec!["up", "--mount", &place, "--data", &folder];
        args.extend(more);
        let mut process = lab.start(&args)?;
        process.ready(PART)?;
        Ok(Up {
            lab,
            mount,
            data,
            process,
        })
    }

    /// Stops it cleanly.
    ///
    /// # Errors
    /// It does not stop, or not cleanly.
    pub fn stop(mut self) -> Result<()> {
        self.process.stop(PART)
    }

    /// Kills it.
    ///
    /// # Errors
    /// It was gone already.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }

    /// Runs a command on this cluster: the arguments, and where it is.
    ///
    /// # Errors
    /// It fails.
    pub fn boomfs(&self, args: &[&str]) -> Result<String> {
        let data = self.data.display().to_string();
        let mut all = args.to_vec();
        let at = if args.first() == Some(&"fs") {
            1
        } else {
            args.len()
        };
        all.splice(at..at, ["--data", data.as_str()]);
        self.lab.boomfs(&all)?.ok()
    }

    /// What `boomfs status --json` says.
    ///
    /// # Errors
    /// It fails.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.boomfs(&["status", "--json"])?)?)
    }
}

/// A process for each part.
pub struct Parts<'a> {
    lab: &'a Lab,
    /// Where the NameNode listens.
    pub address: String,
    /// The NameNode.
    pub namenode: Process,
    /// The DataNodes.
    pub datanodes: Vec<Process>,
    /// The mount.
    pub mount: Process,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
}

impl<'a> Parts<'a> {
    /// Starts a NameNode, some DataNodes and a mount, with three replicas of each block.
    ///
    /// # Errors
    /// A part does not get ready.
    pub fn start(lab: &'a Lab, datanodes: usize) -> Result<Parts<'a>> {
        let (namenode, address) = namenode(lab, "127.0.0.1:0")?;
        let nodes = (1..=datanodes)
            .map(|number| datanode(lab, number, &address))
            .collect::<Result<Vec<_>>>()?;
        let mountpoint = lab.mountpoint("mnt")?;
        let place = mountpoint.display().to_string();
        let mut mount = lab.start(&["mount", &place, "--namenodes", &address])?;
        mount.ready(PART)?;
        let parts = Parts {
            lab,
            address,
            namenode,
            datanodes: nodes,
            mount,
            mountpoint,
        };
        parts.settled(PART, |status| {
            status.get("live").and_then(Value::as_u64) == Some(datanodes as u64)
        })?;
        Ok(parts)
    }

    /// Starts the NameNode again, where it was.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn restart_namenode(&mut self) -> Result<()> {
        // The port of a process that was killed is free at once; what it held may take a moment.
        let (namenode, _) = eventually(PART, "the NameNode's start", || {
            namenode(self.lab, &self.address)
        })?;
        self.namenode = namenode;
        Ok(())
    }

    /// Starts one more DataNode.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn add_datanode(&mut self) -> Result<()> {
        let process = datanode(self.lab, self.datanodes.len() + 1, &self.address)?;
        self.datanodes.push(process);
        Ok(())
    }

    /// Starts a DataNode, counted from 1, on the folder that it had.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn restart_datanode(&mut self, number: usize) -> Result<()> {
        let process = datanode(self.lab, number, &self.address)?;
        *self
            .datanodes
            .get_mut(number - 1)
            .context("no such DataNode")? = process;
        Ok(())
    }

    /// Kills a DataNode, counted from 1.
    ///
    /// # Errors
    /// It was gone already.
    pub fn kill_datanode(&mut self, number: usize) -> Result<()> {
        self.datanodes
            .get_mut(number - 1)
            .context("no such DataNode")?
            .kill()
    }

    /// What `boomfs status --json` says.
    ///
    /// # Errors
    /// It fails.
    pub fn status(&self) -> Result<Value> {
        let ran = self
            .lab
            .boomfs(&["status", "--json", "--namenodes", &self.address])?;
        Ok(serde_json::from_str(&ran.ok()?)?)
    }

    /// Waits until the status fits.
    ///
    /// # Errors
    /// It does not within the deadline; the last one is named.
    pub fn settled(&self, deadline: Duration, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(deadline, "the status", || {
            let status = self.status()?;
            if fits(&status) {
                Ok(status)
            } else {
                bail!("{status}")
            }
        })
    }
}

fn namenode(lab: &Lab, listen: &str) -> Result<(Process, String)> {
    let data = lab.path("namenode").display().to_string();
    let mut process = lab.start(&["namenode", "--data", &data, "--listen", listen])?;
    let ready = process.ready(PART)?;
    Ok((process, address(&ready)?))
}

fn datanode(lab: &Lab, number: usize, namenode: &str) -> Result<Process> {
    let data = lab
        .path(&format!("datanode-{number}"))
        .display()
        .to_string();
    let mut process = lab.start(&["datanode", "--data", &data, "--namenodes", namenode])?;
    process.ready(PART)?;
    Ok(process)
}

/// The last word of a line `ready: .. on 127.0.0.1:4711`.
fn address(ready: &str) -> Result<String> {
    ready
        .rsplit(' ')
        .next()
        .map(str::to_owned)
        .with_context(|| format!("no address in: {ready}"))
}
