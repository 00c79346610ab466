use super::*;
use proptest::prelude::*;
use rand::SeedableRng;

fn disk() -> Disk {
    Disk::new(1 << 20)
}

fn make(disk: &mut Disk, p: &str) -> u64 {
    disk.open(Path::new(p), Open::write_create()).unwrap().0
}

fn sync(disk: &mut Disk, ino: u64) {
    let sync = disk.sync_start(ino).unwrap();
    disk.sync_end(ino, sync, false);
}

fn crash(disk: &mut Disk, unsynced: Unsynced) {
    disk.crash(unsynced, &mut StdRng::seed_from_u64(1));
}

fn read(disk: &mut Disk, p: &str) -> Option<Vec<u8>> {
    let (ino, _) = disk.open(Path::new(p), Open::read()).ok()?;
    let bytes = disk.read(ino, 0, usize::MAX);
    disk.close(ino);
    Some(bytes)
}

#[test]
fn a_name_without_a_synced_directory_is_lost() {
    let mut d = disk();
    let ino = make(&mut d, "a");
    d.write(ino, 0, b"x").unwrap();
    sync(&mut d, ino);
    crash(&mut d, Unsynced::Lost);
    assert_eq!(read(&mut d, "a"), None);
    assert_eq!(d.used, 0);
    assert!(d.inodes.is_empty());
}

#[test]
fn synced_bytes_survive_and_others_do_not() {
    let mut d = disk();
    let ino = make(&mut d, "a");
    d.write(ino, 0, b"old").unwrap();
    sync(&mut d, ino);
    d.sync_dir(Path::new("")).unwrap();
    d.write(ino, 1, b"NEWER").unwrap();
    assert_eq!(read(&mut d, "a").unwrap(), b"oNEWER");
    crash(&mut d, Unsynced::Lost);
    assert_eq!(read(&mut d, "a").unwrap(), b"old");
}

#[test]
fn a_killed_process_loses_nothing() {
    let mut d = disk();
    let ino = make(&mut d, "a");
    d.write(ino, 0, b"bytes").unwrap();
    d.lock(Path::new("lock")).unwrap();
    crash(&mut d, Unsynced::Kept);
    assert_eq!(read(&mut d, "a").unwrap(), b"bytes");
    d.lock(Path::new("lock")).unwrap();
}

#[test]
fn a_rename_that_was_not_synced_shows_the_old_file() {
    let mut d = disk();
    for (name, bytes) in [("a", b"1"), ("b", b"2")] {
        let ino = make(&mut d, name);
        d.write(ino, 0, bytes).unwrap();
        sync(&mut d, ino);
        d.close(ino);
    }
    d.sync_dir(Path::new("")).unwrap();
    d.rename(Path::new("b"), Path::new("a")).unwrap();
    assert_eq!(
        (read(&mut d, "a").unwrap(), read(&mut d, "b")),
        (b"2".to_vec(), None)
    );
    crash(&mut d, Unsynced::Lost);
    assert_eq!(read(&mut d, "a").unwrap(), b"1");
    assert_eq!(read(&mut d, "b").unwrap(), b"2");
    d.rename(Path::new("b"), Path::new("a")).unwrap();
    d.sync_dir(Path::new("")).unwrap();
    crash(&mut d, Unsynced::Lost);
    assert_eq!(read(&mut d, "a").unwrap(), b"2");
    assert_eq!(d.inodes.len(), 1);
    assert_eq!(d.used, PAGE as u64);
}

#[test]
fn a_removed_file_comes_back_as_it_was_synced() {
    let mut d = disk();
    let ino = make(&mut d, "a");
    d.write(ino, 0, b"kept").unwrap();
    sync(&mut d, ino);
    d.sync_dir(Path::new("")).unwrap();
    d.close(ino);
    d.remove_file(Path::new("a")).unwrap();
    assert_eq!(d.used, 0);
    crash(&mut d, Unsynced::Lost);
    assert_eq!(read(&mut d, "a").unwrap(), b"kept");
    assert_eq!(d.used, PAGE as u64);
}

#[test]
fn a_failed_sync_loses_its_writes_for_good() {
    let mut d = disk();
    let ino = make(&mut d, "a");
    d.sync_dir(Path::new("")).unwrap();
    d.write(ino, 0, b"gone").unwrap();
    let failed = d.sync_start(ino).unwrap();
    d.sync_end(ino, failed, true);
    sync(&mut d, ino);
    assert_eq!(read(&mut d, "a").unwrap(), b"gone");
    crash(&mut d, Unsynced::Lost);
    assert_eq!(read(&mut d, "a").unwrap(), [0; 4]);
}

