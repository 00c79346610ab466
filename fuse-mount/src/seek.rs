//! Where data and holes begin, from the blocks of a file. Pure.

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seek {
    /// The next byte that is not in a hole.
    Data,
    /// The next byte that is in a hole; the end of the file is one.
    Hole,
}

impl Seek {
    /// From Linux's `whence`; the other values never reach a FUSE filesystem.
    pub(crate) fn from_whence(whence: i32) -> Option<Seek> {
        match whence {
            3 => Some(Seek::Data),
            4 => Some(Seek::Hole),
            _ => None,
        }
    }
}

/// Looks from `from` on, in the part of a file before `known_to` whose data are these `(start, length)`, in
/// ascending order. Answers the offset, or `known_to` when it is not in this part.
pub(crate) fn seek(
    what: Seek,
    from: u64,
    known_to: u64,
    data: impl IntoIterator<Item = (u64, u64)>,
) -> u64 {
    let mut at = from;
    for (start, length) in data {
        let end = start.saturating_add(length).min(known_to);
        if end <= at || start >= end {
            continue;
        }
        match what {
            Seek::Data => return start.max(at),
            Seek::Hole if start > at => return at,
            Seek::Hole => at = end,
        }
    }
    match what {
        Seek::Data => known_to.max(from),
        Seek::Hole => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_holes_are_found() {
        let blocks = [(0, 100), (100, 50), (300, 100), (400, 0), (500, 900)];
        let size = 1000;
        let find = |what, from| seek(what, from, size, blocks);
        assert_eq!(find(Seek::Data, 0), 0);
        assert_eq!(find(Seek::Data, 149), 149);
        assert_eq!(find(Seek::Data, 150), 300);
        assert_eq!(find(Seek::Data, 400), 500);
        assert_eq!(find(Seek::Data, 999), 999);
        assert_eq!(find(Seek::Hole, 0), 150);
        assert_eq!(find(Seek::Hole, 120), 150);
        assert_eq!(find(Seek::Hole, 200), 200);
        assert_eq!(find(Seek::Hole, 300), 400);
        assert_eq!(find(Seek::Hole, 600), 1000);
    }

    #[test]
    fn a_file_without_blocks_is_one_hole() {
        assert_eq!(seek(Seek::Data, 10, 100, []), 100);
        assert_eq!(seek(Seek::Hole, 10, 100, []), 10);
    }

    #[test]
    fn whence_values() {
        assert_eq!(Seek::from_whence(3), Some(Seek::Data));
        assert_eq!(Seek::from_whence(4), Some(Seek::Hole));
        assert_eq!(Seek::from_whence(0), None);
    }
}
