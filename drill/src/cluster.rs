//! A cluster of processes: NameNodes and DataNodes that can be killed, stopped and started again where they were.

use crate::disk::Disk;
use crate::network::Network;
use crate::{Process, eventually, look};
use anyhow::{Context, Result, bail};
use boomfs_client::{Identity, NodeId};
use rustix::process::Signal;
use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

/// How long a part may take to start or stop.
const PART: Duration = Duration::from_secs(60);
/// Segments of the log on a small disk: one that is full is noticed after three of them at most.
const SMALL_SEGMENT: &str = "256K";

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `boomfs` binary.
    pub binary: PathBuf,
    /// Where the parts have their data folders.
    pub folder: PathBuf,
    /// NameNodes.
    pub namenodes: usize,
    /// DataNodes.
    pub datanodes: usize,
    /// Each NameNode in a network namespace of its own, so that it can be cut off; needs root.
    pub namespaces: bool,
    /// Each NameNode on a small disk of its own, with room for so many files, so that it can be filled; needs root.
    pub disks: Option<u64>,
    /// How leaders make sure that they lead before they answer a read, as `boomfs namenode --reads` has it.
    pub reads: &'static str,
}

/// A part of a cluster.
struct Part {
    /// `namenode-1`, `datanode-2`, ..
    name: String,
    args: Vec<String>,
    addr: String,
    /// Its network namespace.
    namespace: Option<String>,
    process: Option<Process>,
}

/// A command of the binary that was begun.
pub struct Running {
    what: String,
    process: Process,
}

impl Running {
    /// Waits for its end, and gives what it printed.
    ///
    /// # Errors
    /// It fails; what it said is in the message.
    pub fn end(mut self) -> Result<String> {
        let status = self.process.wait(PART * 2)?;
        if !status.success() {
            let (what, said) = (self.what, self.process.stderr().join(" "));
            bail!("boomfs {what}: {status}: {said}");
        }
        Ok(self.process.stdout().join("\n"))
    }
}

/// See the module.
pub struct Cluster {
    plan: Plan,
    namenodes: Vec<Part>,
    datanodes: Vec<Part>,
    /// Removed after the processes that use them.
    network: Option<Network>,
    disks: Vec<Disk>,
}

impl Cluster {
    /// Starts one: the first NameNode founds it, the others join and are admitted.
    ///
    /// # Errors
    /// A part does not start, or is not admitted.
    pub fn start(plan: &Plan) -> Result<Cluster> {
        let mut cluster = Cluster {
            plan: plan.clone(),
            namenodes: Vec::new(),
            datanodes: Vec::new(),
            network: match plan.namespaces {
                true => Some(Network::make()?),
                false => None,
            },
            disks: Vec::new(),
        };
        for number in 1..=plan.namenodes {
            let join = cluster.addrs();
            let mut args = vec!["--reads".to_owned(), plan.reads.to_owned()];
            if !join.is_empty() {
                args.extend(["--join".to_owned(), join.join(",")]);
            }
            if let Some(network) = &mut cluster.network {
                network.add()?;
            }
            if let Some(files) = plan.disks {
                args.extend(["--log-segment".to_owned(), SMALL_SEGMENT.to_owned()]);
                let place = plan.folder.join(format!("disk-{number}"));
                cluster.disks.push(Disk::make(&place, files)?);
            }
            let part = cluster.part("namenode", number, args)?;
            let addr = part.addr.clone();
            cluster.namenodes.push(part);
            if number > 1 {
                cluster.boomfs(&["namenode", "add", &addr, "--namenodes", &join.join(",")])?;
            }
        }
        for number in 1..=plan.datanodes {
            let args = vec!["--namenodes".to_owned(), cluster.addrs().join(",")];
            let part = cluster.part("datanode", number, args)?;
            cluster.datanodes.push(part);
        }
        Ok(cluster)
    }

