//! A drill from beginning to end.

use crate::cluster::{Cluster, Plan};
use crate::history::Operation;
use crate::linear::{Verdict, check};
use crate::many::Many;
use crate::model::{Answer, Directory, Op};
use crate::mounted::Mount;
use crate::report::{Fault, Loss, Report};
use crate::scenario::Scenario;
use crate::workload::{Habit, InDirectory, Shared, list_all, work};
use anyhow::{Context, Result, bail, ensure};
use boomfs_io::Io;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the cluster may take until it is whole again after a fault.
const CALM: Duration = Duration::from_secs(60);
/// How long a NameNode stays paused, or cut off.
const PAUSED: Duration = Duration::from_secs(2);
/// Pause between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(50);
/// A NameNode that knows all but so many slots of the leader's has caught up.
const NEAR: u64 = 200;
/// Steps of the search for an order in one directory.
const STEPS: u64 = 20_000_000;
/// Acknowledgements that come so soon after a fault may still be those of before.
const ECHO_NS: u64 = 10_000_000;

/// What a drill does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster.
    pub plan: Plan,
    /// What goes wrong.
    pub scenario: Scenario,
    /// How often.
    pub rounds: u32,
    /// Clients that work; one more only reads.
    pub clients: u64,
    /// Pause between two operations of one client.
    pub pause: Duration,
    /// The longest time between two faults; the shortest is a tenth of it.
    pub interval: Duration,
    /// One more client works through a mount.
    pub mount: bool,
    /// Files that are there before anything goes wrong.
    pub files: u64,
}

/// Runs a drill; `tell` hears how it goes on.
///
/// # Errors
/// The cluster does not start, or does not recover; that something was lost is no error but in the report.
pub async fn run(settings: &Settings, mut tell: impl FnMut(&str)) -> Result<Report> {
    let plan = settings.plan.clone();
    ensure!(plan.namenodes > 0, "a drill needs a NameNode");
    let starting = tokio::task::spawn_blocking(move || Cluster::start(&plan));
    let cluster = starting.await.context("starting the cluster")??;
    let io = Io::real();
    let data = settings.plan.datanodes > 0;
    let addrs = cluster.addrs();
    tell(&format!(
        "{} NameNodes, {} DataNodes, {} clients",
        addrs.len(),
        cluster.datanodes(),
        settings.clients
    ));
    let many = Many::make(io.clone(), addrs.clone(), settings.files).await?;
    let shared = Arc::new(Shared::new(io, settings.pause, data));
    let clients: Vec<_> = (0..=settings.clients)
        .map(|number| {
            let habit = match number {
                0 => Habit::Reads,
                _ => Habit::Changes,
            };
            tokio::spawn(work(shared.clone(), addrs.clone(), number, habit))
        })
        .collect();
    let mounted = match settings.mount {
        true => Some(start_mounted(settings, &shared, addrs.clone()).await?),
        false => None,
    };
    let mut chaos = Chaos {
        shared: shared.clone(),
        cluster,
        faults: Vec::new(),
    };
    let troubled = chaos.rounds(settings, &mut tell).await;
    shared.stop.store(true, Ordering::Relaxed);
    let mut losses = Vec::new();
    for client in clients {
        if let Err(why) = client.await.context("a client ended early")? {
            losses.push(Loss {
                what: "contents of a file".to_owned(),
                why: format!("{why:#}"),
            });
        }
    }
    if let Some(worker) = mounted
        && let Err(why) = worker
            .await
            .context("the client of the mount ended early")?
    {
        losses.push(Loss {
            what: "the mount".to_owned(),
            why: format!("{why:#}"),
        });
    }
    troubled?;
    let mut directories = by_directory(shared.recorder.take());
    let names: Vec<String> = directories.keys().cloned().collect();
    list_all(&shared, addrs.clone(), &names).await?;
    for (name, mut more) in by_directory(shared.recorder.take()) {
        directories.entry(name).or_default().append(&mut more);
    }
    tell(&format!("checking {} directories", directories.len()));
    losses.extend(broken(&directories));
    losses.extend(many.losses(shared.io.clone(), addrs).await?);
    let all = directories.into_values().flatten();
    Ok(Report::new(
        settings,
        all.collect(),
        chaos.faults,
        losses,
        &shared,
    ))
}

/// Mounts the filesystem beside the cluster's folders, and lets a client work there.
async fn start_mounted(
    settings: &Settings,
    shared: &Arc<Shared>,
    addrs: Vec<String>,
) -> Result<tokio::task::JoinHandle<Result<()>>> {
    let (binary, place) = (
        settings.plan.binary.clone(),
        settings.plan.folder.join("mount"),
    );
    let start = move || Mount::start(&binary, &place, &addrs);
    let mount = tokio::task::spawn_blocking(start).await;
    let mount = mount.context("starting the mount")??;
    let shared = shared.clone();
    Ok(tokio::task::spawn_blocking(move || mount.work(&shared)))
}

/// What was done in one directory.
pub type History = Vec<Operation<Op, Answer>>;

