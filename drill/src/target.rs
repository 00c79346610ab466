//! What a drill harms: a cluster of processes of its own, or one that runs already.

use crate::cluster::{Cluster, Running};
use crate::given::Given;
use crate::look;
use crate::scenario::Scenario;
use anyhow::{Result, bail, ensure};
use boomfs_client::{Identity, NodeId};

/// What can be done to a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// SIGKILL.
    Kill,
    /// SIGTERM; it is waited for.
    Stop,
    /// Starts it again where it was.
    Start,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
    /// Cuts it off from everybody.
    Cut,
    /// Joins it again.
    Join,
    /// Takes what is free on its disk.
    Fill,
    /// Gives it back.
    Free,
}

impl Deed {
    /// Its name in a cluster file.
    pub fn name(self) -> &'static str {
        match self {
            Deed::Kill => "kill",
            Deed::Stop => "stop",
            Deed::Start => "start",
            Deed::Pause => "pause",
            Deed::Resume => "resume",
            Deed::Cut => "cut",
            Deed::Join => "join",
            Deed::Fill => "fill",
            Deed::Free => "free",
        }
    }

    /// What undoes it, if it is a harm.
    pub fn undo(self) -> Option<Deed> {
        match self {
            Deed::Kill | Deed::Stop => Some(Deed::Start),
            Deed::Pause => Some(Deed::Resume),
            Deed::Cut => Some(Deed::Join),
            Deed::Fill => Some(Deed::Free),
            Deed::Start | Deed::Resume | Deed::Join | Deed::Free => None,
        }
    }
}

/// Why no NameNode is lost of a cluster that was given.
const NOT_OURS: &str = "a drill removes no folder of a cluster that is not its own: run this one without a cluster file";

/// See the module.
pub enum Target {
    /// The drill's own.
    Own(Cluster),
    /// Somebody else's.
    Given(Given),
}

impl Target {
    /// Where the NameNodes listen.
    pub fn addrs(&self) -> Vec<String> {
        match self {
            Target::Own(cluster) => cluster.addrs(),
            Target::Given(given) => given.addrs(),
        }
    }

    /// How many NameNodes there are.
    pub fn namenodes(&self) -> usize {
        match self {
            Target::Own(cluster) => cluster.namenodes(),
            Target::Given(given) => given.namenodes(),
        }
    }

    /// How many DataNodes can be harmed.
    pub fn datanodes(&self) -> usize {
        match self {
            Target::Own(cluster) => cluster.datanodes(),
            Target::Given(given) => given.datanodes(),
        }
    }

    /// A scenario can be played here, as far as what it does goes.
    ///
    /// # Errors
    /// What is missing for it.
    pub fn can(&self, scenario: Scenario) -> Result<()> {
        let namenodes = self.namenodes();
        for deed in scenario.deeds() {
            match self {
                Target::Own(cluster) => match deed {
                    Deed::Cut => ensure!(cluster.has_namespaces(), "no network namespaces"),
                    Deed::Fill => ensure!(cluster.has_disks(), "no disks of their own"),
                    _ => {}
                },
                Target::Given(given) if scenario.hits_datanode() => ensure!(
                    given.can_datanodes(*deed),
                    "the cluster file has no DataNodes, or not for all of them a command \"{}\"",
                    deed.name()
                ),
                Target::Given(given) => ensure!(
                    given.can(*deed),
                    "the cluster file has not for all NameNodes a command \"{}\"",
                    deed.name()
                ),
            }
        }
        match scenario {
            Scenario::LoseNamenode | Scenario::ChangeNamenodes
                if matches!(self, Target::Given(_)) =>
            {
                bail!("{NOT_OURS}")
            }
            Scenario::LoseNamenode | Scenario::ChangeNamenodes | Scenario::KillMinority => ensure!(
                namenodes > 2,
                "of {namenodes} NameNodes none can be missing: the others would be no majority"
            ),
            Scenario::KillFollower | Scenario::PauseFollower | Scenario::CutFollower => {
                ensure!(namenodes > 1, "one NameNode has no follower");
            }
            Scenario::FillDisk => ensure!(
                namenodes > 1,
                "one NameNode whose disk is full can hand over to nobody"
            ),
            Scenario::KillDatanode | Scenario::PauseDatanode => {
                ensure!(self.datanodes() > 0, "there is no DataNode");
            }
            Scenario::Random => ensure!(
                !self.possible().is_empty(),
                "nothing can be done to this cluster: its file has no pair of commands for any scenario"
            ),
            _ => {}
        }
        Ok(())
    }

