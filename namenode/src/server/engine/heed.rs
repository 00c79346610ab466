//! What the rules tell the shell of this node's place among the NameNodes: that it governs, or another does; that it
//! is far behind; where the others are.

use super::{Engine, FETCH_PAUSE};
use crate::codec::output;
use crate::codec::{ConnId, Said, input};
use crate::metrics::Metrics;
use crate::server::ServerError;
use crate::server::boot::now;
use crate::server::reader::Role;
use crate::server::transfer;
use boomfs_wire::{Answer, Caller, ReadOp};
use overlog::{Row, Value};
use std::collections::BTreeMap;
use tokio::task::JoinHandle;

impl Engine {
    /// What the rules tell the shell.
    pub(super) fn heed(&mut self, said: Said, row: Row) {
        let values = match said {
            // Its columns are those of `decided`.
            Said::Chosen => return self.decisions.push_back(row),
            _ => row.values(),
        };
        match (said, values.as_slice()) {
            (Said::Begins, [ballot]) => self.begin(ballot_number(ballot)),
            (Said::Leads, [ballot, Value::Int(until)]) => match ballot_number(ballot) {
                0 => self.cease(),
                _ => self.standing.until_ns = *until,
            },
            (Said::Confirmed, [_, Value::Int(at)]) => {
                self.standing.confirmed_ns = self.standing.confirmed_ns.max(*at);
            }
            (Said::Room, [Value::Int(room)]) => self.standing.room = *room,
            (Said::Refuses, _) => self.standing.refuses = true,
            (Said::Follows, [Value::Addr(leader)]) => {
                let nonce = input::peer_nonce(leader);
                let leader = nonce.and_then(|nonce| self.shared.peers.host(nonce));
                if self.standing.ballot.is_none() {
                    self.shared.role.set(Role::Follows(leader));
                }
            }
            (Said::Behind, [Value::Addr(from), Value::Int(slot)]) => {
                if let Some(nonce) = input::peer_nonce(from) {
                    self.fetch(nonce, u64::try_from(*slot).unwrap_or(0));
                }
            }
            (Said::Neighbours, [Value::List(all)]) => {
                let me = self.shared.peers.me().nonce;
                let mut hosts = BTreeMap::new();
                for one in all.iter().filter_map(Value::as_list) {
                    if let [Value::Addr(addr), host, Value::Int(node)] = one
                        && let Some(nonce) = input::peer_nonce(addr)
                        && let Some(host) = host.as_bytes()
                    {
                        hosts.insert(nonce, String::from_utf8_lossy(host).into_owned());
                        if nonce == me {
                            self.shared.about().node = node.cast_unsigned();
                        }
                    }
                }
                if !hosts.contains_key(&me) {
                    let left = std::mem::take(&mut self.shared.about().node);
                    if left != 0 {
                        tracing::warn!(
                            "NameNode {left} was removed from the cluster: it has no vote any more; stop it"
                        );
                    }
                }
                self.standing.others = hosts.keys().any(|nonce| *nonce != me);
                self.shared.peers.set(&hosts);
            }
            (Said::Differs, [Value::Int(slot), Value::Int(mine), Value::Int(leaders)]) => {
                self.fault = Some(ServerError::Differs {
                    slot: slot.cast_unsigned(),
                    mine: mine.cast_unsigned(),
                    leaders: leaders.cast_unsigned(),
                });
            }
            (said, values) => tracing::error!("the rules said {said:?} of {values:?}"),
        }
    }

    fn begin(&mut self, ballot: u64) {
        Metrics::add(&self.metrics.elections, 1);
        tracing::info!("this NameNode governs, ballot {ballot}");
        self.standing.ballot = Some(ballot);
        self.shared.about().ballot = ballot;
        self.look_up_defaults();
    }

    fn cease(&mut self) {
        if self.standing.ballot.take().is_none() {
            return;
        }
        tracing::info!("this NameNode governs no more");
        self.standing.until_ns = 0;
        self.standing.confirmed_ns = 0;
        self.standing.asked_ns = 0;
        self.standing.refuses = false;
        self.shared.about().ballot = 0;
        self.shared.role.set(Role::Follows(None));
        let shared = self.shared.clone();
        self.shared.outbox.turn_away(|| shared.not_leader());
    }

    /// A NameNode that governs serves once it knows what new files get: a new cluster decides that first.
    pub(super) fn look_up_defaults(&mut self) {
        let (rel, row) = match input::ask(ConnId::SHELL, 0, &Caller::default(), &ReadOp::StatFs) {
            Ok(row) => (self.rules.inputs.ask, row),
            Err(e) => return tracing::error!("no question for the defaults: {}", e.message),
        };
        let Ok(output) = self.rules.run(vec![(rel, row)], now(&self.io)) else {
            return;
        };
        let replies = output
            .messages
            .iter()
            .filter(|m| self.rules.outputs.get(m.rel) == Some(output::Sent::ReadReply));
        for reply in replies {
            if let Ok((_, Ok(Answer::StatFs(space)))) = output::read_reply(&reply.row)
                && space.block_size > 0
                && space.replication > 0
            {
                let mut about = self.shared.about();
                about.block_size = space.block_size;
                about.replication = space.replication;
                drop(about);
                self.shared.role.set(Role::Leads);
            }
        }
    }

    /// Fetches the state from another NameNode, if that is not under way.
    fn fetch(&mut self, nonce: u64, slot: u64) {
        if self.transfer.is_some() {
            return;
        }
        let Some(host) = self.shared.peers.host(nonce) else {
            return;
        };
        tracing::info!("this NameNode is far behind: it fetches slot {slot} from {host}");
        let (io, me) = (self.io.clone(), self.shared.peers.me().clone());
        let folder = self.store.shared();
        self.transfer = Some(tokio::spawn(async move {
            let fetched = transfer::fetch(&io, &me, nonce, &host, slot, folder).await;
            if fetched.is_err() {
                // The rules ask again with every beat of the leader.
                io.sleep(FETCH_PAUSE).await;
            }
            fetched
        }));
    }

    /// A state that is newer than this node's has been fetched.
    pub(super) async fn has_fetched(&mut self) -> bool {
        if !self.transfer.as_ref().is_some_and(JoinHandle::is_finished) {
            return false;
        }
        let Some(transfer) = self.transfer.take() else {
            return false;
        };
        match transfer.await {
            Ok(Ok(slot)) => {
                tracing::info!("fetched the state of slot {slot}");
                slot > self.applied
            }
            Ok(Err(e)) => {
                tracing::warn!("the state was not fetched: {e}");
                false
            }
            Err(e) => {
                tracing::warn!("the state was not fetched: {e}");
                false
            }
        }
    }

    pub(super) fn tell_ready(&mut self) {
        let serves =
            self.shared.role.get() == Role::Leads && self.standing.until_ns > now(&self.io).mono_ns;
        if (serves || self.standing.others || !self.shared.founder)
            && let Some(ready) = self.ready.take()
        {
            // Nobody may wait for it any more.
            let _ = ready.send(());
        }
    }
}

/// A ballot, `[round, node]`, as one number that grows with it; 0 for none.
fn ballot_number(ballot: &Value) -> u64 {
    match ballot.as_list() {
        Some([Value::Int(round), Value::Int(node)]) => {
            (round.cast_unsigned() << 16) | (node.cast_unsigned() & 0xffff)
        }
        _ => 0,
    }
}