/// Sorts operations by where they were done.
pub fn by_directory(all: Vec<InDirectory>) -> BTreeMap<String, History> {
    let mut directories: BTreeMap<String, History> = BTreeMap::new();
    for Operation {
        process,
        op: (directory, op),
        begun_ns,
        ended,
    } in all
    {
        directories.entry(directory).or_default().push(Operation {
            process,
            op,
            begun_ns,
            ended,
        });
    }
    directories
}

/// Directories whose histories no single machine could have had.
pub fn broken(directories: &BTreeMap<String, History>) -> Vec<Loss> {
    let mut losses = Vec::new();
    for (name, history) in directories {
        let why = match check(&Directory, history, STEPS) {
            Verdict::Linearizable => continue,
            Verdict::Unknown { steps } => {
                format!("whether there is an order is not known after {steps} steps")
            }
            Verdict::Broken { placed, stuck } => {
                let show = |at: &usize| history.get(*at).map(|o| format!("{o:?}"));
                let stuck: Vec<String> = stuck.iter().filter_map(show).collect();
                format!(
                    "of {} operations {placed} have an order, and none of these can follow: {}",
                    history.len(),
                    stuck.join("; ")
                )
            }
        };
        losses.push(Loss {
            what: format!("the history of directory {name} is not linearizable"),
            why,
        });
    }
    losses
}

/// Does harm, and waits until it is mended.
struct Chaos {
    shared: Arc<Shared>,
    cluster: Cluster,
    faults: Vec<Fault>,
}

