//! NameNode operations a second over its socket, synced, at 1 and 64 in flight, the load generator
//! included; and 10,000 creates in one directory. Commands carry what a client's would. An argument such as
//! `create+close/64` runs that many in flight alone, and of a round what comes up to that operation.
#![allow(clippy::disallowed_methods, reason = "benches measure a real machine")]

use anyhow::{Context, Result, bail};
use boomfs_benches::measure::{machine, median, resident};
use boomfs_drill::cluster::{Cluster, Plan};
use boomfs_io::{Io, ReadHalf, WriteHalf};
use boomfs_wire::{
    Answer, At, Caller, FromNameNode, Ino, Kind, Op, Peer, ReadOp, ToNameNode, encode_message,
    read_message,
};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, BufReader};

const ROUNDS: usize = 3;

struct Load {
    read: BufReader<ReadHalf>,
    write: WriteHalf,
    seq: u64,
    req: u64,
    acked: u64,
    renewed: Instant,
}

/// How often a client says that its session lives.
const RENEWAL: Duration = Duration::from_secs(3);

#[derive(Clone)]
enum Ask {
    Command(Op),
    Read(ReadOp),
}

impl Load {
    async fn connect(addr: &str) -> Result<Load> {
        let stream = Io::real().connect(addr, Duration::from_secs(5)).await?;
        let (read, write) = stream.into_split();
        let mut load = Load {
            read: BufReader::with_capacity(1 << 20, read),
            write,
            seq: 0,
            req: 0,
            acked: 0,
            renewed: Instant::now(),
        };
        let peer = Peer::Client {
            session: None,
            nonce: std::process::id().into(),
            name: "bench".to_string(),
        };
        load.send(&[ToNameNode::Hello {
            cluster: None,
            peer,
        }])
        .await?;
        match load.receive().await? {
            FromNameNode::Welcome { .. } => Ok(load),
            other => bail!("not welcome: {other:?}"),
        }
    }

    async fn send(&mut self, messages: &[ToNameNode]) -> Result<()> {
        let mut bytes = Vec::new();
        for m in messages {
            bytes.extend(encode_message(m, 0)?);
        }
        self.write.write_all(&bytes).await?;
        self.write.flush().await?;
        Ok(())
    }

    async fn receive(&mut self) -> Result<FromNameNode> {
        let (message, _) = read_message(&mut self.read)
            .await?
            .context("the NameNode closed the connection")?;
        Ok(message)
    }

    fn message(&mut self, ask: Ask) -> (u64, ToNameNode) {
        let caller = Caller::default();
        match ask {
            Ask::Command(op) => {
                self.seq += 1;
                (
                    self.seq,
                    ToNameNode::Command {
                        seq: self.seq,
                        ack: self.acked,
                        caller,
                        op,
                    },
                )
            }
            Ask::Read(op) => {
                self.req += 1;
                (
                    1 << 40 | self.req,
                    ToNameNode::Read {
                        req: self.req,
                        caller,
                        op,
                    },
                )
            }
        }
    }

    /// Runs all with so many in flight; gives the answers in order and the time.
    async fn run(&mut self, asks: Vec<Ask>, in_flight: usize) -> Result<(Vec<Answer>, Duration)> {
        let start = Instant::now();
        let total = asks.len();
        let mut waiting: HashMap<u64, usize> = HashMap::new();
        let mut answers: Vec<Option<Answer>> = vec![None; total];
        let mut asks = asks.into_iter().enumerate();
        let mut done = 0;
        let mut room = in_flight;
        while done < total {
            let mut out = Vec::new();
            while room > 0
                && let Some((at, ask)) = asks.next()
            {
                let (id, message) = self.message(ask);
                waiting.insert(id, at);
                out.push(message);
                room -= 1;
            }
            if self.renewed.elapsed() > RENEWAL {
                self.renewed = Instant::now();
                out.push(ToNameNode::Renew {
                    orphans: Vec::new(),
                });
            }
            if !out.is_empty() {
                self.send(&out).await?;
            }
            // Take what has come, then fill up again.
            loop {
                let (id, result) = match self.receive().await? {
                    FromNameNode::Answered { seq, result } => {
                        self.acked = self.acked.max(seq.saturating_sub(512));
                        (seq, result)
                    }
                    FromNameNode::ReadAnswered { req, result } => (1 << 40 | req, result),
                    FromNameNode::Renewed if self.read.buffer().is_empty() => break,
                    FromNameNode::Renewed => continue,
                    other => bail!("unexpected {other:?}"),
                };
                let at = waiting.remove(&id).context("an answer to nothing")?;
                if let Some(slot) = answers.get_mut(at) {
                    *slot = Some(result.map_err(|f| anyhow::anyhow!("{f}"))?);
                }
                done += 1;
                room += 1;
                if self.read.buffer().is_empty() || done == total {
                    break;
                }
            }
        }
        Ok((answers.into_iter().flatten().collect(), start.elapsed()))
    }
}

