//! Queries of clients and observers: in slices between runs.

use super::conn::Item;
use super::engine::Rules;
use super::outbox::{Mail, Outbox};
use crate::codec::{ConnId, errno, json};
use boomfs_wire::{Failure, FromNameNode};
use overlog::Row;
use overlog::check::compile_query;
use overlog::node::{Budget, Progress, Query, Subscription};
use std::collections::{BTreeMap, VecDeque};

/// Rows looked at between two runs.
const SLICE_STEPS: u64 = 2_000;

/// Rows looked at by one query, at most.
const MAX_STEPS: u64 = 1_000_000_000;

/// Rows in one message.
const PAGE: usize = 500;

/// Queries and subscriptions of one connection, at most.
const MAX_QUERIES: usize = 64;

/// A query as it came.
pub struct Asked {
    /// Who asks.
    pub conn: ConnId,
    /// Its number.
    pub req: u64,
    /// Its text.
    pub text: String,
    /// The most rows.
    pub limit: u64,
    /// It stays.
    pub watch: bool,
}

/// A query on its way.
struct Running {
    conn: ConnId,
    req: u64,
    columns: Vec<String>,
    run: u64,
    state: State,
}

enum State {
    Working(Box<Query>),
    Sending(VecDeque<Row>),
}

/// A query that stays.
struct Watching {
    subscription: Subscription,
    columns: Vec<String>,
    limit: u64,
    /// Rows of its answer; `None` until the first were sent.
    rows: Option<u64>,
}

/// All queries.
#[derive(Default)]
pub struct Queries {
    running: VecDeque<Running>,
    watching: BTreeMap<(ConnId, u64), Watching>,
    run: u64,
    /// So many of those that run have nothing to do but wait for their reader.
    stalled: usize,
}

/// The message that a query failed.
pub fn failed(req: u64, failure: Failure) -> Item {
    rows(
        req,
        Vec::new(),
        0,
        Vec::new(),
        Vec::new(),
        true,
        Some(failure),
    )
}

fn rows(
    req: u64,
    columns: Vec<String>,
    run: u64,
    added: Vec<String>,
    removed: Vec<String>,
    end: bool,
    failure: Option<Failure>,
) -> Item {
    Item::message(FromNameNode::Rows {
        req,
        columns,
        run,
        added,
        removed,
        end,
        failure,
    })
}

fn to_json(rows: impl IntoIterator<Item = Row>) -> Vec<String> {
    rows.into_iter()
        .map(|row| json::row(&row.values()))
        .collect()
}

impl Queries {
    /// A query has something to do at once.
    pub fn has_work(&self) -> bool {
        self.running.len() > self.stalled
    }

    /// A query waits for its reader: look again soon.
    pub fn waits(&mut self) -> bool {
        let waits = !self.running.is_empty();
        self.stalled = 0;
        waits
    }

    /// Starts a query. What it says is sent with the outbox's next messages.
    pub fn start(&mut self, rules: &mut Rules, outbox: &Outbox, asked: Asked) {
        let (conn, req) = (asked.conn, asked.req);
        if let Err(message) = self.try_start(rules, asked) {
            let item = failed(req, errno::failure(errno::EINVAL, message));
            outbox.deliver(Mail::one(conn, item));
        }
    }

    fn try_start(&mut self, rules: &mut Rules, asked: Asked) -> Result<(), String> {
        let Asked {
            conn,
            req,
            text,
            limit,
            watch,
        } = asked;
        let of_conn = self.running.iter().filter(|r| r.conn == conn).count()
            + self.watching.keys().filter(|(c, _)| *c == conn).count();
        if of_conn >= MAX_QUERIES {
            return Err(format!(
                "this connection has {MAX_QUERIES} queries, which is the limit; end some first"
            ));
        }
        if self.watching.contains_key(&(conn, req))
            || self.running.iter().any(|r| (r.conn, r.req) == (conn, req))
        {
            return Err(format!("this connection has a query {req} already"));
        }
        let query = compile_query(&rules.program, &text).map_err(|e| e.render())?;
        let columns = query.columns.clone();
        if watch {
            let subscription = rules.node.subscribe(&query.rule, &query.functions)?;
            self.watching.insert(
                (conn, req),
                Watching {
                    subscription,
                    columns,
                    limit,
                    rows: None,
                },
            );
            // Its answer goes out with the first changes.
            return Ok(());
        }
        let budget = Budget {
            rows: limit,
            steps: MAX_STEPS,
        };
        let query = rules.node.query(&query.rule, &query.functions, budget)?;
        self.running.push_back(Running {
            conn,
            req,
            columns,
            run: self.run,
            state: State::Working(Box::new(query)),
        });
        Ok(())
    }