    /// Starts a part for the first time, on a free port that it keeps from then on.
    fn part(&self, kind: &str, number: usize, more: Vec<String>) -> Result<Part> {
        let name = format!("{kind}-{number}");
        let data = self.data(kind, number - 1);
        let mut args = vec![kind.to_owned(), "--data".to_owned()];
        args.push(data.display().to_string());
        args.extend(more);
        // DataNodes stay where the clients are.
        let network = self.network.as_ref().filter(|_| kind == "namenode");
        let namespace = network.map(|n| n.namespace(number - 1));
        let host = network.map_or("127.0.0.1".to_owned(), |n| n.host(number - 1));
        let mut first = args.clone();
        first.extend(["--listen".to_owned(), format!("{host}:0")]);
        let mut process = self.launch(&name, namespace.as_deref(), &first)?;
        let ready = process.ready(PART)?;
        let addr = ready.rsplit(' ').find(|word| word.contains(':'));
        let addr = addr.with_context(|| format!("no address in: {ready}"))?;
        args.extend(["--listen".to_owned(), addr.to_owned()]);
        Ok(Part {
            name,
            args,
            addr: addr.to_owned(),
            namespace,
            process: Some(process),
        })
    }

    /// The data folder of a part, counted from 0.
    fn data(&self, kind: &str, at: usize) -> PathBuf {
        let disk = self.disks.get(at).filter(|_| kind == "namenode");
        let place = disk.map_or(self.plan.folder.as_path(), Disk::place);
        place.join(format!("{kind}-{}", at + 1))
    }

