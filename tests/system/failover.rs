//! Several NameNodes as processes: what a mount notices when they are killed and stopped.

use crate::lab;
use anyhow::{Context, Result, ensure};
use boomfs_client::{At, Caller, Client, Config, Ino};
use boomfs_drill::cluster::{Cluster, Plan};
use boomfs_drill::drill::{Settings, run};
use boomfs_drill::report::Report;
use boomfs_drill::scenario::Scenario;
use boomfs_drill::schedule::Course;
use boomfs_io::Io;
use boomfs_tests::{Fuse, Lab, Process, Tree, differences, eventually, fuse};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a drill may take to begin, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(90);

fn plan(lab: &Lab, namenodes: usize, datanodes: usize) -> Plan {
    Plan {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_boomfs")),
        folder: lab.path("cluster"),
        namenodes,
        datanodes,
        namespaces: false,
        disks: None,
        reads: "lease",
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// Faults one after the other, clients that work through them, and a history that a single machine could have had.
fn drill(scenario: Scenario, namenodes: usize, rounds: u32) -> Result<()> {
    let lab = lab()?;
    std::fs::create_dir(lab.path("cluster"))?;
    let settings = Settings {
        plan: Plan {
            namespaces: scenario.needs_namespaces(),
            disks: scenario.needs_disks().then_some(0),
            ..plan(&lab, namenodes, 3)
        },
        given: None,
        course: Course::Rounds {
            scenario,
            rounds,
            interval: Duration::from_millis(500),
        },
        clients: 3,
        pause: Duration::from_millis(10),
        mount: scenario == Scenario::Random && fuse()? != Fuse::Skip,
        files: match scenario {
            Scenario::LoseNamenode => 2_500,
            _ => 0,
        },
    };
    let tell = |line: &str| println!("{line}");
    let report = runtime()?.block_on(run(&settings, tell, std::future::pending()))?;
    println!("{}", report.text());
    ensure!(report.is_clean(), "{}", report.text());
    Ok(())
}

#[test]
fn leaders_that_are_killed_one_after_the_other_lose_nothing() -> Result<()> {
    drill(Scenario::KillLeader, 3, 4)
}

#[test]
fn a_leader_that_is_stopped_for_a_while_is_replaced_and_comes_back() -> Result<()> {
    drill(Scenario::PauseLeader, 3, 2)
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over() -> Result<()> {
    drill(Scenario::StopLeader, 3, 2)
}

#[test]
fn a_leader_that_is_cut_off_for_a_while_is_replaced_and_comes_back() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return Ok(());
    }
    drill(Scenario::CutLeader, 3, 2)
}

#[test]
fn a_leader_whose_disk_is_full_makes_way() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting small disks needs root");
        return Ok(());
    }
    drill(Scenario::FillDisk, 3, 1)
}

/// Faults at certain times, one of them before the cluster is whole again after the one above it.
#[test]
fn a_schedule_says_when_what_goes_wrong() -> Result<()> {
    let lab = lab()?;
    let file = lab.path("schedule");
    let text =
        "0.2 kill-leader # one\n0.3 kill-leader\n0.4 pause-datanode\n1 pause-follower\n1 calm\n";
    std::fs::write(&file, text)?;
    let (file, data) = (
        file.display().to_string(),
        lab.path("data").display().to_string(),
    );
    let args = ["drill", "--schedule", &file, "--data", &data, "--json", "-"];
    let ran = lab.boomfs(&args)?;
    ensure!(ran.code == Some(0), "{ran:?}");
    let report: Report = serde_json::from_str(&ran.stdout)?;
    ensure!(report.is_clean() && report.scenario == "schedule");
    let faults: Vec<Scenario> = report.faults.iter().map(|fault| fault.scenario).collect();
    ensure!(
        faults
            == [
                Scenario::KillLeader,
                Scenario::KillLeader,
                Scenario::PauseDatanode,
                Scenario::PauseFollower,
                Scenario::Calm
            ],
        "{faults:?}"
    );
    ensure!(
        report.faults.is_sorted_by_key(|fault| fault.from_ns) && report.failover.count == 2,
        "{report:?}"
    );
    std::fs::write(lab.path("schedule"), "1 kill")?;
    let ran = lab.boomfs(&["drill", "--schedule", &file])?;
    ensure!(
        ran.code == Some(1) && ran.stderr.contains("line 1, \"1 kill\": the scenarios are"),
        "{ran:?}"
    );
    Ok(())
}

