//! Digests of rows: equal tables have equal digests, whatever the order of their rows.

/// The sum of rows' hashes, modulo 2^64: a row that comes is added, one that goes is taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// The sum.
    pub sum: u64,
    /// How many rows.
    pub rows: u64,
}

/// What a table's rows begin their hashes with: equal rows of two tables differ.
pub fn seed(table: &str) -> u32 {
    crc32c::crc32c(table.as_bytes())
}

fn hash(seed: u32, row: &[u8]) -> u64 {
    let low = crc32c::crc32c_append(seed, row);
    let high = crc32c::crc32c_append(!seed, row);
    // The length sets apart rows that differ only in what both CRCs treat alike.
    (u64::from(high) << 32 | u64::from(low)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ row.len() as u64
}

impl Digest {
    /// A row comes, of the table with this [`seed`].
    pub fn add(&mut self, seed: u32, row: &[u8]) {
        self.sum = self.sum.wrapping_add(hash(seed, row));
        self.rows = self.rows.wrapping_add(1);
    }

    /// A row goes.
    pub fn remove(&mut self, seed: u32, row: &[u8]) {
        self.sum = self.sum.wrapping_sub(hash(seed, row));
        self.rows = self.rows.wrapping_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_the_table_does() {
        let of = |rows: &[(&str, &[u8])]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|(t, row)| digest.add(seed(t), row));
            digest
        };
        let (a, b): (&[u8], &[u8]) = (b"one", b"two");
        assert_eq!(of(&[("t", a), ("t", b)]), of(&[("t", b), ("t", a)]));
        assert_ne!(of(&[("t", a)]), of(&[("s", a)]));
        assert_ne!(of(&[("t", a)]), of(&[("t", b)]));
        assert_ne!(of(&[("t", b"\0")]), of(&[("t", b"")]));
        let mut digest = of(&[("t", a), ("t", b)]);
        digest.remove(seed("t"), a);
        assert_eq!(digest, of(&[("t", b)]));
    }
}
