//! A drill from beginning to end.

use crate::cluster::{Cluster, Plan};
use crate::given::Given;
use crate::ground::Ground;
use crate::history::Operation;
use crate::linear::{Verdict, check};
use crate::many::Many;
use crate::model::{Answer, Directory, Op};
use crate::mounted::Mount;
use crate::report::{Fault, Loss, Report};
use crate::scenario::Scenario;
use crate::schedule::{Course, Due};
use crate::target::{Deed, Target};
use crate::workload::{Habit, InDirectory, Shared, list_all, work};
use anyhow::{Context, Result, bail, ensure};
use boomfs_client::{Client, Config};
use boomfs_io::Io;
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long the cluster may take until it is whole again after a fault.
const CALM: Duration = Duration::from_secs(60);
/// How long a part stays paused, or cut off, and a DataNode dead.
const PAUSED: Duration = Duration::from_secs(2);
/// A leader is killed within so many ms from when a change of the members was asked for: before, while or just after it
/// takes effect.
const CHANGING: u64 = 300;
/// Pause between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(50);
/// A NameNode that knows all but so many slots of the leader's has caught up.
const NEAR: u64 = 200;
/// Steps of the search for an order in one directory.
const STEPS: u64 = 20_000_000;
/// Acknowledgements that come so soon after the harm was done may still be those of before.
const ECHO_NS: u64 = 10_000_000;

/// What a drill does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster that is started, and the binary of the mount.
    pub plan: Plan,
    /// A cluster that runs already: none is started.
    pub given: Option<Given>,
    /// What goes wrong, and when.
    pub course: Course,
    /// Clients that work; one more only reads.
    pub clients: u64,
    /// Pause between two operations of one client.
    pub pause: Duration,
    /// One more client works through a mount.
    pub mount: bool,
    /// Files that are there before anything goes wrong.
    pub files: u64,
}

/// Runs a drill; `tell` hears how it goes on. When `stop` says why, it ends early: everything is mended and cleared away.
///
/// # Errors
/// The cluster does not start, or does not recover; it was stopped. That something was lost is no error but in the report.
pub async fn run(
    settings: &Settings,
    mut tell: impl FnMut(&str),
    stop: impl Future<Output = &'static str>,
) -> Result<Report> {
    let mut stop = pin!(stop);
    // Not cut short: a part that is starting would be left behind.
    let target = start(settings).await?;
    for scenario in settings.course.scenarios() {
        target.can(scenario)?;
    }
    let io = Io::real();
    let addrs = target.addrs();
    let live = data_nodes(&io, &addrs, &target).await?;
    tell(&format!(
        "{} NameNodes, {live} DataNodes, {} clients",
        addrs.len(),
        settings.clients
    ));
    let (ground, many) = unless(stop.as_mut(), async {
        let ground = Ground::make(io.clone(), addrs.clone()).await?;
        let many = Many::make(io.clone(), addrs.clone(), ground.ino, settings.files).await?;
        Ok((ground, many))
    })
    .await?;
    let shared = Arc::new(Shared::new(io, settings.pause, live > 0, ground.ino));
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
        true => Some(start_mounted(settings, &shared, addrs.clone(), &ground.name).await?),
        false => None,
    };
    let mut chaos = Chaos {
        shared: shared.clone(),
        target,
        faults: Vec::new(),
        done_ns: 0,
    };
    let troubled = unless(stop.as_mut(), chaos.go(&settings.course, &mut tell)).await;
    shared.stop.store(true, Ordering::Relaxed);
    if let Err(why) = troubled {
        for why in chaos.target.mend() {
            tell(&format!("not mended: {why:#}"));
        }
        // Nobody asks any more what they saw.
        clients.iter().for_each(JoinHandle::abort);
        if let Some((mount, worker)) = mounted {
            mount.give_up();
            // What it was doing has failed.
            let _ = worker.await;
        }
        return Err(why);
    }
    let mut losses = Vec::new();
    if let Some((_mount, worker)) = mounted
        && let Err(why) = worker
            .await
            .context("the client of the mount ended early")?
    {
        losses.push(Loss {
            what: "the mount".to_owned(),
            why: format!("{why:#}"),
        });
    }
    let gathered = gather(&shared, &addrs, clients);
    let (directories, unread) = unless(stop.as_mut(), gathered).await?;
    losses.extend(unread);
    tell(&format!("checking {} directories", directories.len()));
    losses.extend(broken(&directories));
    let files = many.losses(shared.io.clone(), addrs.clone());
    losses.extend(unless(stop.as_mut(), files).await?);
    if settings.given.is_some() && losses.is_empty() {
        ground.remove(shared.io.clone(), addrs.clone()).await?;
    }
    let all = directories.into_values().flatten();
    Ok(Report::new(
        settings,
        (addrs.len(), live),
        all.collect(),
        chaos.faults,
        losses,
        &shared,
    ))
}

