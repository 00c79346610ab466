//! A mount against a local folder: sequential write and read, and create, stat and unlink of 10,000
//! small files. A cluster of one NameNode and three DataNodes in this process, three copies of
//! everything; needs root and /dev/fuse.
#![allow(clippy::disallowed_methods, reason = "benches measure a real machine")]

use anyhow::{Context, Result};
use boomfs_benches::measure::{machine, median, timed};
use boomfs_client::{Client, Config};
use boomfs_datanode::DataNode;
use boomfs_fuse_mount::{Mount, Options};
use boomfs_io::Io;
use boomfs_namenode::Server;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

const FILES: usize = 10_000;
const STREAM: usize = 256 << 20;
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    println!("mount against a local folder: {}", machine());
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mountpoint = folder.path().join("mnt");
    let local = folder.path().join("local");
    fs::create_dir_all(&mountpoint)?;
    fs::create_dir_all(&local)?;
    let (server, nodes, client, mount) = runtime.block_on(up(folder.path(), &mountpoint))?;
    let mut results: Vec<(&str, Vec<Duration>, Vec<Duration>)> = Vec::new();
    for round in 0..ROUNDS {
        let there = measure(&mountpoint.join(format!("r{round}")))?;
        let here = measure(&local.join(format!("r{round}")))?;
        for ((what, t), (_, h)) in there.into_iter().zip(here) {
            match results.iter_mut().find(|(w, _, _)| *w == what) {
                Some((_, a, b)) => {
                    a.push(t);
                    b.push(h);
                }
                None => results.push((what, vec![t], vec![h])),
            }
        }
    }
    for (what, mounted, local) in results {
        let (m, l) = (median(mounted).as_secs_f64(), median(local).as_secs_f64());
        let rate = |t: f64| {
            if what.starts_with("sequential") {
                STREAM as f64 / t / 1e6
            } else {
                FILES as f64 / t
            }
        };
        let unit = if what.starts_with("sequential") {
            "MB/s"
        } else {
            "/s"
        };
        println!(
            "{what:24} mount {:9.0} {unit:4}  local {:9.0} {unit:4}  local is {:6.1} times faster",
            rate(m),
            rate(l),
            m / l
        );
    }
    runtime.block_on(async {
        mount.unmount().await?;
        client.close().await?;
        for node in nodes {
            node.shutdown().await;
        }
        server.shutdown().await?;
        Ok(())
    })
}

async fn up(folder: &Path, mountpoint: &Path) -> Result<(Server, Vec<DataNode>, Client, Mount)> {
    let io = Io::real();
    let server = Server::start(
        io.clone(),
        boomfs_namenode::Config::new(folder.join("namenode"), "127.0.0.1:0"),
    )
    .await?;
    let mut nodes = Vec::new();
    for n in 0..3 {
        let config = boomfs_datanode::Config::new(
            folder.join(format!("datanode{n}")),
            "127.0.0.1:0",
            vec![server.addr().to_owned()],
        );
        nodes.push(DataNode::start(io.clone(), config).await?);
    }
    let client = Client::connect(io, Config::new(vec![server.addr().to_owned()], "bench")).await?;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while client
        .status()
        .await?
        .nodes
        .iter()
        .filter(|n| n.live)
        .count()
        < 3
    {
        anyhow::ensure!(
            std::time::Instant::now() < deadline,
            "three DataNodes are not there within 30 s"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mount = Mount::new(client.clone(), mountpoint, Options::default()).context("mounting")?;
    Ok((server, nodes, client, mount))
}

fn measure(dir: &Path) -> Result<Vec<(&'static str, Duration)>> {
    fs::create_dir(dir)?;
    let mut results = Vec::new();
    let stream = dir.join("stream");
    let block = vec![0x5a_u8; 1 << 20];
    let (time, done) = timed(|| -> Result<()> {
        let mut f = fs::File::create(&stream)?;
        for _ in 0..STREAM >> 20 {
            f.write_all(&block)?;
        }
        f.sync_all()?;
        Ok(())
    });
    done?;
    results.push(("sequential write, synced", time));
    fs::write("/proc/sys/vm/drop_caches", "1").context("dropping caches needs root")?;
    let (time, done) = timed(|| -> Result<usize> {
        let mut f = fs::File::open(&stream)?;
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            let n = f.read(&mut buffer)?;
            if n == 0 {
                return Ok(total);
            }
            total += n;
        }
    });
    anyhow::ensure!(done? == STREAM, "all bytes are read");
    results.push(("sequential read, cold", time));
    let name = |i: usize| dir.join(format!("f{i}"));
    let (time, done) = timed(|| (0..FILES).try_for_each(|i| fs::File::create(name(i)).map(|_| ())));
    done?;
    results.push(("create", time));
    let (time, done) = timed(|| (0..FILES).try_for_each(|i| fs::metadata(name(i)).map(|_| ())));
    done?;
    results.push(("stat", time));
    let (time, done) = timed(|| (0..FILES).try_for_each(|i| fs::remove_file(name(i))));
    done?;
    results.push(("unlink", time));
    Ok(results)
}
