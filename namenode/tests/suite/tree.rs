//! A POSIX tree in memory, written for clarity: what `model.rs` holds the rules against.
//!
//! Where POSIX leaves open which of several errors comes, this is the order: a path that leads nowhere; a path that
//! names no entry; permissions (EACCES before EPERM); names that are or are not there; kinds; emptiness. Only where two
//! paths, or a path and an inode, fail each on its own, either error will do.

use crate::driver::{Attr, Set};
use std::collections::{BTreeMap, VecDeque};

pub type Ino = i64;

pub const ROOT: Ino = 1;
const HOPS: u32 = 40;

const READ_NAMES: u32 = 0o1;
const WRITE: u32 = 0o2;

/// Who asks.
#[derive(Clone, Debug)]
pub struct User {
    pub uid: i64,
    pub gid: i64,
    pub groups: Vec<i64>,
}

/// The errors of which one is right.
pub type Errors = Vec<&'static str>;
pub type Outcome = Result<Option<Ino>, Errors>;

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Op {
    Mkdir {
        path: Vec<String>,
        mode: i64,
    },
    Create {
        path: Vec<String>,
        mode: i64,
    },
    Symlink {
        path: Vec<String>,
        target: String,
    },
    Link {
        ino: Ino,
        path: Vec<String>,
    },
    Unlink {
        path: Vec<String>,
    },
    Rmdir {
        path: Vec<String>,
    },
    Rename {
        from: Vec<String>,
        to_base: Ino,
        to: Vec<String>,
        keep: bool,
        swap: bool,
    },
    SetAttr {
        path: Vec<String>,
        set: Set,
    },
    Lookup {
        path: Vec<String>,
        follow: bool,
    },
    Readdir,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    Dir {
        parent: Ino,
        entries: Vec<(String, Ino)>,
    },
    File,
    Symlink(String),
}

#[derive(Clone, Debug)]
struct Inode {
    body: Body,
    mode: i64,
    uid: i64,
    gid: i64,
    size: i64,
    names: i64,
    atime: i64,
    mtime: i64,
    ctime: i64,
    crtime: i64,
}

/// Where a path leads: to a name in a directory, or to an inode that it gives no name for.
enum Place {
    Name(Ino, String),
    Itself(Ino),
}

pub struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    block_size: i64,
    replication: i64,
}

fn fail<T>(errno: &'static str) -> Result<T, Errors> {
    Err(vec![errno])
}

impl Tree {
    pub fn new(block_size: i64, replication: i64) -> Tree {
        let root = Inode {
            body: Body::Dir {
                parent: ROOT,
                entries: vec![],
            },
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            names: 1,
            atime: 0,
            mtime: 0,
            ctime: 0,
            crtime: 0,
        };
        Tree {
            inodes: BTreeMap::from([(ROOT, root)]),
            block_size,
            replication,
        }
    }

    /// Runs a step at this time; `fresh` is the number that a new inode gets. The inode that the answer shows.
    pub fn run(&mut self, user: &User, base: Ino, op: &Op, now: i64, fresh: Ino) -> Outcome {
        match op {
            Op::Mkdir { path, mode } => {
                let body = |parent| Body::Dir {
                    parent,
                    entries: vec![],
                };
                self.make(user, base, path, *mode, body, now, fresh)
            }
            Op::Create { path, mode } => {
                self.make(user, base, path, *mode, |_| Body::File, now, fresh)
            }
            Op::Symlink { path, target } => {
                let body = |_| Body::Symlink(target.clone());
                self.make(user, base, path, 0o777, body, now, fresh)
            }
            Op::Link { ino, path } => self.link(user, base, path, *ino, now),
            Op::Unlink { path } => self.unlink(user, base, path, now),
            Op::Rmdir { path } => self.rmdir(user, base, path, now),
            Op::Rename {
                from,
                to_base,
                to,
                keep,
                swap,
            } => self.rename(user, (base, from), (*to_base, to), *keep, *swap, now),
            Op::SetAttr { path, set } => self.set_attr(user, base, path, set, now),
            Op::Lookup { path, follow } => match self.walk(user, base, path, *follow)? {
                Place::Itself(ino) => Ok(Some(ino)),
                Place::Name(dir, name) => self.find(dir, &name).map(Some).ok_or(vec!["ENOENT"]),
            },
            Op::Readdir => match self.inodes.get(&base).map(|inode| &inode.body) {
                None => fail("ENOENT"),
                Some(Body::Dir { .. }) => Ok(Some(base)),
                Some(_) => fail("ENOTDIR"),
            },
        }
    }