/// What the clients did, once they have ended, and what they could not read any more.
async fn gather(
    shared: &Arc<Shared>,
    addrs: &[String],
    clients: Vec<JoinHandle<Result<()>>>,
) -> Result<(BTreeMap<String, History>, Vec<Loss>)> {
    let mut losses = Vec::new();
    for client in clients {
        if let Err(why) = client.await.context("a client ended early")? {
            losses.push(Loss {
                what: "contents of a file".to_owned(),
                why: format!("{why:#}"),
            });
        }
    }
    let mut directories = by_directory(shared.recorder.take());
    let names: Vec<String> = directories.keys().cloned().collect();
    list_all(shared, addrs.to_vec(), &names).await?;
    for (name, mut more) in by_directory(shared.recorder.take()) {
        directories.entry(name).or_default().append(&mut more);
    }
    Ok((directories, losses))
}

/// Does something, unless it is stopped before.
async fn unless<T>(
    stop: Pin<&mut impl Future<Output = &'static str>>,
    act: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        why = stop => bail!("stopped by {why}"),
        done = act => done,
    }
}

/// The cluster that was given, or one of its own.
async fn start(settings: &Settings) -> Result<Target> {
    if let Some(given) = &settings.given {
        return Ok(Target::Given(given.clone()));
    }
    let plan = settings.plan.clone();
    ensure!(plan.namenodes > 0, "a drill needs a NameNode");
    let starting = tokio::task::spawn_blocking(move || Cluster::start(&plan));
    Ok(Target::Own(
        starting.await.context("starting the cluster")??,
    ))
}

/// How many DataNodes live. Those of the drill's own cluster may not have said so yet.
async fn data_nodes(io: &Io, addrs: &[String], target: &Target) -> Result<usize> {
    if let Target::Own(cluster) = target {
        return Ok(cluster.datanodes());
    }
    let client = Client::observer(io.clone(), Config::new(addrs.to_vec(), "drill")).await?;
    let status = client.status().await;
    client.close().await?;
    Ok(status?.nodes.iter().filter(|d| d.live).count())
}

/// Mounts the filesystem beside the cluster's folders, and lets a client work there.
async fn start_mounted(
    settings: &Settings,
    shared: &Arc<Shared>,
    addrs: Vec<String>,
    ground: &str,
) -> Result<(Arc<Mount>, JoinHandle<Result<()>>)> {
    let (binary, place) = (
        settings.plan.binary.clone(),
        settings.plan.folder.join("mount"),
    );
    let start = move || Mount::start(&binary, &place, &addrs);
    let mount = tokio::task::spawn_blocking(start).await;
    let mount = Arc::new(mount.context("starting the mount")??);
    let (worker, shared, ground) = (mount.clone(), shared.clone(), ground.to_owned());
    let work = tokio::task::spawn_blocking(move || worker.work(&ground, &shared));
    Ok((mount, work))
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
    target: Target,
    faults: Vec<Fault>,
    /// When the harm of now was done.
    done_ns: u64,
}