    /// Scenarios that `random` draws from.
    pub fn possible(&self) -> Vec<Scenario> {
        let possible = |s: &Scenario| match s {
            Scenario::Random | Scenario::Calm => false,
            // Without any DataNode nothing can be read or written.
            _ if s.hits_datanode() && self.datanodes() == 1 => false,
            _ => self.can(*s).is_ok(),
        };
        Scenario::ALL.iter().copied().filter(possible).collect()
    }

    /// Mends what is still open, of a cluster that is not the drill's own; gives what cannot be.
    pub fn mend(&mut self) -> Vec<anyhow::Error> {
        match self {
            Target::Own(_) => Vec::new(),
            Target::Given(given) => given.mend(),
        }
    }

    /// Does it to a NameNode, counted from 0.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn namenode(&mut self, at: usize, deed: Deed) -> Result<()> {
        let cluster = match self {
            Target::Own(cluster) => cluster,
            Target::Given(given) => return given.namenode(at, deed),
        };
        match deed {
            Deed::Kill => cluster.kill_namenode(at),
            Deed::Stop => cluster.stop_namenode(at),
            Deed::Start => cluster.start_namenode(at),
            Deed::Pause | Deed::Resume => cluster.pause_namenode(at, deed == Deed::Pause),
            Deed::Cut | Deed::Join => cluster.cut_namenode(at, deed == Deed::Cut),
            Deed::Fill | Deed::Free => cluster.fill_namenode(at, deed == Deed::Fill),
        }
    }

    /// Starts all NameNodes again that were killed: its own at the same time, others one after the other.
    ///
    /// # Errors
    /// One does not start.
    pub fn start_namenodes(&mut self) -> Result<()> {
        match self {
            Target::Own(cluster) => cluster.start_namenodes(),
            Target::Given(given) => {
                let ended = (0..given.namenodes()).filter(|at| !given.runs(*at));
                let ended: Vec<usize> = ended.collect();
                ended
                    .into_iter()
                    .try_for_each(|at| given.namenode(at, Deed::Start))
            }
        }
    }

    /// Lets another NameNode take the place of one that was killed.
    ///
    /// # Errors
    /// It does not start, or is not admitted; the cluster is not the drill's own.
    pub fn replace_namenode(&mut self, at: usize, node: NodeId) -> Result<()> {
        match self {
            Target::Own(cluster) => cluster.replace_namenode(at, node),
            Target::Given(_) => bail!("{NOT_OURS}"),
        }
    }

    /// Starts a NameNode with a new folder where one was killed; it is not admitted yet.
    ///
    /// # Errors
    /// It does not start; the cluster is not the drill's own.
    pub fn renew_namenode(&mut self, at: usize) -> Result<()> {
        match self {
            Target::Own(cluster) => cluster.renew_namenode(at),
            Target::Given(_) => bail!("{NOT_OURS}"),
        }
    }

    /// Begins to run a command of the binary on the cluster.
    ///
    /// # Errors
    /// It cannot be started; the cluster is not the drill's own.
    pub fn begin(&self, args: &[&str]) -> Result<Running> {
        let Target::Own(cluster) = self else {
            bail!("{NOT_OURS}")
        };
        let all = self.addrs().join(",");
        cluster.begin(&[args, &["--namenodes", &all]].concat())
    }

    /// Does it to a DataNode, counted from 0: it is killed or started, paused or resumed.
    ///
    /// # Errors
    /// It cannot be done.
    pub fn datanode(&mut self, at: usize, deed: Deed) -> Result<()> {
        let cluster = match self {
            Target::Own(cluster) => cluster,
            Target::Given(given) => return given.datanode(at, deed),
        };
        match deed {
            Deed::Kill => cluster.kill_datanode(at),
            Deed::Start => cluster.start_datanode(at),
            Deed::Pause | Deed::Resume => cluster.pause_datanode(at, deed == Deed::Pause),
            Deed::Stop | Deed::Cut | Deed::Join | Deed::Fill | Deed::Free => {
                bail!("{} is for NameNodes", deed.name())
            }
        }
    }

    /// What a NameNode says of itself; `None` if it does not answer.
    pub async fn identity(&self, at: usize) -> Option<Identity> {
        look::identity(self.addrs().get(at)?).await
    }

    /// Which NameNode leads, counted from 0.
    pub async fn leader(&self) -> Option<usize> {
        match self {
            Target::Own(cluster) => cluster.leader().await,
            Target::Given(given) => look::leader(&given.addrs(), |at| given.runs(at)).await,
        }
    }
}
