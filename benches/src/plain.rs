//! The NameNode's logic for create and lookup on plain hash maps, command by command: what the
//! rules are held against. The same checks and the same state, by hand.

use hashbrown::HashMap;

/// The root directory.
pub const ROOT: i64 = 1;

struct Inode {
    dir: bool,
    mode: i64,
    uid: i64,
    gid: i64,
    times: [i64; 4],
    size: i64,
    nlink: i64,
    block_size: i64,
    replication: i64,
}

#[derive(Default)]
struct DirStat {
    entries: i64,
    mtime: i64,
}

#[derive(Default)]
struct Session {
    next: i64,
    ack: i64,
    answers: HashMap<i64, Vec<i64>>,
}

/// Metadata on hash maps.
#[derive(Default)]
pub struct Plain {
    inodes: HashMap<i64, Inode>,
    dentries: HashMap<(i64, Vec<u8>), (i64, i64)>,
    by_cookie: std::collections::BTreeMap<(i64, i64), Vec<u8>>,
    dirs: HashMap<i64, DirStat>,
    sessions: HashMap<i64, Session>,
    next: i64,
}

/// A create.
pub struct Create<'a> {
    /// The session.
    pub session: i64,
    /// Its number.
    pub seq: i64,
    /// Answers received.
    pub ack: i64,
    /// Who asks.
    pub uid: i64,
    /// The directory.
    pub parent: i64,
    /// The name.
    pub name: &'a [u8],
    /// The time.
    pub stamp: i64,
    /// Make a directory.
    pub dir: bool,
}

impl Plain {
    /// An empty tree.
    pub fn new() -> Plain {
        let mut plain = Plain {
            next: 16,
            ..Plain::default()
        };
        let root = Inode {
            dir: true,
            mode: 0o755,
            uid: 0,
            gid: 0,
            times: [0; 4],
            size: 0,
            nlink: 2,
            block_size: 0,
            replication: 0,
        };
        plain.inodes.insert(ROOT, root);
        plain.dirs.insert(ROOT, DirStat::default());
        plain
    }

    /// Opens a session.
    pub fn open(&mut self) -> i64 {
        let id = self.next;
        self.next += 1;
        self.sessions.insert(
            id,
            Session {
                next: 1,
                ..Session::default()
            },
        );
        id
    }

    /// Makes a file or directory; gives the answer, or the error's number.
    pub fn create(&mut self, c: &Create<'_>) -> Result<Vec<i64>, i32> {
        let cid = self.next;
        self.next += 1;
        let session = self.sessions.get_mut(&c.session).ok_or(116)?;
        if let Some(answer) = session.answers.get(&c.seq) {
            return Ok(answer.clone());
        }
        if c.seq != session.next {
            return Err(22);
        }
        session.next += 1;
        if c.ack > session.ack {
            for done in session.ack + 1..=c.ack {
                session.answers.remove(&done);
            }
            session.ack = c.ack;
        }
        if c.name.len() > 255 {
            return Err(36);
        }
        let parent = self.inodes.get(&c.parent).ok_or(2)?;
        if !parent.dir {
            return Err(20);
        }
        let wanted = 0o3;
        let bits = if c.uid == parent.uid {
            parent.mode >> 6
        } else {
            parent.mode
        };
        if c.uid != 0 && bits & wanted != wanted {
            return Err(13);
        }
        let key = (c.parent, c.name.to_vec());
        if self.dentries.contains_key(&key) {
            return Err(17);
        }
        let inode = Inode {
            dir: c.dir,
            mode: 0o644,
            uid: c.uid,
            gid: parent.gid,
            times: [c.stamp; 4],
            size: 0,
            nlink: 1,
            block_size: 64 << 20,
            replication: 3,
        };
        let answer = vec![
            cid,
            i64::from(inode.dir),
            inode.mode,
            inode.uid,
            inode.gid,
            inode.size,
            inode.nlink,
            c.stamp,
            inode.block_size,
            inode.replication,
        ];
        self.inodes.insert(cid, inode);
        if c.dir {
            self.dirs.insert(cid, DirStat::default());
        }
        self.by_cookie.insert((c.parent, cid), key.1.clone());
        self.dentries.insert(key, (cid, cid));
        let stat = self.dirs.entry(c.parent).or_default();
        stat.entries += 1;
        stat.mtime = stat.mtime.max(c.stamp);
        session.answers.insert(c.seq, answer.clone());
        Ok(answer)
    }

    /// Looks a name up: search permission, the name, the attributes.
    pub fn lookup(&self, uid: i64, parent: i64, name: &[u8]) -> Result<Vec<i64>, i32> {
        let dir = self.inodes.get(&parent).ok_or(2)?;
        if !dir.dir {
            return Err(20);
        }
        if uid != 0 && dir.mode & 1 == 0 {
            return Err(13);
        }
        let (ino, cookie) = self.dentries.get(&(parent, name.to_vec())).ok_or(2)?;
        let inode = self.inodes.get(ino).ok_or(5)?;
        let entries = self.dirs.get(ino).map_or(0, |d| d.entries + d.mtime);
        let [atime, mtime, ctime, crtime] = inode.times;
        Ok(vec![
            *ino,
            *cookie,
            i64::from(inode.dir),
            inode.mode,
            inode.uid,
            inode.gid,
            inode.size,
            inode.nlink,
            atime,
            mtime,
            ctime,
            crtime,
            inode.block_size,
            inode.replication,
            entries,
        ])
    }
}
