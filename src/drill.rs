//! `boomfs drill`: starts a cluster, harms it while clients work, and proves that nothing was lost.

use crate::signals::Signals;
use crate::{cli, output};
use anyhow::{Context, bail};
use boomfs_drill::cluster::Plan;
use boomfs_drill::drill::{self, Settings};
use boomfs_drill::given::Given;
use boomfs_drill::scenario::Scenario;
use boomfs_drill::schedule::Course;
use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `boomfs drill`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What goes wrong: see --list
    #[arg(value_name = "SCENARIO", default_value = "kill-leader", value_parser = scenario)]
    scenario: Scenario,
    /// List the scenarios
    #[arg(long)]
    list: bool,
    /// How often it goes wrong
    #[arg(long, value_name = "N", default_value_t = 20)]
    rounds: u32,
    /// Faults at the times that a file names, whatever state the cluster is in: lines of seconds and a scenario
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "rounds", "interval"])]
    schedule: Option<PathBuf>,
    /// Harm a cluster that runs already: a file that names its NameNodes and what ends, starts and cuts them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["namenodes", "datanodes", "namespaces", "disks"])]
    cluster: Option<PathBuf>,
    /// NameNodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    namenodes: u16,
    /// DataNodes; without any, only metadata is worked with
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=16))]
    datanodes: u16,
    /// Start each NameNode in a network namespace of its own, so that `random` can cut it off, too (needs root)
    #[arg(long)]
    namespaces: bool,
    /// Give each NameNode a small disk in memory, so that `random` can fill it, too (needs root)
    #[arg(long)]
    disks: bool,
    /// How a leader makes sure that it leads before it answers a read: see `boomfs namenode --help`
    #[arg(long, value_enum, default_value_t = cli::Reads::Lease, conflicts_with = "cluster")]
    reads: cli::Reads,
    /// Clients that work at the same time; one more only reads
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=256))]
    clients: u64,
    /// One more client works through a mount
    #[arg(long)]
    mount: bool,
    /// Empty files that are there before anything goes wrong, and must be there at the end
    #[arg(long, value_name = "N", default_value_t = 0)]
    files: u64,
    /// Pause between two operations of a client
    #[arg(long, value_name = "SECONDS", default_value = "0.005", value_parser = cli::seconds)]
    pause: Duration,
    /// The longest time between two faults
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = cli::seconds)]
    interval: Duration,
    /// Where the cluster has its data folders: an empty or missing folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write the report as a web page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the report as JSON; `-` prints it instead of the text
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn scenario(name: &str) -> Result<Scenario, String> {
    Scenario::of(name).ok_or_else(Scenario::names)
}

/// Runs it.
///
/// # Errors
/// The cluster does not start or recover; something was lost.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if args.list {
        let widest = Scenario::ALL.iter().map(|s| s.name().len()).max();
        let widest = widest.unwrap_or(0);
        return Scenario::ALL
            .iter()
            .try_for_each(|s| output::line(&format!("{:widest$}  {}", s.name(), s.about())));
    }
    let course = match &args.schedule {
        Some(path) => Course::read(path)?,
        None => Course::Rounds {
            scenario: args.scenario,
            rounds: args.rounds,
            interval: args.interval,
        },
    };
    let (folder, temporary) = match &args.data {
        Some(folder) => (folder.clone(), false),
        None => {
            let name = format!("boomfs-drill-{}", std::process::id());
            (std::env::temp_dir().join(name), true)
        }
    };
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let mut there =
        std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    if there.next().is_some() {
        bail!(
            "{} is not empty: a drill starts a cluster of its own; name an empty or a missing folder",
            folder.display()
        );
    }
    let mut signals = Signals::install()?;
    let stopped = Cell::new(false);
    let stop = async {
        let signal = signals.next().await;
        stopped.set(true);
        signal
    };
    let outcome = drill(&args, folder.clone(), course, stop).await;
    // What is in the folders may tell why a drill failed.
    if temporary && (outcome.is_ok() || stopped.get()) {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    } else if std::fs::remove_dir(&folder).is_err() {
        // An empty one, as after a drill with a cluster file, is gone.
        eprintln!(
            "boomfs: the data folders of the drill are in {}",
            folder.display()
        );
    }
    outcome
}

async fn drill(
    args: &Args,
    folder: PathBuf,
    course: Course,
    stop: impl Future<Output = &'static str>,
) -> anyhow::Result<()> {
    let scenarios = course.scenarios();
    let settings = Settings {
        plan: Plan {
            binary: std::env::current_exe().context("cannot find this program")?,
            folder,
            namenodes: usize::from(args.namenodes),
            datanodes: usize::from(args.datanodes),
            namespaces: args.namespaces || scenarios.iter().any(|s| s.needs_namespaces()),
            reads: args.reads.name(),
            disks: (args.disks || scenarios.iter().any(|s| s.needs_disks())).then_some(args.files),
        },
        given: args.cluster.as_deref().map(Given::read).transpose()?,
        course,
        clients: args.clients,
        pause: args.pause,
        mount: args.mount,
        files: args.files,
    };
    let report = drill::run(&settings, |line| eprintln!("{line}"), stop).await?;
    if let Some(path) = &args.html {
        std::fs::write(path, report.html())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let json = serde_json::to_string_pretty(&report)?;
    match &args.json {
        Some(path) if path.as_os_str() == "-" => output::line(&json)?,
        Some(path) => {
            std::fs::write(path, json + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
            output::line(&report.text())?;
        }
        None => output::line(&report.text())?,
    }
    if !report.is_clean() {
        bail!("the drill was not clean");
    }
    Ok(())
}