fn at(base: Ino, name: String) -> At {
    At {
        base,
        path: vec![name.into_bytes()],
    }
}

fn create(base: Ino, name: String) -> Op {
    Op::Create {
        at: at(base, name),
        kind: Kind::File,
        mode: 0o644,
        rdev: 0,
        exclusive: true,
        lease: true,
        block_size: 0,
        replication: 0,
        ino: Ino(0),
    }
}

fn ino(answer: &Answer) -> Result<Ino> {
    match answer {
        Answer::Attr(attr) => Ok(attr.ino),
        other => bail!("no attributes: {other:?}"),
    }
}

struct Report {
    rates: HashMap<(String, usize), Vec<f64>>,
    /// The last operation of a round that is wanted, and how many in flight.
    only: Option<(String, usize)>,
}

impl Report {
    fn note(&mut self, what: &str, in_flight: usize, n: usize, time: Duration) {
        let rate = n as f64 / time.as_secs_f64();
        self.rates
            .entry((what.to_string(), in_flight))
            .or_default()
            .push(rate);
    }

    /// Is this the last that is wanted of a round?
    fn ends_with(&self, what: &str) -> bool {
        self.only.as_ref().is_some_and(|(last, _)| last == what)
    }

    fn print(&self) {
        let mut in_flights: Vec<usize> = self.rates.keys().map(|(_, n)| *n).collect();
        in_flights.sort_unstable();
        in_flights.dedup();
        for in_flight in in_flights {
            for what in [
                "mkdir",
                "create+close",
                "stat",
                "list 200",
                "rename",
                "delete",
                "creates in one directory",
            ] {
                if let Some(rates) = self.rates.get(&(what.to_string(), in_flight)) {
                    let times = rates
                        .iter()
                        .map(|r| Duration::from_secs_f64(1.0 / r))
                        .collect();
                    let middle = 1.0 / median(times).as_secs_f64();
                    println!(
                        "{in_flight:3} in flight  {what:26} {middle:10.0} /s   {}",
                        spread(rates)
                    );
                }
            }
        }
    }
}

fn spread(rates: &[f64]) -> String {
    let all: Vec<String> = rates.iter().map(|r| format!("{r:.0}")).collect();
    format!("(of {})", all.join(", "))
}

/// One round of every operation, in a directory of its own.
async fn round(load: &mut Load, report: &mut Report, in_flight: usize, round: usize) -> Result<()> {
    let n = if in_flight == 1 { 1_000 } else { 10_000 };
    let top = load
        .run(
            vec![Ask::Command(mkdir(
                Ino::ROOT,
                format!("bench-{in_flight}-{round}"),
            ))],
            1,
        )
        .await?
        .0;
    let top = ino(top.first().context("no answer")?)?;
    let dirs = (0..n / 10)
        .map(|i| Ask::Command(mkdir(top, format!("d{i}"))))
        .collect();
    let (dirs, time) = load.run(dirs, in_flight).await?;
    report.note("mkdir", in_flight, n / 10, time);
    if report.ends_with("mkdir") {
        return Ok(());
    }
    let dirs = dirs.iter().map(ino).collect::<Result<Vec<_>>>()?;
    let dir = |i: usize| dirs.get(i % dirs.len()).copied().unwrap_or(top);
    // Create takes the write lease; close commits the length and gives it back.
    let start = Instant::now();
    let creates = (0..n)
        .map(|i| Ask::Command(create(dir(i), format!("f{i}"))))
        .collect();
    let (files, _) = load.run(creates, in_flight).await?;
    let files = files.iter().map(ino).collect::<Result<Vec<_>>>()?;
    let closes = files
        .iter()
        .map(|f| Ask::Command(Op::ReleaseLease { ino: *f }))
        .collect();
    load.run(closes, in_flight).await?;
    report.note("create+close", in_flight, n, start.elapsed());
    if report.ends_with("create+close") {
        return Ok(());
    }
    let stats = (0..n)
        .map(|i| {
            Ask::Read(ReadOp::Lookup {
                at: at(dir(i), format!("f{i}")),
                follow: false,
            })
        })
        .collect();
    report.note("stat", in_flight, n, load.run(stats, in_flight).await?.1);
    if report.ends_with("stat") {
        return Ok(());
    }
    let lists = (0..n / 10)
        .map(|i| {
            Ask::Read(ReadOp::ReadDir {
                ino: top,
                after: i as u64,
                limit: 200,
            })
        })
        .collect();
    report.note(
        "list 200",
        in_flight,
        n / 10,
        load.run(lists, in_flight).await?.1,
    );
    let renames = (0..n)
        .map(|i| {
            let (from, to) = (at(dir(i), format!("f{i}")), at(dir(i), format!("g{i}")));
            Ask::Command(Op::Rename {
                from,
                to,
                no_replace: false,
                exchange: false,
            })
        })
        .collect();
    report.note(
        "rename",
        in_flight,
        n,
        load.run(renames, in_flight).await?.1,
    );
    let deletes = (0..n)
        .map(|i| {
            Ask::Command(Op::Unlink {
                at: at(dir(i), format!("g{i}")),
            })
        })
        .collect();
    report.note(
        "delete",
        in_flight,
        n,
        load.run(deletes, in_flight).await?.1,
    );
    if in_flight > 1 {
        let one = load
            .run(vec![Ask::Command(mkdir(top, "one".to_string()))], 1)
            .await?
            .0;
        let one = ino(one.first().context("no answer")?)?;
        let creates = (0..n)
            .map(|i| Ask::Command(create(one, format!("file{i}"))))
            .collect();
        report.note(
            "creates in one directory",
            in_flight,
            n,
            load.run(creates, in_flight).await?.1,
        );
    }
    Ok(())
}