/// What a drill made is gone when it is stopped in its midst.
#[test]
fn a_drill_that_is_interrupted_clears_away() -> Result<()> {
    let lab = lab()?;
    let temporary = lab.path("tmp");
    std::fs::create_dir(&temporary)?;
    let mut args = vec!["drill", "random", "--rounds", "1000", "--interval", "0.2"];
    if rustix::process::geteuid().is_root() {
        args.extend(["--namespaces", "--disks"]);
    }
    if fuse()? != Fuse::Skip {
        args.push("--mount");
    }
    let mut command = lab.command(&args);
    let mut drill = Process::start("drill", command.env("TMPDIR", &temporary))?;
    eventually(PATIENCE, "the second fault", || {
        let said = drill.stderr();
        let second = said.iter().any(|line| line.starts_with("2/1000: "));
        ensure!(second, "it said {said:?}");
        Ok(())
    })?;
    drill.signal(rustix::process::Signal::INT)?;
    let status = drill.wait(PATIENCE)?;
    let last = drill.stderr().last().cloned().unwrap_or_default();
    ensure!(status.code() == Some(1), "{status}: {last}");
    ensure!(last == "boomfs: stopped by SIGINT", "{last}");
    let left: Vec<_> = std::fs::read_dir(&temporary)?.collect();
    ensure!(left.is_empty(), "{left:?}");
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let place = temporary.display().to_string();
    ensure!(!mounts.contains(&place), "{mounts}");
    let links = std::fs::read_dir("/sys/class/net")?.filter_map(Result::ok);
    let tag = format!("bf{}", drill.pid());
    let links: Vec<_> = links.map(|l| l.file_name()).collect();
    ensure!(
        !links
            .iter()
            .any(|name| name.to_string_lossy().starts_with(&tag)),
        "{links:?}"
    );
    ensure!(
        processes_with(&place).is_empty(),
        "{:?}",
        processes_with(&place)
    );
    Ok(())
}

/// Command lines of processes with a word in them.
fn processes_with(word: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(word)).collect()
}

/// A cluster that a file names, and commands that stop its processes for a while.
#[test]
fn a_cluster_that_runs_already_is_harmed_by_commands() -> Result<()> {
    let lab = lab()?;
    std::fs::create_dir(lab.path("cluster"))?;
    let cluster = Cluster::start(&plan(&lab, 3, 1))?;
    let namenodes: Vec<_> = cluster
        .addrs()
        .iter()
        .zip(cluster.pids())
        .map(|(addr, pid)| {
            serde_json::json!({
                "addr": addr,
                "pause": format!("kill -STOP {pid}"),
                "resume": format!("kill -CONT {pid}"),
            })
        })
        .collect();
    let file = lab.path("cluster.json");
    let text = serde_json::json!({ "namenodes": namenodes }).to_string();
    std::fs::write(&file, text)?;
    let file = file.display().to_string();
    let drill = |scenario: &str| {
        // It is kept after a drill that failed.
        let data = lab.path(scenario).display().to_string();
        let args = [
            "drill",
            scenario,
            "--rounds",
            "2",
            "--cluster",
            &file,
            "--data",
            &data,
        ];
        lab.boomfs(&args)
    };
    let ran = drill("pause-leader")?;
    ensure!(ran.code == Some(0), "{ran:?}");
    ensure!(
        ran.stdout.contains("every history is linearizable"),
        "{ran:?}"
    );
    let ran = drill("kill-leader")?;
    ensure!(ran.code == Some(1), "{ran:?}");
    ensure!(ran.stderr.contains("a command \"kill\""), "{ran:?}");
    // What the drill made is gone again.
    let listed = cluster.boomfs(&["fs", "--namenodes", &cluster.addrs().join(","), "ls", "/"])?;
    ensure!(listed.is_empty(), "{listed}");
    Ok(())
}

#[test]
fn a_namenode_that_loses_its_folder_is_replaced() -> Result<()> {
    drill(Scenario::LoseNamenode, 3, 3)
}

#[test]
fn namenodes_are_removed_and_added_while_leaders_are_killed() -> Result<()> {
    drill(Scenario::ChangeNamenodes, 3, 3)
}

#[test]
fn all_namenodes_killed_at_once_lose_nothing() -> Result<()> {
    drill(Scenario::KillAll, 3, 2)
}

#[test]
fn five_namenodes_go_on_without_two() -> Result<()> {
    drill(Scenario::KillMinority, 5, 2)
}

#[test]
fn five_namenodes_take_any_fault() -> Result<()> {
    drill(Scenario::Random, 5, 3)
}

/// A mount in a process of its own.
fn mount(lab: &Lab, cluster: &Cluster) -> Result<(Process, PathBuf)> {
    let place = lab.mountpoint("mnt")?;
    let shown = place.display().to_string();
    let mut process = lab.start(&["mount", &shown, "--namenodes", &cluster.addrs().join(",")])?;
    process.ready(Duration::from_secs(60))?;
    Ok((process, place))
}