#[test]
fn a_write_during_a_sync_waits_for_the_next() {
    let mut d = disk();
    let ino = make(&mut d, "a");
    d.sync_dir(Path::new("")).unwrap();
    d.write(ino, 0, b"1").unwrap();
    let first = d.sync_start(ino).unwrap();
    d.write(ino, 0, b"2").unwrap();
    let second = d.sync_start(ino).unwrap();
    d.sync_end(ino, second, false);
    // Ends late, with older bytes.
    d.sync_end(ino, first, false);
    crash(&mut d, Unsynced::Lost);
    assert_eq!(read(&mut d, "a").unwrap(), b"2");

    let ino = make(&mut d, "a");
    let first = d.sync_start(ino).unwrap();
    d.write(ino, 0, b"3").unwrap();
    d.sync_end(ino, first, false);
    crash(&mut d, Unsynced::Lost);
    assert_eq!(read(&mut d, "a").unwrap(), b"2");
}

#[test]
fn a_full_disk_says_so_and_frees_what_is_removed() {
    let mut d = Disk::new(3 * PAGE as u64);
    let ino = make(&mut d, "a");
    let err = d.write(ino, 0, &[7; 4 * PAGE]).unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::StorageFull);
    assert_eq!(d.len(ino), 3 * PAGE as u64);
    // In place there is room.
    d.write(ino, 10, &[8; PAGE]).unwrap();
    d.set_len(ino, PAGE as u64).unwrap();
    assert_eq!(d.space().free, 2 * PAGE as u64);
    d.allocate(ino, 0, 3 * PAGE as u64).unwrap();
    assert_eq!(
        d.allocate(ino, 0, 3 * PAGE as u64 + 1).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    d.remove_file(Path::new("a")).unwrap();
    assert_eq!(d.space().free, 0);
    d.close(ino);
    assert_eq!(d.space().free, 3 * PAGE as u64);
}

#[test]
fn bytes_behind_a_cut_do_not_come_back() {
    let mut d = disk();
    let ino = make(&mut d, "a");
    d.write(ino, 0, &[1; 5000]).unwrap();
    d.set_len(ino, 10).unwrap();
    d.set_len(ino, 5000).unwrap();
    let bytes = d.read(ino, 0, 5000);
    assert_eq!(&bytes[..10], [1; 10]);
    assert!(bytes[10..].iter().all(|&b| b == 0));
}

#[derive(Clone, Debug)]
enum Act {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
    Crash(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let offset = 0..3 * PAGE as u64;
    prop_oneof![
        4 => (offset.clone(), 1usize..600, any::<u8>()).prop_map(|(at, n, b)| Act::Write(at, vec![b; n])),
        1 => offset.prop_map(Act::SetLen),
        2 => Just(Act::Sync),
        1 => any::<u64>().prop_map(Act::Crash),
    ]
}

proptest! {
    /// After a power cut each byte is one that was there at the last sync or later.
    #[test]
    fn a_crash_leaves_only_what_was_written(acts in prop::collection::vec(act(), 1..60)) {
        let mut d = disk();
        let mut ino = make(&mut d, "a");
        d.sync_dir(Path::new("")).unwrap();
        // Contents since the last sync, the synced ones first.
        let mut since: Vec<Vec<u8>> = vec![Vec::new()];
        for act in acts {
            let mut now = since.last().unwrap().clone();
            match act {
                Act::Write(at, bytes) => {
                    d.write(ino, at, &bytes).unwrap();
                    let at = at as usize;
                    now.resize(now.len().max(at + bytes.len()), 0);
                    now[at..at + bytes.len()].copy_from_slice(&bytes);
                    since.push(now);
                }
                Act::SetLen(n) => {
                    d.set_len(ino, n).unwrap();
                    now.resize(n as usize, 0);
                    since.push(now);
                }
                Act::Sync => {
                    sync(&mut d, ino);
                    since = vec![now];
                }
                Act::Crash(seed) => {
                    d.crash(Unsynced::Random, &mut StdRng::seed_from_u64(seed));
                    ino = make(&mut d, "a");
                    let left = d.read(ino, 0, usize::MAX);
                    prop_assert!(since.iter().any(|s| s.len() == left.len()), "length {}", left.len());
                    for (i, byte) in left.iter().enumerate() {
                        let may = since.iter().any(|s| s.get(i).copied().unwrap_or(0) == *byte);
                        prop_assert!(may, "byte {i} is {byte}");
                    }
                    since = vec![left];
                }
            }
            prop_assert_eq!(&d.read(ino, 0, usize::MAX), since.last().unwrap());
            let pages: u64 = d.inodes.values().map(|i| i.now.pages.len() as u64).sum();
            prop_assert_eq!(d.used, pages * PAGE as u64);
        }
    }
}