fn mkdir(base: Ino, name: String) -> Op {
    Op::Mkdir {
        at: at(base, name),
        mode: 0o755,
        ino: Ino(0),
    }
}

/// Where `cargo build --release` puts the binary, beside this bench.
fn binary() -> Result<std::path::PathBuf> {
    let bench = std::env::current_exe()?;
    let folder = bench.parent().and_then(std::path::Path::parent);
    let binary = folder.context("no target folder")?.join("boomfs");
    if !binary.exists() {
        bail!(
            "{} is missing: run cargo build --release first",
            binary.display()
        );
    }
    Ok(binary)
}

/// What an argument such as `create+close/64` asks for.
fn only() -> Result<Option<(String, usize)>> {
    let Some(arg) = std::env::args().skip(1).find(|a| !a.starts_with('-')) else {
        return Ok(None);
    };
    let (what, in_flight) = arg
        .split_once('/')
        .with_context(|| format!("{arg}: an operation and how many in flight, as in stat/64"))?;
    if !["mkdir", "create+close", "stat"].contains(&what) {
        bail!("{what}: mkdir, create+close and stat can be run without what comes after them");
    }
    let in_flight = in_flight.parse().with_context(|| arg.clone())?;
    Ok(Some((what.to_owned(), in_flight)))
}

async fn measure(addr: &str) -> Result<()> {
    let mut load = Load::connect(addr).await?;
    let mut report = Report {
        rates: HashMap::new(),
        only: only()?,
    };
    let in_flights = match &report.only {
        Some((_, in_flight)) => vec![*in_flight],
        None => vec![1, 64],
    };
    for r in 0..ROUNDS {
        for &in_flight in &in_flights {
            round(&mut load, &mut report, in_flight, r).await?;
        }
    }
    report.print();
    Ok(())
}

/// Several NameNodes, in processes of their own.
fn several(namenodes: usize, folder: &std::path::Path) -> Result<()> {
    let plan = Plan {
        binary: binary()?,
        folder: folder.to_owned(),
        namenodes,
        datanodes: 0,
        namespaces: false,
        disks: None,
        reads: match std::env::var("BOOMFS_BENCH_READS").as_deref() {
            Ok("lease") | Err(_) => "lease",
            Ok("confirm") => "confirm",
            Ok(other) => bail!("BOOMFS_BENCH_READS is lease or confirm, not {other}"),
        },
    };
    let cluster = Cluster::start(&plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let leader = cluster.leader().await.context("no NameNode leads")?;
        let addrs = cluster.addrs();
        measure(addrs.get(leader).context("no such NameNode")?).await
    })
}

fn main() -> Result<()> {
    let namenodes: usize = match std::env::var("BOOMFS_BENCH_NAMENODES") {
        Ok(number) => number.parse().context("BOOMFS_BENCH_NAMENODES")?,
        Err(_) => 1,
    };
    println!(
        "{namenodes} NameNodes over the socket, synced, load generator included: {}",
        machine()
    );
    let folder = tempfile::tempdir()?;
    if namenodes > 1 {
        return several(namenodes, folder.path());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let config = boomfs_namenode::Config::new(folder.path().join("namenode"), "127.0.0.1:0");
        let server = boomfs_namenode::Server::start(Io::real(), config).await?;
        measure(server.addr()).await?;
        println!("resident: {} MiB", resident("self") >> 20);
        server.shutdown().await?;
        Ok(())
    })
}