#[test]
fn a_tree_is_copied_while_leaders_are_killed() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    std::fs::create_dir(lab.path("cluster"))?;
    let mut cluster = Cluster::start(&plan(&lab, 3, 3))?;
    let (mut process, place) = mount(&lab, &cluster)?;
    let source = lab.path("source");
    Tree::generate(&source, 200, 9)?;
    let copied = AtomicBool::new(false);
    let runtime = runtime()?;
    let kills = std::thread::scope(|scope| {
        let harm = scope.spawn(|| {
            let mut kills = 0;
            while kills < 2 || (!copied.load(Ordering::Relaxed) && kills < 20) {
                let leader = runtime.block_on(cluster.leader()).context("no leader")?;
                cluster.kill_namenode(leader)?;
                std::thread::sleep(Duration::from_secs(2));
                cluster.start_namenode(leader)?;
                std::thread::sleep(Duration::from_secs(1));
                kills += 1;
            }
            Ok::<_, anyhow::Error>(kills)
        });
        let script = format!("cp -a {}/. copy", source.display());
        std::fs::create_dir(place.join("copy"))?;
        let done = lab.sh(&place, &script);
        copied.store(true, Ordering::Relaxed);
        let kills = harm
            .join()
            .map_err(|_| anyhow::anyhow!("the killer panicked"))??;
        done?;
        Ok::<_, anyhow::Error>(kills)
    })?;
    ensure!(kills >= 2);
    let found = differences(&source, &place.join("copy"))?;
    ensure!(found.is_empty(), "{found:?}");
    process.stop(Duration::from_secs(60))
}

#[test]
fn a_namenode_is_replaced_and_leadership_handed_over() -> Result<()> {
    let lab = lab()?;
    std::fs::create_dir(lab.path("cluster"))?;
    let mut cluster = Cluster::start(&plan(&lab, 3, 0))?;
    let runtime = runtime()?;
    let all = cluster.addrs().join(",");
    let leader = runtime.block_on(cluster.leader()).context("no leader")?;
    let node = |at: usize| -> Result<String> {
        let identity = runtime
            .block_on(cluster.identity(at))
            .context("no answer")?;
        Ok(identity.node.to_string())
    };
    let (next, lost) = ((leader + 1) % 3, (leader + 2) % 3);
    let (next, gone) = (node(next)?, node(lost)?);
    let said = cluster.boomfs(&["namenode", "transfer", &next, "--namenodes", &all])?;
    ensure!(said == format!("NameNode {next} leads"), "{said}");
    // One loses its folder for good; another one takes its place.
    cluster.kill_namenode(lost)?;
    let data = lab.path("new").display().to_string();
    let mut new = lab.start(&[
        "namenode",
        "--data",
        &data,
        "--listen",
        "127.0.0.1:0",
        "--join",
        &all,
    ])?;
    let ready = new.ready(Duration::from_secs(60))?;
    let addr = ready.rsplit(' ').next().context("no address")?;
    let said = cluster.boomfs(&["namenode", "replace", &gone, addr, "--namenodes", &all])?;
    ensure!(
        said.ends_with(&format!("in the place of NameNode {gone}")),
        "{said}"
    );
    let status = cluster.boomfs(&["status", "--json", "--namenodes", &all])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let names = status
        .get("namenodes")
        .and_then(|n| n.as_array())
        .context("no NameNodes")?;
    ensure!(
        names.len() == 3 && names.iter().all(|n| n.get("votes") == Some(&true.into())),
        "{status}"
    );
    new.stop(Duration::from_secs(60))
}

async fn mkdir(client: &Client, name: &str) -> Result<()> {
    let place = At {
        base: Ino::ROOT,
        path: vec![name.as_bytes().to_vec()],
    };
    client.mkdir(&Caller::default(), &place, 0o755).await?;
    Ok(())
}

#[test]
fn a_watched_query_goes_on_at_the_next_leader() -> Result<()> {
    let lab = lab()?;
    std::fs::create_dir(lab.path("cluster"))?;
    let mut cluster = Cluster::start(&plan(&lab, 3, 0))?;
    let runtime = runtime()?;
    let addrs = cluster.addrs();
    let all = addrs.join(",");
    let query = "? name(Name) :- dentry(_, Name, _, _);";
    let mut watch = lab.start(&["query", query, "--watch", "--json", "--namenodes", &all])?;
    let most = Duration::from_secs(30);
    watch.line(most, |line| line.contains(r#""change":"start""#))?;
    runtime.block_on(async {
        let client = Client::connect(Io::real(), Config::new(addrs, "watched")).await?;
        mkdir(&client, "before").await?;
        watch.line(most, |line| line.contains("before"))?;
        let leader = cluster.leader().await.context("no leader")?;
        cluster.kill_namenode(leader)?;
        // It says that it starts anew, tells all there is, and goes on from there.
        let starts = |watch: &Process| {
            let lines = watch.stdout();
            lines
                .iter()
                .filter(|l| l.contains(r#""change":"start""#))
                .count()
        };
        mkdir(&client, "after").await?;
        watch.line(most, |line| line.contains("after"))?;
        ensure!(starts(&watch) == 2, "{:?}", watch.stdout());
        let again = watch
            .stdout()
            .iter()
            .filter(|l| l.contains("before"))
            .count();
        ensure!(again == 2, "{:?}", watch.stdout());
        client.close().await?;
        Ok(())
    })?;
    watch.stop(most)
}
