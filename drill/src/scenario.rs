//! What goes wrong in a drill.

use crate::target::Deed;
use serde::{Deserialize, Serialize};

/// One kind of fault, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// See [`Scenario::about`].
    KillLeader,
    /// See [`Scenario::about`].
    PauseLeader,
    /// See [`Scenario::about`].
    CutLeader,
    /// See [`Scenario::about`].
    StopLeader,
    /// See [`Scenario::about`].
    FillDisk,
    /// See [`Scenario::about`].
    KillFollower,
    /// See [`Scenario::about`].
    PauseFollower,
    /// See [`Scenario::about`].
    CutFollower,
    /// See [`Scenario::about`].
    KillMinority,
    /// See [`Scenario::about`].
    KillAll,
    /// See [`Scenario::about`].
    LoseNamenode,
    /// See [`Scenario::about`].
    ChangeNamenodes,
    /// See [`Scenario::about`].
    KillDatanode,
    /// See [`Scenario::about`].
    PauseDatanode,
    /// See [`Scenario::about`].
    Random,
    /// See [`Scenario::about`].
    Calm,
}

impl Scenario {
    /// All of them.
    pub const ALL: &[Scenario] = &[
        Scenario::KillLeader,
        Scenario::PauseLeader,
        Scenario::CutLeader,
        Scenario::StopLeader,
        Scenario::FillDisk,
        Scenario::KillFollower,
        Scenario::PauseFollower,
        Scenario::CutFollower,
        Scenario::KillMinority,
        Scenario::KillAll,
        Scenario::LoseNamenode,
        Scenario::ChangeNamenodes,
        Scenario::KillDatanode,
        Scenario::PauseDatanode,
        Scenario::Random,
        Scenario::Calm,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::KillLeader => "kill-leader",
            Scenario::PauseLeader => "pause-leader",
            Scenario::CutLeader => "cut-leader",
            Scenario::StopLeader => "stop-leader",
            Scenario::FillDisk => "fill-disk",
            Scenario::KillFollower => "kill-follower",
            Scenario::PauseFollower => "pause-follower",
            Scenario::CutFollower => "cut-follower",
            Scenario::KillMinority => "kill-minority",
            Scenario::KillAll => "kill-all",
            Scenario::LoseNamenode => "lose-namenode",
            Scenario::ChangeNamenodes => "change-namenodes",
            Scenario::KillDatanode => "kill-datanode",
            Scenario::PauseDatanode => "pause-datanode",
            Scenario::Random => "random",
            Scenario::Calm => "calm",
        }
    }

    /// What it does, for people.
    pub fn about(self) -> &'static str {
        match self {
            Scenario::KillLeader => {
                "kill -9 of the NameNode that leads; it is started again when another one has taken over"
            }
            Scenario::PauseLeader => {
                "SIGSTOP of the NameNode that leads for two seconds, then SIGCONT"
            }
            Scenario::CutLeader => {
                "the NameNode that leads reaches nobody for two seconds (in a network namespace; needs root)"
            }
            Scenario::StopLeader => {
                "SIGTERM of the NameNode that leads, which hands over; it is started again"
            }
            Scenario::FillDisk => {
                "the disk of the NameNode that leads has no more room until another one leads (a small disk in memory; needs root)"
            }
            Scenario::PauseFollower => {
                "SIGSTOP of a NameNode that does not lead for two seconds, then SIGCONT"
            }
            Scenario::CutFollower => "another NameNode reaches nobody for two seconds (needs root)",
            Scenario::KillFollower => {
                "kill -9 of a NameNode that does not lead; it is started again after a second"
            }
            Scenario::KillMinority => {
                "kill -9 of the NameNode that leads and of as many others as can be missing, at once; they are started again two seconds after another one has taken over"
            }
            Scenario::KillAll => "kill -9 of all NameNodes at once; all are started again",
            Scenario::LoseNamenode => {
                "kill -9 of any NameNode, whose data folder is removed; one with a new folder takes its place"
            }
            Scenario::ChangeNamenodes => {
                "any NameNode is removed from the cluster, and one with a new folder added; during both changes kill -9 of the NameNode that leads, which is started again"
            }
            Scenario::KillDatanode => {
                "kill -9 of a DataNode; it is started again after two seconds"
            }
            Scenario::PauseDatanode => "SIGSTOP of a DataNode for two seconds, then SIGCONT",
            Scenario::Random => "one of the others each time, by chance",
            Scenario::Calm => "nothing goes wrong: what to compare with",
        }
    }

    /// The scenario of a name.
    pub fn of(name: &str) -> Option<Scenario> {
        Scenario::ALL.iter().copied().find(|s| s.name() == name)
    }

    /// The names of all, for who gave another.
    pub fn names() -> String {
        let all: Vec<&str> = Scenario::ALL.iter().map(|s| s.name()).collect();
        format!("the scenarios are {}", all.join(", "))
    }

    /// It is a DataNode that is harmed.
    pub fn hits_datanode(self) -> bool {
        matches!(self, Scenario::KillDatanode | Scenario::PauseDatanode)
    }

    /// The leader is out of action by it: a failover is measured.
    pub fn hits_leader(self) -> bool {
        matches!(
            self,
            Scenario::KillLeader
                | Scenario::PauseLeader
                | Scenario::CutLeader
                | Scenario::StopLeader
                | Scenario::KillMinority
                | Scenario::KillAll
        )
    }

    /// What is done to a part in it.
    pub fn deeds(self) -> &'static [Deed] {
        match self {
            Scenario::KillLeader
            | Scenario::KillFollower
            | Scenario::KillMinority
            | Scenario::KillAll
            | Scenario::LoseNamenode
            | Scenario::ChangeNamenodes
            | Scenario::KillDatanode => &[Deed::Kill, Deed::Start],
            Scenario::PauseLeader | Scenario::PauseFollower | Scenario::PauseDatanode => {
                &[Deed::Pause, Deed::Resume]
            }
            Scenario::CutLeader | Scenario::CutFollower => &[Deed::Cut, Deed::Join],
            Scenario::StopLeader => &[Deed::Stop, Deed::Start],
            Scenario::FillDisk => &[Deed::Fill, Deed::Free],
            Scenario::Random | Scenario::Calm => &[],
        }
    }

    /// It cuts NameNodes off: the cluster must be in network namespaces.
    pub fn needs_namespaces(self) -> bool {
        self.deeds().contains(&Deed::Cut)
    }

    /// It fills NameNodes' disks: each must have a small one of its own.
    pub fn needs_disks(self) -> bool {
        self.deeds().contains(&Deed::Fill)
    }
}