    // Looking.

    pub fn inos(&self) -> Vec<Ino> {
        self.inodes.keys().copied().collect()
    }

    /// Names and inodes of a directory, in the order of a listing.
    pub fn entries(&self, dir: Ino) -> Vec<(String, Ino)> {
        match &self.inodes[&dir].body {
            Body::Dir { entries, .. } => entries.clone(),
            _ => vec![],
        }
    }

    pub fn target(&self, ino: Ino) -> Option<&str> {
        match &self.inodes[&ino].body {
            Body::Symlink(target) => Some(target),
            _ => None,
        }
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        let inode = &self.inodes[&ino];
        let (kind, nlink, size) = match &inode.body {
            Body::Dir { entries, .. } => {
                let dirs = entries.iter().filter(|(_, ino)| self.is_dir(*ino)).count();
                (
                    "dir",
                    2 + i64::try_from(dirs).unwrap(),
                    32 * i64::try_from(entries.len()).unwrap(),
                )
            }
            Body::File => ("file", inode.names, inode.size),
            Body::Symlink(_) => ("symlink", inode.names, inode.size),
        };
        let defaults = if ino == ROOT {
            (0, 0)
        } else {
            (self.block_size, self.replication)
        };
        Attr {
            ino,
            kind: kind.to_owned(),
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size,
            allocated: 0,
            nlink,
            rdev: 0,
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            crtime: inode.crtime,
            block_size: defaults.0,
            replication: defaults.1,
        }
    }

