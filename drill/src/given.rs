//! A cluster that runs already, and the commands that harm and mend its parts.

use crate::Process;
use crate::target::Deed;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(60);

/// A NameNode, and what harms and mends it. Each is a command line for `sh`, which ends when it is done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameNode {
    /// Where it listens, `host:port`.
    pub addr: String,
    /// Ends the process with SIGKILL.
    pub kill: Option<String>,
    /// Asks it to stop (SIGTERM), and waits until it has.
    pub stop: Option<String>,
    /// Starts it again, on the same folder and address.
    pub start: Option<String>,
    /// SIGSTOP.
    pub pause: Option<String>,
    /// SIGCONT.
    pub resume: Option<String>,
    /// Cuts it off from everybody.
    pub cut: Option<String>,
    /// Joins it again.
    pub join: Option<String>,
    /// Takes what is free on its disk; run again and again while another is to take over.
    pub fill: Option<String>,
    /// Gives it back.
    pub free: Option<String>,
}

/// A DataNode.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataNode {
    /// Ends the process with SIGKILL.
    pub kill: Option<String>,
    /// Starts it again.
    pub start: Option<String>,
    /// SIGSTOP.
    pub pause: Option<String>,
    /// SIGCONT.
    pub resume: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    namenodes: Vec<NameNode>,
    #[serde(default)]
    datanodes: Vec<DataNode>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Given {
    namenodes: Vec<NameNode>,
    datanodes: Vec<DataNode>,
    /// What is still to be done so that all is as it was.
    open: BTreeMap<Part, Deed>,
}

/// A part, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    NameNode(usize),
    DataNode(usize),
}

impl NameNode {
    fn command(&self, deed: Deed) -> Option<&str> {
        let command = match deed {
            Deed::Kill => &self.kill,
            Deed::Stop => &self.stop,
            Deed::Start => &self.start,
            Deed::Pause => &self.pause,
            Deed::Resume => &self.resume,
            Deed::Cut => &self.cut,
            Deed::Join => &self.join,
            Deed::Fill => &self.fill,
            Deed::Free => &self.free,
        };
        command.as_deref()
    }
}

impl DataNode {
    fn command(&self, deed: Deed) -> Option<&str> {
        match deed {
            Deed::Kill => self.kill.as_deref(),
            Deed::Start => self.start.as_deref(),
            Deed::Pause => self.pause.as_deref(),
            Deed::Resume => self.resume.as_deref(),
            Deed::Stop | Deed::Cut | Deed::Join | Deed::Fill | Deed::Free => None,
        }
    }
}

impl Given {
    /// Reads a cluster file: JSON, see docs/DRILLS.md.
    ///
    /// # Errors
    /// It cannot be read, is not such a file, or names no NameNode.
    pub fn read(path: &Path) -> Result<Given> {
        let what = || format!("cluster file {}", path.display());
        let text = std::fs::read_to_string(path).with_context(what)?;
        let file: File = serde_json::from_str(&text).with_context(what)?;
        ensure!(!file.namenodes.is_empty(), "{}: no NameNodes", what());
        Ok(Given {
            namenodes: file.namenodes,
            datanodes: file.datanodes,
            open: BTreeMap::new(),
        })
    }

    /// Where the NameNodes listen.
    pub fn addrs(&self) -> Vec<String> {
        self.namenodes.iter().map(|n| n.addr.clone()).collect()
    }

    /// How many NameNodes it names.
    pub fn namenodes(&self) -> usize {
        self.namenodes.len()
    }

    /// How many DataNodes it names.
    pub fn datanodes(&self) -> usize {
        self.datanodes.len()
    }

    /// False while a NameNode is ended by this drill.
    pub fn runs(&self, at: usize) -> bool {
        self.open.get(&Part::NameNode(at)) != Some(&Deed::Start)
    }

    /// The file has a command for it, for every NameNode.
    pub fn can(&self, deed: Deed) -> bool {
        self.namenodes.iter().all(|n| n.command(deed).is_some())
    }

    /// The file has a command for it, for every DataNode, of which there is one at least.
    pub fn can_datanodes(&self, deed: Deed) -> bool {
        let mut all = self.datanodes.iter();
        !self.datanodes.is_empty() && all.all(|n| n.command(deed).is_some())
    }

    /// Does it to a NameNode, counted from 0.
    ///
    /// # Errors
    /// The file has no command for it; the command fails, or takes too long.
    pub fn namenode(&mut self, at: usize, deed: Deed) -> Result<()> {
        self.act(Part::NameNode(at), deed)
    }

    /// Does it to a DataNode, counted from 0.
    ///
    /// # Errors
    /// As [`Given::namenode`].
    pub fn datanode(&mut self, at: usize, deed: Deed) -> Result<()> {
        self.act(Part::DataNode(at), deed)
    }