    fn launch(&self, name: &str, namespace: Option<&str>, args: &[String]) -> Result<Process> {
        let mut command = match namespace {
            // It becomes the program: signals reach that.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]);
                command.arg(&self.plan.binary);
                command
            }
            None => Command::new(&self.plan.binary),
        };
        Process::start(name, command.args(args))
    }

    /// Runs a command of the binary to its end, and gives what it printed.
    ///
    /// # Errors
    /// It fails; what it said is in the message.
    pub fn boomfs(&self, args: &[&str]) -> Result<String> {
        self.begin(args)?.end()
    }

    /// Begins to run a command of the binary.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn begin(&self, args: &[&str]) -> Result<Running> {
        let what = args.join(" ");
        let process = Process::start(&what, Command::new(&self.plan.binary).args(args))?;
        Ok(Running { what, process })
    }

    /// Where the NameNodes listen.
    pub fn addrs(&self) -> Vec<String> {
        self.namenodes.iter().map(|n| n.addr.clone()).collect()
    }

    /// The numbers of the NameNodes' processes, those that run.
    pub fn pids(&self) -> Vec<u32> {
        let running = self.namenodes.iter().filter_map(|n| n.process.as_ref());
        running.map(Process::pid).collect()
    }

    /// How many NameNodes there are.
    pub fn namenodes(&self) -> usize {
        self.namenodes.len()
    }

    /// How many DataNodes there are.
    pub fn datanodes(&self) -> usize {
        self.datanodes.len()
    }

    /// Kills a NameNode, counted from 0.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_namenode(&mut self, at: usize) -> Result<()> {
        kill(&mut self.namenodes, at)
    }

    /// Kills a DataNode, counted from 0.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_datanode(&mut self, at: usize) -> Result<()> {
        kill(&mut self.datanodes, at)
    }

    /// Stops a NameNode where it stands (SIGSTOP), or lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause_namenode(&self, at: usize, pause: bool) -> Result<()> {
        self::pause(&self.namenodes, at, pause)
    }

    /// The same with a DataNode.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause_datanode(&self, at: usize, pause: bool) -> Result<()> {
        self::pause(&self.datanodes, at, pause)
    }

    /// Cuts a NameNode off from everybody, or joins it again.
    ///
    /// # Errors
    /// The cluster was not started in namespaces.
    pub fn cut_namenode(&self, at: usize, cut: bool) -> Result<()> {
        let network = self.network.as_ref();
        let network = network.context("the cluster has no network namespaces")?;
        network.cut(at, cut)
    }

    /// Whether NameNodes can be cut off.
    pub fn has_namespaces(&self) -> bool {
        self.network.is_some()
    }

    /// Takes all that is free on a NameNode's disk, or gives it back.
    ///
    /// # Errors
    /// It has no small disk of its own; it cannot be written to.
    pub fn fill_namenode(&self, at: usize, fill: bool) -> Result<()> {
        let disk = self.disks.get(at);
        let disk = disk.context("the NameNodes have no disks of their own")?;
        if fill { disk.fill() } else { disk.free() }
    }

    /// Whether disks of NameNodes can be filled.
    pub fn has_disks(&self) -> bool {
        !self.disks.is_empty()
    }

    /// Asks a NameNode to stop, and waits until it has.
    ///
    /// # Errors
    /// It does not run, or does not stop cleanly.
    pub fn stop_namenode(&mut self, at: usize) -> Result<()> {
        let part = self.namenodes.get_mut(at).context("no such NameNode")?;
        let mut process = part.process.take().context("it does not run")?;
        process.stop(PART)
    }

    /// Starts a NameNode that was killed, where it was.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_namenode(&mut self, at: usize) -> Result<()> {
        let process = self.relaunch(&self.namenodes, at)?;
        if let Some(part) = self.namenodes.get_mut(at) {
            part.process = Some(process);
        }
        Ok(())
    }

    /// Starts all NameNodes that were killed, at the same time.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_namenodes(&mut self) -> Result<()> {
        let ended: Vec<usize> = (0..self.namenodes.len())
            .filter(|at| self.namenodes.get(*at).is_some_and(|n| n.process.is_none()))
            .collect();
        let cluster = &*self;
        let started: Vec<Result<Process>> = thread::scope(|scope| {
            let starts = ended
                .iter()
                .map(|at| scope.spawn(move || cluster.relaunch(&cluster.namenodes, *at)));
            let starts: Vec<_> = starts.collect();
            let join = |start: ScopedJoinHandle<Result<Process>>| {
                start.join().unwrap_or_else(|_| bail!("a start panicked"))
            };
            starts.into_iter().map(join).collect()
        });
        for (at, process) in ended.into_iter().zip(started) {
            if let Some(part) = self.namenodes.get_mut(at) {
                part.process = Some(process?);
            }
        }
        Ok(())
    }

    /// Removes the folder of a NameNode that was killed, and starts one with a new folder in its place.
    ///
    /// # Errors
    /// It does not start, or the others do not admit it.
    pub fn replace_namenode(&mut self, at: usize, node: NodeId) -> Result<()> {
        self.renew_namenode(at)?;
        let (all, node) = (self.addrs(), node.0.to_string());
        let addr = all.get(at).context("no such NameNode")?;
        let all = all.join(",");
        self.boomfs(&["namenode", "replace", &node, addr, "--namenodes", &all])?;
        Ok(())
    }

    /// Removes the folder of a NameNode that was killed, and starts one with a new folder where it was, which is not
    /// admitted yet.
    ///
    /// # Errors
    /// It does not start.
    pub fn renew_namenode(&mut self, at: usize) -> Result<()> {
        let folder = self.data("namenode", at);
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
        let mut others = self.addrs();
        if at < others.len() {
            others.remove(at);
        }
        let others = others.join(",");
        if let Some(part) = self.namenodes.get_mut(at) {
            let joins = part.args.iter().position(|a| a == "--join");
            match joins.and_then(|at| part.args.get_mut(at + 1)) {
                Some(join) => join.clone_from(&others),
                None => part.args.extend(["--join".to_owned(), others]),
            }
        }
        self.start_namenode(at)
    }

    /// Starts a DataNode that was killed, where it was.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_datanode(&mut self, at: usize) -> Result<()> {
        let process = self.relaunch(&self.datanodes, at)?;
        if let Some(part) = self.datanodes.get_mut(at) {
            part.process = Some(process);
        }
        Ok(())
    }

    /// What a NameNode says of itself; `None` if it does not answer.
    pub async fn identity(&self, at: usize) -> Option<Identity> {
        look::identity(&self.namenodes.get(at)?.addr).await
    }

    /// Which NameNode leads, counted from 0.
    pub async fn leader(&self) -> Option<usize> {
        let runs = |at: usize| self.namenodes.get(at).is_some_and(|n| n.process.is_some());
        look::leader(&self.addrs(), runs).await
    }

    fn relaunch(&self, parts: &[Part], at: usize) -> Result<Process> {
        let part = parts.get(at).context("no such part")?;
        // Its port is free at once; what else it held may take a moment.
        eventually(PART, &format!("the start of {}", part.name), || {
            let mut process = self.launch(&part.name, part.namespace.as_deref(), &part.args)?;
            process.ready(PART)?;
            Ok(process)
        })
    }
}

fn pause(parts: &[Part], at: usize, pause: bool) -> Result<()> {
    let part = parts.get(at).context("no such part")?;
    let process = part.process.as_ref().context("it does not run")?;
    process.signal(if pause { Signal::STOP } else { Signal::CONT })
}

fn kill(parts: &mut [Part], at: usize) -> Result<()> {
    let part = parts.get_mut(at).context("no such part")?;
    let mut process = part.process.take().context("it does not run")?;
    process.kill()
}