impl Chaos {
    async fn go(&mut self, course: &Course, tell: &mut impl FnMut(&str)) -> Result<()> {
        self.calm().await?;
        match course {
            Course::Rounds {
                scenario,
                rounds,
                interval,
            } => {
                let span = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
                for round in 1..=*rounds {
                    self.calm().await?;
                    let wait = span / 10 + self.draw(span - span / 10);
                    self.shared.io.sleep(Duration::from_millis(wait)).await;
                    let what = self.fault(*scenario).await?;
                    tell(&format!("{round}/{rounds}: {what}"));
                }
            }
            Course::Schedule(all) => {
                let began = self.shared.now();
                for Due { at, scenario } in all {
                    let passed = Duration::from_nanos(self.shared.now().saturating_sub(began));
                    self.shared.io.sleep(at.saturating_sub(passed)).await;
                    let what = self.fault(*scenario).await?;
                    tell(&format!("{} s: {what}", at.as_secs_f64()));
                }
            }
        }
        self.calm().await?;
        self.shared.io.sleep(Duration::from_millis(500)).await;
        Ok(())
    }

    /// One fault, until it is mended; tells what it was.
    async fn fault(&mut self, scenario: Scenario) -> Result<String> {
        let scenario = self.pick(scenario);
        let from_ns = self.shared.now();
        self.done_ns = from_ns;
        let what = self.harm(scenario).await?;
        self.faults.push(Fault {
            scenario,
            what: what.clone(),
            from_ns,
            done_ns: self.done_ns,
            to_ns: self.shared.now(),
        });
        Ok(what)
    }

    fn draw(&self, below: u64) -> u64 {
        self.shared.io.random_u64() % below.max(1)
    }

    fn pick(&self, scenario: Scenario) -> Scenario {
        if scenario != Scenario::Random {
            return scenario;
        }
        let all = self.target.possible();
        let at = usize::try_from(self.draw(all.len() as u64)).unwrap_or(0);
        all.get(at).copied().unwrap_or(Scenario::Calm)
    }

