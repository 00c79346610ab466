//! What a command or a question is about, for error messages.

use boomfs_wire::{Answer, At, Ino, Name, Op, ReadOp};
use std::fmt;

/// A verb and its object. Cheap: the text is made only when something failed.
#[derive(Clone, Debug)]
pub struct Subject {
    verb: &'static str,
    ino: Option<Ino>,
    path: Vec<Name>,
}

impl Subject {
    fn bare(verb: &'static str) -> Subject {
        Subject {
            verb,
            ino: None,
            path: Vec::new(),
        }
    }

    fn at(verb: &'static str, at: &At) -> Subject {
        Subject {
            verb,
            ino: Some(at.base),
            path: at.path.clone(),
        }
    }

    /// Something done to an inode.
    pub fn ino(verb: &'static str, ino: Ino) -> Subject {
        Subject {
            verb,
            ino: Some(ino),
            path: Vec::new(),
        }
    }

    /// What a command is about.
    pub fn of(op: &Op) -> Subject {
        match op {
            Op::CloseSession => Subject::bare("close session"),
            Op::ReserveInodes { .. } => Subject::bare("reserve inodes"),
            Op::Mkdir { at, .. } => Subject::at("mkdir", at),
            Op::Create { at, .. } => Subject::at("create", at),
            Op::Symlink { at, .. } => Subject::at("symlink", at),
            Op::Link { at, .. } => Subject::at("link", at),
            Op::Unlink { at } => Subject::at("unlink", at),
            Op::Rmdir { at } => Subject::at("rmdir", at),
            Op::RemoveTree { at } => Subject::at("remove tree", at),
            Op::Rename { from, .. } => Subject::at("rename", from),
            Op::SetAttr { at, .. } => Subject::at("set attributes", at),
            Op::AcquireLease { ino } => Subject::ino("take write lease", *ino),
            Op::ReleaseLease { ino } => Subject::ino("release write lease", *ino),
            Op::AddBlock { ino, .. } => Subject::ino("allocate block", *ino),
            Op::ReserveGeneration { ino, .. } => Subject::ino("reserve generation", *ino),
            Op::CommitGeneration { ino, .. } => Subject::ino("commit generation", *ino),
            Op::Commit { ino, .. } => Subject::ino("commit length", *ino),
            Op::AddNameNode { .. } => Subject::bare("add NameNode"),
            Op::RemoveNameNode { .. } => Subject::bare("remove NameNode"),
            Op::Transfer { .. } => Subject::bare("transfer leadership"),
        }
    }

    /// What a question is about.
    pub fn of_read(op: &ReadOp) -> Subject {
        match op {
            ReadOp::Lookup { at, .. } => Subject::at("look up", at),
            ReadOp::ReadDir { ino, .. } => Subject::ino("read directory", *ino),
            ReadOp::ReadLink { ino } => Subject::ino("read link", *ino),
            ReadOp::StatFs => Subject::bare("statfs"),
            ReadOp::Locate { ino, .. } => Subject::ino("locate blocks", *ino),
            ReadOp::Status => Subject::bare("status"),
            ReadOp::Identify => Subject::bare("identify"),
        }
    }

    /// A query.
    pub fn query() -> Subject {
        Subject::bare("query")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb)?;
        let Some(ino) = self.ino else { return Ok(()) };
        if self.path.is_empty() {
            return write!(f, " of inode {ino}");
        }
        f.write_str(" \"")?;
        for (at, name) in self.path.iter().enumerate() {
            let slash = if at == 0 { "" } else { "/" };
            write!(f, "{slash}{}", name.escape_ascii())?;
        }
        write!(f, "\" under inode {ino}")
    }
}

/// Which kind of answer came, without its contents.
pub fn kind_of(answer: &Answer) -> &'static str {
    match answer {
        Answer::Done => "Done",
        Answer::Attr(_) => "Attr",
        Answer::Inodes { .. } => "Inodes",
        Answer::Block(_) => "Block",
        Answer::Blocks { .. } => "Blocks",
        Answer::Entries { .. } => "Entries",
        Answer::Target(_) => "Target",
        Answer::StatFs(_) => "StatFs",
        Answer::Status(_) => "Status",
        Answer::NameNode(_) => "NameNode",
        Answer::Identity(_) => "Identity",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_names_verb_and_object() {
        let at = At {
            base: Ino(7),
            path: vec![b"a".to_vec(), b"b\xff".to_vec()],
        };
        assert_eq!(
            Subject::of(&Op::Unlink { at }).to_string(),
            "unlink \"a/b\\xff\" under inode 7"
        );
        assert_eq!(
            Subject::of(&Op::AcquireLease { ino: Ino(9) }).to_string(),
            "take write lease of inode 9"
        );
        assert_eq!(Subject::of_read(&ReadOp::StatFs).to_string(), "statfs");
    }
}
