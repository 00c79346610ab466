//! What must hold between nodes, and between what a node says and what it has stored.

use super::{Net, int};
use overlog::api::Message;
use overlog::{Row, Value};

/// `[round, node]`.
fn ballot(value: &Value) -> Vec<i64> {
    value.as_list().unwrap().iter().map(int).collect()
}

impl Net {
    /// The one row of a table.
    fn row(&mut self, at: usize, table: &str) -> Option<Vec<Value>> {
        let rel = self.rel(table);
        let rows = self.peers[at].node.as_mut()?.rows(rel);
        rows.first().map(Row::values)
    }

    /// While a lease stands, a majority waits for its leader: until after its end in true time, whatever their clocks,
    /// none of these hears another.
    pub fn check_lease(&mut self, at: usize) {
        let leader = ballot(&self.row(at, "governing").unwrap()[0]);
        let ends = self.true_time(at, self.peers[at].leased_until);
        let waits = |net: &mut Net, other: usize| {
            // Whoever does not run waits for all when it starts.
            let (Some(granted), Some(promised)) =
                (net.row(other, "granted"), net.row(other, "promised"))
            else {
                return true;
            };
            let until = net.true_time(other, int(&granted[1]));
            until >= ends && ballot(&promised[0]) <= leader
        };
        let others = (0..self.peers.len()).filter(|other| *other != at);
        let waiting = others.filter(|other| waits(self, *other)).count();
        assert!(
            2 * (waiting + 1) > self.peers.len(),
            "only {waiting} wait for {at}, whose lease ends in {} ms\n{}",
            (ends - self.now) / super::MS,
            self.show()
        );
    }

    fn true_time(&self, at: usize, clock: i64) -> i64 {
        let peer = &self.peers[at];
        (clock - peer.offset) / peer.rate * 1_000
    }

    /// No promise and no vote is of a lesser ballot than the node had promised before the run that says so.
    pub fn check_said(&mut self, at: usize, messages: &[Message]) {
        let now = self
            .row(at, "promised")
            .map_or_else(Vec::new, |row| ballot(&row[0]));
        let before = std::mem::replace(&mut self.peers[at].promised, now);
        for message in messages {
            let name = &self.planned.program().relation(message.rel).name;
            if name == "promise" || name == "vote" {
                let of = ballot(&message.row.values()[2]);
                assert!(
                    of >= before,
                    "{at} has promised {before:?} and says {message:?}"
                );
            }
        }
    }

    /// What a node says it has promised or voted for is on its disk.
    pub fn check_told(&mut self, at: usize, message: &Message) {
        let name = self.planned.program().relation(message.rel).name.clone();
        let told = message.row.values();
        let stored = |net: &Net, table: &str| -> Vec<Vec<Value>> {
            let rows = net.peers[at].stored.get(&net.rel(table));
            rows.into_iter().flatten().map(Row::values).collect()
        };
        let promised = stored(self, "promised").first().map(|row| ballot(&row[0]));
        let promised = promised.unwrap_or_else(|| vec![0, 0]);
        match name.as_str() {
            "promise" | "vote" if promised < ballot(&told[2]) => {
                panic!("{at} says {told:?} and has stored {promised:?}");
            }
            "vote" => {
                let (of, slot) = (ballot(&told[2]), int(&told[3]));
                let vote = stored(self, "accepted")
                    .into_iter()
                    .find(|row| int(&row[0]) == slot);
                let vote = vote.map(|row| ballot(&row[1].as_list().unwrap()[0]));
                // Of a slot that is known to be chosen it need not be.
                let known = self.row(at, "upto").map_or(i64::MAX, |row| int(&row[0]));
                assert!(
                    slot <= known || vote.is_some_and(|vote| vote >= of),
                    "{at} says {told:?} and has not stored that vote"
                );
            }
            _ => {}
        }
    }
}
