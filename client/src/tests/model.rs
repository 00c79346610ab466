//! Files against a `Vec<u8>`: random calls, with members that die and answers that get lost.

use super::*;
use crate::{FileReader, SetAttr};
use boomfs_wire::NodeId;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize),
    Append(usize),
    Truncate(u64),
    Read(u64, usize),
    Flush,
    Fsync,
    Reopen,
    PathTruncate(u64),
    Kill(u64, u64),
    Cut(u64),
}

const BLOCK: u64 = 3 * 4096;
const END: u64 = 80_000;

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1..50_usize, 1..20_000_usize];
    prop_oneof![
        8 => (0..END, len.clone()).prop_map(|(at, len)| Step::Write(at, len)),
        4 => len.clone().prop_map(Step::Append),
        2 => (0..END).prop_map(Step::Truncate),
        6 => (0..END, len).prop_map(|(at, len)| Step::Read(at, len)),
        2 => Just(Step::Flush),
        2 => Just(Step::Fsync),
        2 => Just(Step::Reopen),
        1 => (0..END).prop_map(Step::PathTruncate),
        1 => (1..=5_u64, 0..6_u64).prop_map(|(node, packets)| Step::Kill(node, packets)),
        1 => (0..6_u64).prop_map(Step::Cut),
    ]
}

fn put(model: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if model.len() < at + bytes.len() {
        model.resize(at + bytes.len(), 0);
    }
    model[at..at + bytes.len()].copy_from_slice(bytes);
}

async fn check_read(writer: &FileWriter, reader: &FileReader, model: &[u8], at: u64, len: usize) {
    let from = (at as usize).min(model.len());
    let to = (at as usize + len).min(model.len());
    assert!(
        writer.read_at(at, len).await.unwrap() == model[from..to],
        "writer's read of {len} at {at}"
    );
    assert!(
        reader.read_at(at, len).await.unwrap() == model[from..to],
        "reader's read of {len} at {at}"
    );
}

async fn run(fake: &Fake, steps: &[Step]) {
    fake.start().await;
    let client = fake.client().await;
    let mut writer = create_open(&client, "a").await;
    let ino = writer.ino();
    let reader = client.open_read(ino).await.unwrap();
    let mut model = Vec::new();
    let mut killed = 0;
    for (n, step) in steps.iter().enumerate() {
        match *step {
            Step::Write(at, len) => {
                let bytes = pattern(n as u64, len);
                put(&mut model, at as usize, &bytes);
                writer.write_at(at, bytes).await.unwrap();
            }
            Step::Append(len) => {
                let bytes = pattern(n as u64, len);
                let end = model.len();
                put(&mut model, end, &bytes);
                assert_eq!(writer.append(bytes).await.unwrap(), end as u64);
            }
            Step::Truncate(size) => {
                model.resize(size as usize, 0);
                writer.truncate(size).await.unwrap();
            }
            Step::Read(at, len) => check_read(&writer, &reader, &model, at, len).await,
            Step::Flush => {
                writer.flush().await.unwrap();
                assert!(fake.contents(ino) == model, "contents after flush");
            }
            Step::Fsync => {
                writer.fsync().await.unwrap();
                assert!(fake.all_on_disk(ino), "all is on disk after fsync");
                assert!(fake.contents(ino) == model, "contents after fsync");
            }
            Step::Reopen | Step::PathTruncate(_) => {
                writer.close().await.unwrap();
                assert!(fake.contents(ino) == model, "contents after close");
                if let Step::PathTruncate(size) = *step {
                    model.resize(size as usize, 0);
                    let set = SetAttr {
                        size: Some(size),
                        ..SetAttr::default()
                    };
                    client
                        .setattr(
                            &root(),
                            &At {
                                base: ino,
                                path: vec![],
                            },
                            set,
                        )
                        .await
                        .unwrap();
                }
                // Appends may have taken it beyond what writes reach.
                let got = reader.read_at(0, model.len() + 1).await.unwrap();
                assert!(got == model, "closed file reads back");
                writer = client.open_write(&root(), ino).await.unwrap();
            }
            // Two of five: every block keeps a member.
            Step::Kill(node, packets) if killed < 2 => {
                killed += 1;
                fake.state()
                    .nodes
                    .get_mut(&NodeId(node))
                    .unwrap()
                    .dies_at_packet = Some(packets);
            }
            Step::Kill(..) => {}
            Step::Cut(commands) => fake.state().cut_after = Some(commands),
        }
        assert_eq!(writer.size(), model.len() as u64);
    }
    writer.close().await.unwrap();
    assert!(fake.contents(ino) == model, "contents at the end");
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn file_equals_its_model(seed in 0..1000_u64, steps in proptest::collection::vec(step(), 1..50)) {
        let fake = Fake::new(seed, 5, BLOCK);
        fake.world.run(run(&fake, &steps));
        nothing_wrong(&fake);
    }
}

#[test]
fn one_seed_is_one_trace() {
    let steps = [
        Step::Write(5000, 30_000),
        Step::Kill(2, 1),
        Step::Fsync,
        Step::Cut(1),
        Step::Append(100),
        Step::Reopen,
        Step::Read(0, 40_000),
        Step::Truncate(100),
    ];
    let trace = || {
        let fake = Fake::new(7, 5, BLOCK);
        fake.world.run(run(&fake, &steps));
        fake.world.trace()
    };
    assert!(trace() == trace());
}