    pub fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.inodes[&ino].body, Body::Dir { .. })
    }

    fn find(&self, dir: Ino, name: &str) -> Option<Ino> {
        let entries = self.entries(dir);
        entries
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, ino)| *ino)
    }

    fn parent(&self, dir: Ino) -> Ino {
        match self.inodes[&dir].body {
            Body::Dir { parent, .. } => parent,
            _ => dir,
        }
    }

    fn is_member(user: &User, gid: i64) -> bool {
        user.gid == gid || user.groups.contains(&gid)
    }

    fn may(&self, user: &User, ino: Ino, bits: u32) -> bool {
        let inode = &self.inodes[&ino];
        let shift = match () {
            () if user.uid == inode.uid => 6,
            () if Tree::is_member(user, inode.gid) => 3,
            () => 0,
        };
        user.uid == 0 || inode.mode >> shift & i64::from(bits) == i64::from(bits)
    }

    /// Whether a sticky directory keeps this user from an entry.
    fn is_kept(&self, user: &User, dir: Ino, ino: Ino) -> bool {
        let dir = &self.inodes[&dir];
        let owners = [0, dir.uid, self.inodes[&ino].uid];
        dir.mode & 0o1000 != 0 && !owners.contains(&user.uid)
    }

    /// Walks a path; the last name is followed only if asked.
    fn walk(&self, user: &User, base: Ino, path: &[String], follow: bool) -> Result<Place, Errors> {
        let mut rest: VecDeque<String> = path.iter().cloned().collect();
        let (mut dir, mut hops) = (base, 0);
        if !self.inodes.contains_key(&base) {
            return fail("ENOENT");
        }
        while let Some(name) = rest.pop_front() {
            if !self.is_dir(dir) {
                return fail("ENOTDIR");
            }
            if !self.may(user, dir, READ_NAMES) {
                return fail("EACCES");
            }
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    dir = self.parent(dir);
                    continue;
                }
                _ => {}
            }
            let found = self.find(dir, &name);
            let target = found.and_then(|ino| self.target(ino));
            if rest.is_empty() && !(follow && target.is_some()) {
                return Ok(Place::Name(dir, name));
            }
            match (found, target) {
                (None, _) => return fail("ENOENT"),
                (Some(_), Some(target)) => {
                    hops += 1;
                    if hops > HOPS {
                        return fail("ELOOP");
                    }
                    for part in target.split('/').rev() {
                        rest.push_front(part.to_owned());
                    }
                    if target.starts_with('/') {
                        dir = ROOT;
                    }
                }
                (Some(ino), None) if self.is_dir(ino) => dir = ino,
                (Some(_), None) => return fail("ENOTDIR"),
            }
        }
        Ok(Place::Itself(dir))
    }

    /// The name that a path ends in, in a directory that may be changed.
    fn changeable(&self, user: &User, dir: Ino) -> Result<(), Errors> {
        match self.may(user, dir, READ_NAMES | WRITE) {
            true => Ok(()),
            false => fail("EACCES"),
        }
    }

    // Changing.

    fn inode(&mut self, ino: Ino) -> &mut Inode {
        self.inodes.get_mut(&ino).unwrap()
    }

    fn entries_of(&mut self, dir: Ino) -> &mut Vec<(String, Ino)> {
        match &mut self.inode(dir).body {
            Body::Dir { entries, .. } => entries,
            _ => panic!("{dir} is no directory"),
        }
    }

    /// A name comes, or stands for another inode; it keeps its place in the listing.
    fn put(&mut self, dir: Ino, name: &str, ino: Ino, now: i64) {
        let entries = self.entries_of(dir);
        match entries.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = ino,
            None => entries.push((name.to_owned(), ino)),
        }
        if let Body::Dir { parent, .. } = &mut self.inode(ino).body {
            *parent = dir;
        }
        self.touch(dir, now);
    }

    fn take(&mut self, dir: Ino, name: &str, now: i64) {
        self.entries_of(dir).retain(|(known, _)| known != name);
        self.touch(dir, now);
    }

    fn touch(&mut self, dir: Ino, now: i64) {
        let dir = self.inode(dir);
        (dir.mtime, dir.ctime) = (now, now);
    }

    /// An inode loses a name: a directory is gone, anything else may still be open.
    fn lose(&mut self, ino: Ino, now: i64) {
        if self.is_dir(ino) {
            self.inodes.remove(&ino);
        } else {
            let inode = self.inode(ino);
            inode.names -= 1;
            inode.ctime = now;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a new inode is made of")]
    fn make(
        &mut self,
        user: &User,
        base: Ino,
        path: &[String],
        mode: i64,
        body: impl Fn(Ino) -> Body,
        now: i64,
        ino: Ino,
    ) -> Outcome {
        let Place::Name(dir, name) = self.walk(user, base, path, false)? else {
            return fail("EEXIST");
        };
        self.changeable(user, dir)?;
        if self.find(dir, &name).is_some() {
            return fail("EEXIST");
        }
        let above = self.inodes[&dir].clone();
        let body = body(dir);
        let inherits = above.mode & 0o2000 != 0;
        let gid = if inherits { above.gid } else { user.gid };
        let may_set_gid = user.uid == 0 || Tree::is_member(user, gid);
        let mode = match body {
            Body::Dir { .. } if inherits => mode | 0o2000,
            Body::File if !may_set_gid => mode & !0o2000,
            _ => mode,
        };
        let size = match &body {
            Body::Symlink(target) => i64::try_from(target.len()).unwrap(),
            _ => 0,
        };
        let times = (now, now, now, now);
        let (atime, mtime, ctime, crtime) = times;
        let inode = Inode {
            body,
            mode,
            uid: user.uid,
            gid,
            size,
            names: 1,
            atime,
            mtime,
            ctime,
            crtime,
        };
        self.inodes.insert(ino, inode);
        self.put(dir, &name, ino, now);
        Ok(Some(ino))
    }

    fn link(&mut self, user: &User, base: Ino, path: &[String], ino: Ino, now: i64) -> Outcome {
        let known = self.inodes.contains_key(&ino);
        let place = match self.walk(user, base, path, false) {
            Ok(place) => place,
            Err(errors) if known => return Err(errors),
            Err(errors) => return Err([errors, vec!["ENOENT"]].concat()),
        };
        if !known {
            return fail("ENOENT");
        }
        match (place, self.is_dir(ino)) {
            (Place::Itself(_), true) => Err(vec!["EEXIST", "EPERM"]),
            (Place::Itself(_), false) => fail("EEXIST"),
            (Place::Name(..), true) => fail("EPERM"),
            (Place::Name(dir, name), false) => {
                self.changeable(user, dir)?;
                if self.find(dir, &name).is_some() {
                    return fail("EEXIST");
                }
                self.put(dir, &name, ino, now);
                let inode = self.inode(ino);
                inode.names += 1;
                inode.ctime = now;
                Ok(Some(ino))
            }
        }
    }

    /// An entry that is to be removed.
    fn removable(
        &self,
        user: &User,
        base: Ino,
        path: &[String],
    ) -> Result<(Ino, String, Ino), Errors> {
        let Place::Name(dir, name) = self.walk(user, base, path, false)? else {
            return fail("EBUSY");
        };
        self.changeable(user, dir)?;
        match self.find(dir, &name) {
            None => fail("ENOENT"),
            Some(ino) if self.is_kept(user, dir, ino) => fail("EPERM"),
            Some(ino) => Ok((dir, name, ino)),
        }
    }

    fn unlink(&mut self, user: &User, base: Ino, path: &[String], now: i64) -> Outcome {
        let (dir, name, ino) = self.removable(user, base, path)?;
        if self.is_dir(ino) {
            return fail("EISDIR");
        }
        self.take(dir, &name, now);
        self.lose(ino, now);
        Ok(Some(ino))
    }

    fn rmdir(&mut self, user: &User, base: Ino, path: &[String], now: i64) -> Outcome {
        let (dir, name, ino) = self.removable(user, base, path)?;
        if !self.is_dir(ino) {
            return fail("ENOTDIR");
        }
        if !self.entries(ino).is_empty() {
            return fail("ENOTEMPTY");
        }
        self.take(dir, &name, now);
        self.lose(ino, now);
        Ok(None)
    }

    /// Whether `below` is `dir` or in it.
    fn is_in(&self, below: Ino, dir: Ino) -> bool {
        below == dir || (below != ROOT && self.is_in(self.parent(below), dir))
    }

    fn rename(
        &mut self,
        user: &User,
        from: (Ino, &[String]),
        to: (Ino, &[String]),
        keep: bool,
        swap: bool,
        now: i64,
    ) -> Outcome {
        if keep && swap {
            return fail("EINVAL");
        }
        let places = (
            self.walk(user, from.0, from.1, false),
            self.walk(user, to.0, to.1, false),
        );
        let (old, new) = match places {
            (Ok(old), Ok(new)) => (old, new),
            (Err(one), Err(two)) => return Err([one, two].concat()),
            (Err(errors), _) | (_, Err(errors)) => return Err(errors),
        };
        let (Place::Name(dir, name), Place::Name(new_dir, new_name)) = (old, new) else {
            return fail("EBUSY");
        };
        self.changeable(user, dir)?;
        self.changeable(user, new_dir)?;
        let (moved, replaced) = (self.find(dir, &name), self.find(new_dir, &new_name));
        let Some(moved) = moved else {
            return fail("ENOENT");
        };
        let leaves =
            |ino: &Ino| dir != new_dir && self.is_dir(*ino) && !self.may(user, *ino, WRITE);
        if leaves(&moved) || (swap && replaced.as_ref().is_some_and(leaves)) {
            return fail("EACCES");
        }
        if self.is_kept(user, dir, moved)
            || replaced.is_some_and(|ino| self.is_kept(user, new_dir, ino))
        {
            return fail("EPERM");
        }
        match replaced {
            None if swap => return fail("ENOENT"),
            Some(_) if keep => return fail("EEXIST"),
            _ => {}
        }
        let into_itself = self.is_dir(moved) && self.is_in(new_dir, moved);
        if into_itself
            || (swap && replaced.is_some_and(|ino| self.is_dir(ino) && self.is_in(dir, ino)))
        {
            return fail("EINVAL");
        }
        if let Some(replaced) = replaced {
            match (swap, self.is_dir(moved), self.is_dir(replaced)) {
                (false, true, false) => return fail("ENOTDIR"),
                (false, false, true) => return fail("EISDIR"),
                (false, true, true) if moved != replaced && !self.entries(replaced).is_empty() => {
                    return fail("ENOTEMPTY");
                }
                _ => {}
            }
            if moved == replaced {
                return Ok(Some(moved));
            }
        }
        self.put(new_dir, &new_name, moved, now);
        self.inode(moved).ctime = now;
        match replaced {
            Some(replaced) if swap => {
                self.put(dir, &name, replaced, now);
                self.inode(replaced).ctime = now;
            }
            Some(replaced) => {
                self.take(dir, &name, now);
                self.lose(replaced, now);
            }
            None => self.take(dir, &name, now),
        }
        Ok(Some(moved))
    }

    fn set_attr(
        &mut self,
        user: &User,
        base: Ino,
        path: &[String],
        set: &Set,
        now: i64,
    ) -> Outcome {
        let ino = match self.walk(user, base, path, false)? {
            Place::Itself(ino) => ino,
            Place::Name(dir, name) => self.find(dir, &name).ok_or(vec!["ENOENT"])?,
        };
        self.may_set(user, ino, set)?;
        let inode = self.inode(ino);
        let is_dir = matches!(inode.body, Body::Dir { .. });
        if (set.uid.is_some() || set.gid.is_some()) && !is_dir {
            inode.mode &= !0o6000;
        }
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        if let Some(mode) = set.mode {
            let may_set_gid = user.uid == 0 || is_dir || Tree::is_member(user, inode.gid);
            inode.mode = if may_set_gid { mode } else { mode & !0o2000 };
        }
        if let Some(size) = set.size {
            inode.size = size;
            inode.mtime = now;
        }
        if let Some(atime) = set.atime {
            inode.atime = atime.unwrap_or(now);
        }
        if let Some(mtime) = set.mtime {
            inode.mtime = mtime.unwrap_or(now);
        }
        inode.ctime = now;
        Ok(Some(ino))
    }

    fn may_set(&self, user: &User, ino: Ino, set: &Set) -> Result<(), Errors> {
        let inode = &self.inodes[&ino];
        match (&inode.body, set.size) {
            (Body::Dir { .. }, Some(_)) => return fail("EISDIR"),
            (Body::Symlink(_), Some(_)) => return fail("EINVAL"),
            _ => {}
        }
        if user.uid == 0 {
            return Ok(());
        }
        let is_owner = user.uid == inode.uid;
        let touches = (set.atime, set.mtime) == (Some(None), Some(None));
        if (set.size.is_some() || touches) && !is_owner && !self.may(user, ino, WRITE) {
            return fail("EACCES");
        }
        let given = |time: Option<Option<i64>>| matches!(time, Some(Some(_)));
        let no_times = set.atime.is_none() && set.mtime.is_none();
        let owners_times =
            given(set.atime) || given(set.mtime) || !(no_times || touches || set.size.is_some());
        let gives_away = set.uid.is_some_and(|uid| uid != inode.uid);
        let other_group = set
            .gid
            .is_some_and(|gid| gid != inode.gid && !Tree::is_member(user, gid));
        let for_owner =
            set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || owners_times;
        if (for_owner && !is_owner) || gives_away || other_group {
            return fail("EPERM");
        }
        Ok(())
    }
}