    fn act(&mut self, part: Part, deed: Deed) -> Result<()> {
        let (list, at, command) = match part {
            Part::NameNode(at) => {
                let node = self.namenodes.get(at).context("no such NameNode")?;
                ("namenodes", at, node.command(deed))
            }
            Part::DataNode(at) => {
                let node = self.datanodes.get(at).context("no such DataNode")?;
                ("datanodes", at, node.command(deed))
            }
        };
        let name = deed.name();
        let Some(command) = command else {
            bail!("the cluster file has no command \"{name}\" for {list}[{at}]");
        };
        // Noted first: one that fails may have done a part of it.
        if let Some(undo) = deed.undo() {
            self.open.insert(part, undo);
        }
        run(command).with_context(|| format!("\"{name}\" of {list}[{at}]"))?;
        if deed.undo().is_none() {
            self.open.remove(&part);
        }
        Ok(())
    }

    /// Does what is still to be done so that all is as it was; gives what cannot be.
    pub fn mend(&mut self) -> Vec<anyhow::Error> {
        let open: Vec<(Part, Deed)> = self.open.iter().map(|(p, d)| (*p, *d)).collect();
        open.into_iter()
            .filter_map(|(part, deed)| self.act(part, deed).err())
            .collect()
    }
}

fn run(command: &str) -> Result<()> {
    let mut shell = Command::new("sh");
    let mut process = Process::start(command, shell.args(["-c", command]))?;
    let status = process.wait(COMMAND)?;
    ensure!(
        status.success(),
        "`{command}` ended with {status}: {}",
        process.stderr().join(" ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_file_says_what_can_be_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.json");
        let mark = folder.path().join("killed");
        let text = serde_json::json!({
            "namenodes": [
                {"addr": "a:1", "kill": format!("touch {}", mark.display()), "start": "exit 3"},
                {"addr": "b:1", "kill": "true"},
            ],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        let mut given = Given::read(&path).unwrap();
        assert_eq!(given.addrs(), ["a:1", "b:1"]);
        assert!(given.can(Deed::Kill) && !given.can(Deed::Start) && !given.can(Deed::Cut));
        assert!(!given.can_datanodes(Deed::Kill));
        given.namenode(0, Deed::Kill).unwrap();
        assert!(mark.exists() && !given.runs(0) && given.runs(1));
        let failed = format!("{:#}", given.namenode(0, Deed::Start).unwrap_err());
        assert!(failed.contains("\"start\" of namenodes[0]"), "{failed}");
        assert!(failed.contains("exit status: 3"), "{failed}");
        let lacks = given.namenode(1, Deed::Cut).unwrap_err().to_string();
        assert!(
            lacks.contains("no command \"cut\" for namenodes[1]"),
            "{lacks}"
        );
    }

    #[test]
    fn what_a_drill_left_open_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.json");
        let marks = ["kill", "start", "resume"].map(|name| folder.path().join(name));
        let touch = |at: usize| format!("touch {}", marks[at].display());
        let text = serde_json::json!({
            "namenodes": [
                {"addr": "a:1", "kill": touch(0), "start": touch(1)},
                {"addr": "b:1", "pause": "exit 1", "resume": touch(2)},
                {"addr": "c:1", "cut": "true", "join": "exit 4"},
            ],
            "datanodes": [{"kill": "true", "start": "true"}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        let mut given = Given::read(&path).unwrap();
        assert!(given.mend().is_empty());
        given.namenode(0, Deed::Kill).unwrap();
        // Half of it may have been done.
        given.namenode(1, Deed::Pause).unwrap_err();
        given.namenode(2, Deed::Cut).unwrap();
        given.datanode(0, Deed::Kill).unwrap();
        given.datanode(0, Deed::Start).unwrap();
        let left = given.mend();
        assert!(marks.iter().all(|mark| mark.exists()) && given.runs(0));
        let left: Vec<String> = left.iter().map(|why| format!("{why:#}")).collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].contains("\"join\" of namenodes[2]"), "{left:?}");
    }

    #[test]
    fn the_cluster_file_in_the_docs_is_one() {
        let page = include_str!("../../docs/DRILLS.md");
        let from = page.find("```json").unwrap() + "```json".len();
        let text = &page[from..];
        let text = &text[..text.find("```").unwrap()];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.json");
        std::fs::write(&path, text).unwrap();
        let given = Given::read(&path).unwrap();
        assert!(given.can(Deed::Pause) && given.can(Deed::Cut) && given.can(Deed::Stop));
        assert!(given.can_datanodes(Deed::Kill) && given.can_datanodes(Deed::Resume));
    }

    #[test]
    fn a_cluster_file_with_a_mistake_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.json");
        for (text, why) in [
            ("{", "cluster.json"),
            (r#"{"namenodes": []}"#, "no NameNodes"),
            (r#"{"namenodes": [{"adr": "a:1"}]}"#, "unknown field `adr`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", Given::read(&path).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        assert!(Given::read(&folder.path().join("none")).is_err());
    }
}