impl Chaos {
    async fn rounds(&mut self, settings: &Settings, tell: &mut impl FnMut(&str)) -> Result<()> {
        for round in 1..=settings.rounds {
            self.calm().await?;
            let span = u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX);
            let wait = span / 10 + self.draw(span - span / 10);
            self.shared.io.sleep(Duration::from_millis(wait)).await;
            let scenario = self.pick(settings.scenario);
            let from_ns = self.shared.now();
            let what = self.harm(scenario).await?;
            tell(&format!("{round}/{}: {what}", settings.rounds));
            self.faults.push(Fault {
                scenario,
                what,
                from_ns,
                to_ns: self.shared.now(),
            });
        }
        self.calm().await?;
        self.shared.io.sleep(Duration::from_millis(500)).await;
        Ok(())
    }

    fn draw(&self, below: u64) -> u64 {
        self.shared.io.random_u64() % below.max(1)
    }

    fn pick(&self, scenario: Scenario) -> Scenario {
        if scenario != Scenario::Random {
            return scenario;
        }
        let mut all = vec![
            Scenario::KillLeader,
            Scenario::PauseLeader,
            Scenario::KillAll,
            Scenario::StopLeader,
        ];
        if self.cluster.has_namespaces() {
            all.push(Scenario::CutLeader);
        }
        if self.cluster.namenodes() > 2 {
            all.push(Scenario::LoseNamenode);
        }
        if self.cluster.namenodes() > 1 {
            all.push(Scenario::KillFollower);
            if self.cluster.has_namespaces() {
                all.push(Scenario::CutFollower);
            }
        }
        if self.cluster.datanodes() > 1 {
            all.push(Scenario::KillDatanode);
        }
        let at = usize::try_from(self.draw(all.len() as u64)).unwrap_or(0);
        all.get(at).copied().unwrap_or(Scenario::KillLeader)
    }

    /// Waits until all NameNodes answer, one of them leads, and none is far behind.
    async fn calm(&self) -> Result<()> {
        let started = self.shared.now();
        loop {
            let mut slots = Vec::new();
            let mut leads = false;
            for at in 0..self.cluster.namenodes() {
                if let Some(identity) = self.cluster.identity(at).await {
                    leads |= identity.leads;
                    slots.push(identity.slot);
                }
            }
            let newest = slots.iter().max().copied().unwrap_or(0);
            let all = slots.len() == self.cluster.namenodes();
            if leads && all && slots.iter().all(|slot| newest - slot <= NEAR) {
                return Ok(());
            }
            let since = Duration::from_nanos(self.shared.now().saturating_sub(started));
            if since > CALM {
                bail!(
                    "the cluster is not whole again after {CALM:?}: slots {slots:?}, leader: {leads}"
                );
            }
            self.shared.io.sleep(LOOK).await;
        }
    }

    /// Waits until one other than this one leads.
    async fn taken_over(&self, but: usize) -> Result<usize> {
        let started = self.shared.now();
        loop {
            if let Some(leader) = self.cluster.leader().await.filter(|l| *l != but) {
                return Ok(leader);
            }
            let since = Duration::from_nanos(self.shared.now().saturating_sub(started));
            if since > CALM {
                bail!("no other NameNode leads after {CALM:?}");
            }
            self.shared.io.sleep(LOOK).await;
        }
    }

    async fn leader(&self) -> Result<usize> {
        let io = &self.shared.io;
        for _ in 0..100 {
            if let Some(leader) = self.cluster.leader().await {
                return Ok(leader);
            }
            io.sleep(LOOK).await;
        }
        bail!("no NameNode leads")
    }

    /// One that does not lead.
    async fn follower(&self) -> Result<usize> {
        let leader = self.leader().await?;
        let count = self.cluster.namenodes();
        ensure!(count > 1, "one NameNode has no follower");
        let step = 1 + usize::try_from(self.draw(count as u64 - 1)).unwrap_or(0);
        Ok((leader + step) % count)
    }

    async fn cut(&self, at: usize) -> Result<()> {
        self.cluster.cut_namenode(at, true)?;
        self.shared.io.sleep(PAUSED).await;
        self.cluster.cut_namenode(at, false)
    }

    /// One that leads or not, and whose place another takes.
    async fn lose_namenode(&mut self) -> Result<String> {
        let count = self.cluster.namenodes();
        ensure!(
            count > 2,
            "of {count} NameNodes none can be lost: the others would be no majority"
        );
        let at = usize::try_from(self.draw(count as u64)).unwrap_or(0);
        let lost = self.cluster.identity(at).await;
        let lost = lost.with_context(|| format!("NameNode {} does not answer", at + 1))?;
        let what = match lost.leads {
            true => "led",
            false => "did not lead",
        };
        self.cluster.kill_namenode(at)?;
        let from_ns = self.shared.now();
        self.cluster.replace_namenode(at, lost.node)?;
        self.calm().await?;
        let took = Duration::from_nanos(self.shared.now() - from_ns);
        Ok(format!(
            "NameNode {}, which {what}, lost its folder; after {:.1} s another one in its place knew all",
            at + 1,
            took.as_secs_f64()
        ))
    }

    async fn harm(&mut self, scenario: Scenario) -> Result<String> {
        let alone = self.cluster.namenodes() == 1;
        Ok(match scenario {
            Scenario::KillLeader => {
                let leader = self.leader().await?;
                self.cluster.kill_namenode(leader)?;
                if alone {
                    self.cluster.start_namenode(leader)?;
                    format!("killed NameNode {}", leader + 1)
                } else {
                    let next = self.taken_over(leader).await?;
                    self.cluster.start_namenode(leader)?;
                    format!("killed NameNode {}, then {} led", leader + 1, next + 1)
                }
            }
            Scenario::PauseLeader => {
                let leader = self.leader().await?;
                self.cluster.pause_namenode(leader, true)?;
                self.shared.io.sleep(PAUSED).await;
                self.cluster.pause_namenode(leader, false)?;
                format!("paused NameNode {} for {PAUSED:?}", leader + 1)
            }
            Scenario::CutLeader => {
                let leader = self.leader().await?;
                self.cut(leader).await?;
                format!("cut NameNode {} off for {PAUSED:?}", leader + 1)
            }
            Scenario::CutFollower => {
                let follower = self.follower().await?;
                self.cut(follower).await?;
                let number = follower + 1;
                format!("cut NameNode {number}, which did not lead, off for {PAUSED:?}")
            }
            Scenario::StopLeader => {
                let leader = self.leader().await?;
                self.cluster.stop_namenode(leader)?;
                self.cluster.start_namenode(leader)?;
                format!("stopped NameNode {}", leader + 1)
            }
            Scenario::KillFollower => {
                let follower = self.follower().await?;
                self.cluster.kill_namenode(follower)?;
                self.shared.io.sleep(Duration::from_secs(1)).await;
                self.cluster.start_namenode(follower)?;
                format!("killed NameNode {}, which did not lead", follower + 1)
            }
            Scenario::KillAll => {
                let all = 0..self.cluster.namenodes();
                all.clone()
                    .try_for_each(|at| self.cluster.kill_namenode(at))?;
                for at in all {
                    self.cluster.start_namenode(at)?;
                }
                "killed all NameNodes".to_owned()
            }
            Scenario::LoseNamenode => self.lose_namenode().await?,
            Scenario::KillDatanode => {
                let count = self.cluster.datanodes() as u64;
                ensure!(count > 0, "there is no DataNode");
                let at = usize::try_from(self.draw(count)).unwrap_or(0);
                self.cluster.kill_datanode(at)?;
                self.shared.io.sleep(Duration::from_secs(2)).await;
                self.cluster.start_datanode(at)?;
                format!("killed DataNode {}", at + 1)
            }
            Scenario::Random | Scenario::Calm => "nothing".to_owned(),
        })
    }
}

/// For each fault that hit the leader, ns from it to the next write that a client was told is done.
pub fn failovers(history: &History, faults: &[Fault]) -> Vec<(u64, Option<u64>)> {
    let mut acked: Vec<u64> = history
        .iter()
        .filter(|o| o.op.writes())
        .filter_map(|o| o.ended.as_ref().map(|(ns, _)| *ns))
        .collect();
    acked.sort_unstable();
    let hits = faults.iter().filter(|f| f.scenario.hits_leader());
    hits.map(|fault| {
        let after = acked.partition_point(|ns| *ns <= fault.from_ns + ECHO_NS);
        let next = acked.get(after).map(|ns| ns - fault.from_ns);
        (fault.from_ns, next)
    })
    .collect()
}