    /// Works a little on the query whose turn it is, and sends what subscriptions have to say.
    pub fn step(&mut self, rules: &mut Rules, outbox: &Outbox) {
        let mut mail = Mail::default();
        self.changes(rules, outbox, &mut mail);
        outbox.deliver(mail);
        let Some(mut running) = self.running.pop_front() else {
            return;
        };
        let Some(conn) = outbox.conn(running.conn) else {
            return;
        };
        let mut mail = Mail::default();
        let done = match &mut running.state {
            State::Working(query) => match query.step(SLICE_STEPS) {
                Progress::Pending => false,
                Progress::Done(rows) => {
                    running.state = State::Sending(rows.into());
                    false
                }
                Progress::Failed(message) => {
                    let failure = errno::failure(errno::EINVAL, message);
                    mail.conns
                        .push((running.conn, failed(running.req, failure)));
                    true
                }
            },
            State::Sending(left) if conn.has_room() => {
                let page = to_json(left.drain(..left.len().min(PAGE)));
                let end = left.is_empty();
                let columns = running.columns.clone();
                mail.conns.push((
                    running.conn,
                    rows(
                        running.req,
                        columns,
                        running.run,
                        page,
                        Vec::new(),
                        end,
                        None,
                    ),
                ));
                end
            }
            State::Sending(_) => {
                self.stalled += 1;
                self.running.push_back(running);
                return;
            }
        };
        self.stalled = 0;
        outbox.deliver(mail);
        if !done {
            self.running.push_back(running);
        }
    }

    /// A run is over: what subscriptions have to say goes with what it says.
    pub fn note(&mut self, rules: &mut Rules, run: u64, outbox: &Outbox, mail: &mut Mail) {
        self.run = run;
        self.changes(rules, outbox, mail);
    }

    fn changes(&mut self, rules: &mut Rules, outbox: &Outbox, mail: &mut Mail) {
        let mut over = Vec::new();
        for ((conn, req), watching) in &mut self.watching {
            let (added, removed) = rules.node.changes(watching.subscription);
            if added.is_empty() && removed.is_empty() && watching.rows.is_some() {
                continue;
            }
            let held = (watching.rows.unwrap_or(0) + added.len() as u64)
                .saturating_sub(removed.len() as u64);
            watching.rows = Some(held);
            let slow = outbox.conn(*conn).is_none_or(|c| !c.has_room());
            if slow || held > watching.limit {
                let why = match slow {
                    true => "the watcher does not read fast enough".to_owned(),
                    false => format!(
                        "the answer has more than {} rows: narrow the query, or raise its limit",
                        watching.limit
                    ),
                };
                mail.conns
                    .push((*conn, failed(*req, errno::failure(errno::ECANCELED, why))));
                over.push((*conn, *req));
                continue;
            }
            let (mut added, mut removed) = (VecDeque::from(added), VecDeque::from(removed));
            loop {
                let came = to_json(added.drain(..added.len().min(PAGE)));
                let went = to_json(removed.drain(..removed.len().min(PAGE)));
                mail.conns.push((
                    *conn,
                    rows(
                        *req,
                        watching.columns.clone(),
                        self.run,
                        came,
                        went,
                        false,
                        None,
                    ),
                ));
                if added.is_empty() && removed.is_empty() {
                    break;
                }
            }
        }
        for key in over {
            if let Some(watching) = self.watching.remove(&key) {
                rules.node.unsubscribe(watching.subscription);
            }
        }
    }

    /// Ends a query.
    pub fn cancel(&mut self, rules: &mut Rules, conn: ConnId, req: u64) {
        self.running.retain(|r| (r.conn, r.req) != (conn, req));
        if let Some(watching) = self.watching.remove(&(conn, req)) {
            rules.node.unsubscribe(watching.subscription);
        }
    }

    /// Ends all queries of a connection.
    pub fn close(&mut self, rules: &mut Rules, conn: ConnId) {
        self.running.retain(|r| r.conn != conn);
        let all: Vec<u64> = self
            .watching
            .keys()
            .filter(|(c, _)| *c == conn)
            .map(|(_, req)| *req)
            .collect();
        for req in all {
            self.cancel(rules, conn, req);
        }
    }

    /// Ends all queries.
    pub fn close_all(&mut self, rules: &mut Rules) {
        self.running.clear();
        for (_, watching) in std::mem::take(&mut self.watching) {
            rules.node.unsubscribe(watching.subscription);
        }
    }
}