    /// Waits until all NameNodes answer, one of them leads, and none is far behind.
    async fn calm(&self) -> Result<()> {
        let started = self.shared.now();
        loop {
            let mut slots = Vec::new();
            let mut leads = false;
            for at in 0..self.target.namenodes() {
                if let Some(identity) = self.target.identity(at).await {
                    leads |= identity.leads;
                    slots.push(identity.slot);
                }
            }
            let newest = slots.iter().max().copied().unwrap_or(0);
            let all = slots.len() == self.target.namenodes();
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
            if let Some(leader) = self.target.leader().await.filter(|l| *l != but) {
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
        let started = self.shared.now();
        loop {
            if let Some(leader) = self.target.leader().await {
                return Ok(leader);
            }
            let since = Duration::from_nanos(self.shared.now().saturating_sub(started));
            ensure!(since < CALM, "no NameNode leads after {CALM:?}");
            self.shared.io.sleep(LOOK).await;
        }
    }

    /// One that does not lead.
    async fn follower(&self) -> Result<usize> {
        let leader = self.leader().await?;
        let count = self.target.namenodes();
        let step = 1 + usize::try_from(self.draw(count as u64 - 1)).unwrap_or(0);
        Ok((leader + step) % count)
    }

    /// One thing, and a while later the other.
    async fn for_a_while(&mut self, at: usize, harm: Deed, mend: Deed) -> Result<()> {
        self.target.namenode(at, harm)?;
        self.done_ns = self.shared.now();
        self.shared.io.sleep(PAUSED).await;
        self.target.namenode(at, mend)
    }

    /// The same to any DataNode, which is told.
    async fn datanode_for_a_while(&mut self, harm: Deed, mend: Deed) -> Result<usize> {
        let count = self.target.datanodes() as u64;
        let at = usize::try_from(self.draw(count)).unwrap_or(0);
        self.target.datanode(at, harm)?;
        self.shared.io.sleep(PAUSED).await;
        self.target.datanode(at, mend)?;
        Ok(at + 1)
    }

    /// Its disk is full until another one leads.
    async fn fill_disk(&mut self) -> Result<String> {
        let leader = self.leader().await?;
        let started = self.shared.now();
        let next = loop {
            // What it removes meanwhile is taken too.
            self.target.namenode(leader, Deed::Fill)?;
            if let Some(next) = self.target.leader().await.filter(|l| *l != leader) {
                break next;
            }
            let since = Duration::from_nanos(self.shared.now().saturating_sub(started));
            ensure!(
                since < CALM,
                "NameNode {}, whose disk is full, still leads after {CALM:?}",
                leader + 1
            );
            self.shared.io.sleep(LOOK).await;
        };
        self.target.namenode(leader, Deed::Free)?;
        Ok(format!(
            "filled the disk of NameNode {}, then {} led",
            leader + 1,
            next + 1
        ))
    }

    /// One that leads or not, and whose place another takes.
    async fn lose_namenode(&mut self) -> Result<String> {
        // The others must have what it has.
        self.calm().await?;
        let count = self.target.namenodes();
        let at = usize::try_from(self.draw(count as u64)).unwrap_or(0);
        let lost = self.target.identity(at).await;
        let lost = lost.with_context(|| format!("NameNode {} does not answer", at + 1))?;
        let what = match lost.leads {
            true => "led",
            false => "did not lead",
        };
        self.target.namenode(at, Deed::Kill)?;
        let from_ns = self.shared.now();
        self.target.replace_namenode(at, lost.node)?;
        self.calm().await?;
        let took = Duration::from_nanos(self.shared.now() - from_ns);
        Ok(format!(
            "NameNode {}, which {what}, lost its folder; after {:.1} s another one in its place knew all",
            at + 1,
            took.as_secs_f64()
        ))
    }

    /// Any of them is removed, and another one added where it was.
    async fn change_namenodes(&mut self) -> Result<String> {
        // The others must have what it has.
        self.calm().await?;
        let count = self.target.namenodes();
        let at = usize::try_from(self.draw(count as u64)).unwrap_or(0);
        let gone = self.target.identity(at).await;
        let gone = gone.with_context(|| format!("NameNode {} does not answer", at + 1))?;
        let node = gone.node.0.to_string();
        let first = self
            .change_under_kill(&["namenode", "remove", &node])
            .await?;
        self.target.namenode(at, Deed::Kill)?;
        self.target.renew_namenode(at)?;
        let addr = self.target.addrs().get(at).cloned().unwrap_or_default();
        let second = self.change_under_kill(&["namenode", "add", &addr]).await?;
        self.calm().await?;
        Ok(format!(
            "removed NameNode {}, and killed {first} meanwhile; added another one, and killed {second} meanwhile",
            at + 1
        ))
    }

    /// A change of the members, during which the leader is killed and started again; tells which one.
    async fn change_under_kill(&mut self, args: &[&str]) -> Result<usize> {
        let change = self.target.begin(args)?;
        let wait = self.draw(CHANGING);
        self.shared.io.sleep(Duration::from_millis(wait)).await;
        let leader = self.leader().await?;
        self.target.namenode(leader, Deed::Kill)?;
        // At once: with one removed the others may need it.
        self.target.namenode(leader, Deed::Start)?;
        change.end()?;
        Ok(leader + 1)
    }

    async fn kill_leader(&mut self) -> Result<String> {
        let leader = self.leader().await?;
        self.target.namenode(leader, Deed::Kill)?;
        self.done_ns = self.shared.now();
        if self.target.namenodes() == 1 {
            self.target.namenode(leader, Deed::Start)?;
            return Ok(format!("killed NameNode {}", leader + 1));
        }
        let next = self.taken_over(leader).await?;
        self.target.namenode(leader, Deed::Start)?;
        Ok(format!(
            "killed NameNode {}, then {} led",
            leader + 1,
            next + 1
        ))
    }

    /// The leader and as many others as can be missing. The rest works without them for a while.
    async fn kill_minority(&mut self) -> Result<String> {
        let leader = self.leader().await?;
        let count = self.target.namenodes();
        let first = usize::try_from(self.draw(count as u64 - 1)).unwrap_or(0);
        let others = (count - 1) / 2 - 1;
        let mut killed = vec![leader];
        killed.extend((0..others).map(|n| (leader + 1 + (first + n) % (count - 1)) % count));
        for at in &killed {
            self.target.namenode(*at, Deed::Kill)?;
        }
        self.done_ns = self.shared.now();
        let next = self.taken_over(leader).await?;
        self.shared.io.sleep(PAUSED).await;
        self.target.start_namenodes()?;
        let numbers: Vec<String> = killed.iter().map(|at| (at + 1).to_string()).collect();
        Ok(format!(
            "killed NameNodes {}, then {} led",
            numbers.join(" and "),
            next + 1
        ))
    }

    async fn harm(&mut self, scenario: Scenario) -> Result<String> {
        self.target.can(scenario)?;
        Ok(match scenario {
            Scenario::KillLeader => self.kill_leader().await?,
            Scenario::PauseLeader => {
                let leader = self.leader().await?;
                self.for_a_while(leader, Deed::Pause, Deed::Resume).await?;
                format!("paused NameNode {} for {PAUSED:?}", leader + 1)
            }
            Scenario::CutLeader => {
                let leader = self.leader().await?;
                self.for_a_while(leader, Deed::Cut, Deed::Join).await?;
                format!("cut NameNode {} off for {PAUSED:?}", leader + 1)
            }
            Scenario::PauseFollower => {
                let follower = self.follower().await?;
                self.for_a_while(follower, Deed::Pause, Deed::Resume)
                    .await?;
                let number = follower + 1;
                format!("paused NameNode {number}, which did not lead, for {PAUSED:?}")
            }
            Scenario::CutFollower => {
                let follower = self.follower().await?;
                self.for_a_while(follower, Deed::Cut, Deed::Join).await?;
                let number = follower + 1;
                format!("cut NameNode {number}, which did not lead, off for {PAUSED:?}")
            }
            Scenario::StopLeader => {
                let leader = self.leader().await?;
                self.target.namenode(leader, Deed::Stop)?;
                self.target.namenode(leader, Deed::Start)?;
                format!("stopped NameNode {}", leader + 1)
            }
            Scenario::FillDisk => self.fill_disk().await?,
            Scenario::KillFollower => {
                let follower = self.follower().await?;
                self.target.namenode(follower, Deed::Kill)?;
                self.shared.io.sleep(Duration::from_secs(1)).await;
                self.target.namenode(follower, Deed::Start)?;
                format!("killed NameNode {}, which did not lead", follower + 1)
            }
            Scenario::KillMinority => self.kill_minority().await?,
            Scenario::KillAll => {
                let mut all = 0..self.target.namenodes();
                all.try_for_each(|at| self.target.namenode(at, Deed::Kill))?;
                self.done_ns = self.shared.now();
                self.target.start_namenodes()?;
                "killed all NameNodes".to_owned()
            }
            Scenario::LoseNamenode => self.lose_namenode().await?,
            Scenario::ChangeNamenodes => self.change_namenodes().await?,
            Scenario::KillDatanode => {
                let number = self.datanode_for_a_while(Deed::Kill, Deed::Start).await?;
                format!("killed DataNode {number}")
            }
            Scenario::PauseDatanode => {
                let number = self.datanode_for_a_while(Deed::Pause, Deed::Resume).await?;
                format!("paused DataNode {number} for {PAUSED:?}")
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
        let after = acked.partition_point(|ns| *ns <= fault.done_ns + ECHO_NS);
        let next = acked.get(after).map(|ns| ns - fault.from_ns);
        (fault.from_ns, next)
    })
    .collect()
}
