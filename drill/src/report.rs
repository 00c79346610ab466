//! What a drill found, for programs (JSON) and for people (one HTML page that needs nothing else).

use crate::drill::{Settings, failovers};
use crate::history::Operation;
use crate::model::{Answer, Op};
use crate::scenario::Scenario;
use crate::workload::Shared;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// Something that went wrong on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which kind.
    pub scenario: Scenario,
    /// What exactly.
    pub what: String,
    /// When it began, ns since the drill did.
    pub from_ns: u64,
    /// When the harm was done: acknowledgements before may still be those of whom it hits.
    pub done_ns: u64,
    /// When it was mended.
    pub to_ns: u64,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// What.
    pub what: String,
    /// How that is known.
    pub why: String,
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Half are shorter.
    pub median_ms: f64,
    /// 99 of 100 are shorter.
    pub p99_ms: f64,
    /// The longest.
    pub most_ms: f64,
}

impl Spread {
    fn of(mut all_ns: Vec<u64>) -> Spread {
        all_ns.sort_unstable();
        let at = |percent: usize| {
            let place = (all_ns.len() * percent).div_ceil(100).saturating_sub(1);
            all_ns.get(place).map_or(0.0, |ns| ms(*ns))
        };
        Spread {
            count: all_ns.len(),
            median_ms: at(50),
            p99_ms: at(99),
            most_ms: at(100),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What went wrong: the name of a scenario, or `schedule`.
    pub scenario: String,
    /// NameNodes, DataNodes and clients.
    pub namenodes: usize,
    /// See `namenodes`.
    pub datanodes: usize,
    /// See `namenodes`.
    pub clients: u64,
    /// How long it took, ms.
    pub took_ms: f64,
    /// Operations, and those of them that were never answered.
    pub operations: usize,
    /// See `operations`.
    pub unanswered: usize,
    /// Calls that ended with an error that a single machine would not have given.
    pub errors: u64,
    /// Files whose contents were written, synced, and read again.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Latency of operations that were answered.
    pub latency: Spread,
    /// From a fault of the leader to the next write that a client was told is done.
    pub failover: Spread,
    /// Faults after which no write was acknowledged any more.
    pub never_recovered: usize,
    /// What was lost. Nothing may be here.
    pub losses: Vec<Loss>,
    /// What went wrong, in order.
    pub faults: Vec<Fault>,
    #[serde(skip)]
    dots: Vec<Dot>,
}

/// An operation in the picture.
#[derive(Clone, Debug, PartialEq)]
struct Dot {
    process: u64,
    begun_ns: u64,
    took_ns: Option<u64>,
    writes: bool,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of a drill are few"
)]
fn ms(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1_000.0
}

impl Report {
    /// From what a drill has gathered: of how many NameNodes and DataNodes, and what.
    pub fn new(
        settings: &Settings,
        (namenodes, datanodes): (usize, usize),
        history: Vec<Operation<Op, Answer>>,
        faults: Vec<Fault>,
        losses: Vec<Loss>,
        shared: &Shared,
    ) -> Report {
        let failovers = failovers(&history, &faults);
        let dot = |o: &Operation<Op, Answer>| Dot {
            process: o.process,
            begun_ns: o.begun_ns,
            took_ns: o.ended.as_ref().map(|(ns, _)| ns - o.begun_ns),
            writes: o.op.writes(),
        };
        let dots: Vec<Dot> = history.iter().map(dot).collect();
        Report {
            scenario: settings.course.name().to_owned(),
            namenodes,
            datanodes,
            clients: settings.clients,
            took_ms: ms(shared.now()),
            operations: dots.len(),
            unanswered: dots.iter().filter(|d| d.took_ns.is_none()).count(),
            errors: shared.errors.load(Ordering::Relaxed),
            files: shared.files.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            latency: Spread::of(dots.iter().filter_map(|d| d.took_ns).collect()),
            failover: Spread::of(failovers.iter().filter_map(|(_, ns)| *ns).collect()),
            never_recovered: failovers.iter().filter(|(_, ns)| ns.is_none()).count(),
            losses,
            faults,
            dots,
        }
    }

    /// Nothing was lost, nothing failed, and the cluster always recovered.
    pub fn is_clean(&self) -> bool {
        self.losses.is_empty()
            && self.never_recovered == 0
            && self.unanswered == 0
            && self.errors == 0
    }

    /// In a few lines.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: {} NameNodes, {} DataNodes, {} clients, {:.1} s\n",
            self.scenario,
            self.namenodes,
            self.datanodes,
            self.clients,
            self.took_ms / 1_000.0
        );
        text += &format!(
            "operations: {}, unanswered: {}, errors: {}; latency median {:.2} ms, 99 % {:.2} ms, longest {:.1} ms\n",
            self.operations,
            self.unanswered,
            self.errors,
            self.latency.median_ms,
            self.latency.p99_ms,
            self.latency.most_ms
        );
        if self.files > 0 {
            text += &format!(
                "files written, synced and read again: {} with {} bytes\n",
                self.files, self.bytes
            );
        }
        if self.failover.count > 0 || self.never_recovered > 0 {
            text += &format!(
                "faults of the leader: {}; until the next acknowledged write: median {:.0} ms, 99 % {:.0} ms, longest {:.0} ms; never: {}\n",
                self.failover.count + self.never_recovered,
                self.failover.median_ms,
                self.failover.p99_ms,
                self.failover.most_ms,
                self.never_recovered
            );
        }
        match self.losses.as_slice() {
            [] => {
                text += "every history is linearizable, and nothing that was acknowledged is lost"
            }
            losses => {
                for loss in losses {
                    text += &format!("LOST: {}: {}\n", loss.what, loss.why);
                }
            }
        }
        text
    }

    /// As a page.
    pub fn html(&self) -> String {
        let mut page = String::from(HEAD);
        let verdict = if self.is_clean() {
            "clean"
        } else {
            "not clean"
        };
        put(
            &mut page,
            format_args!(
                "<h1>Drill: {}</h1><p>{}: {verdict}</p><pre>{}</pre>",
                escape(&self.scenario),
                escape(Scenario::of(&self.scenario).map_or(SCHEDULE, Scenario::about)),
                escape(&self.text())
            ),
        );
        self.picture(&mut page);
        page += "<h2>Faults</h2><table><tr><th>from, s<th>to, s<th>what</tr>";
        for fault in &self.faults {
            put(
                &mut page,
                format_args!(
                    "<tr><td>{:.3}<td>{:.3}<td>{}</tr>",
                    ms(fault.from_ns) / 1e3,
                    ms(fault.to_ns) / 1e3,
                    escape(&fault.what)
                ),
            );
        }
        page += "</table></html>\n";
        page
    }

    /// Time goes to the right, latency up on a scale of powers of ten; faults are shaded.
    fn picture(&self, page: &mut String) {
        let width = 1_200.0_f64.max(self.took_ms / 25.0).min(30_000.0);
        let (height, low, high) = (320.0, 0.1_f64, 60_000.0_f64);
        let x = |at_ms: f64| 40.0 + at_ms / self.took_ms.max(1.0) * (width - 50.0);
        let scale = (high / low).log10();
        let y =
            |at_ms: f64| height - 20.0 - (at_ms.max(low) / low).log10() / scale * (height - 40.0);
        put(
            page,
            format_args!(
                "<h2>Operations</h2><p>Each dot is an operation: when it began, and how long it took. Writes are dark, reads light, unanswered ones red at the top. Faults are shaded.</p><div class=\"scroll\"><svg width=\"{width:.0}\" height=\"{height:.0}\">"
            ),
        );
        for fault in &self.faults {
            let (from, to) = (x(ms(fault.from_ns)), x(ms(fault.to_ns)));
            put(
                page,
                format_args!(
                    "<rect class=\"fault\" x=\"{from:.1}\" y=\"10\" width=\"{:.1}\" height=\"{:.0}\"><title>{}</title></rect>",
                    (to - from).max(1.0),
                    height - 30.0,
                    escape(&fault.what)
                ),
            );
        }
        for step in [0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0] {
            put(
                page,
                format_args!(
                    "<line x1=\"40\" x2=\"{width:.0}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/><text x=\"0\" y=\"{0:.1}\">{step} ms</text>",
                    y(step)
                ),
            );
        }
        // Of very many, the slow ones and a part of the others are shown.
        let thin = (self.dots.len() / MOST_DOTS).max(1);
        for (at, dot) in self.dots.iter().enumerate() {
            let slow = dot.took_ns.is_none_or(|ns| ns > 100_000_000);
            if !slow && at % thin != 0 {
                continue;
            }
            let class = match (dot.took_ns, dot.writes) {
                (None, _) => "lost",
                (_, true) => "write",
                _ => "read",
            };
            let up = dot.took_ns.map_or(y(high), |ns| y(ms(ns)));
            put(
                page,
                format_args!(
                    "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{up:.1}\" r=\"1.5\"/>",
                    x(ms(dot.begun_ns))
                ),
            );
        }
        page.push_str("</svg></div>");
    }
}

/// What a schedule does.
const SCHEDULE: &str = "faults at the times that a schedule names";

/// Operations in the picture, about.
const MOST_DOTS: usize = 40_000;

fn put(page: &mut String, what: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = page.write_fmt(what);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

const HEAD: &str =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>boomfs drill</title><style>
body{font:15px/1.5 system-ui,sans-serif;margin:2em;max-width:80em}
pre{background:#f4f4f4;padding:1em;white-space:pre-wrap}
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}
.scroll{overflow-x:auto}svg{background:#fff}line{stroke:#e4e4e4}text{font-size:10px;fill:#777}
.fault{fill:#d9534f;opacity:.2}.write{fill:#1f4e79}.read{fill:#8fb8de}.lost{fill:#d9534f}
</style>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up() {
        let spread = Spread::of((1..=100).map(|n| n * 1_000_000).collect());
        assert_eq!(
            (spread.median_ms, spread.p99_ms, spread.most_ms),
            (50.0, 99.0, 100.0)
        );
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }

    #[test]
    fn a_page_shows_faults_operations_and_losses() {
        let fault = Fault {
            scenario: Scenario::KillLeader,
            what: "killed <1>".to_owned(),
            from_ns: 1_000_000_000,
            done_ns: 1_000_000_000,
            to_ns: 2_000_000_000,
        };
        let write = |begun_ns: u64, end: Option<u64>| Operation {
            process: 1,
            op: Op::Unlink("a".to_owned()),
            begun_ns,
            ended: end.map(|ns| (ns, Answer::Done)),
        };
        let history = vec![
            write(500_000_000, Some(501_000_000)),
            write(1_000_500_000, Some(1_400_000_000)),
            write(1_600_000_000, None),
        ];
        assert_eq!(
            failovers(&history, std::slice::from_ref(&fault)),
            [(1_000_000_000, Some(400_000_000))]
        );
        let report = Report {
            scenario: Scenario::KillLeader.name().to_owned(),
            namenodes: 3,
            datanodes: 0,
            clients: 1,
            took_ms: 3_000.0,
            operations: 3,
            unanswered: 1,
            errors: 0,
            files: 0,
            bytes: 0,
            latency: Spread::default(),
            failover: Spread::of(vec![400_000_000]),
            never_recovered: 0,
            losses: vec![Loss {
                what: "a file".to_owned(),
                why: "gone".to_owned(),
            }],
            faults: vec![fault],
            dots: vec![
                Dot {
                    process: 1,
                    begun_ns: 1,
                    took_ns: Some(5),
                    writes: true,
                },
                Dot {
                    process: 1,
                    begun_ns: 1,
                    took_ns: None,
                    writes: true,
                },
            ],
        };
        let page = report.html();
        for part in [
            "killed &lt;1&gt;",
            "class=\"fault\"",
            "class=\"write\"",
            "class=\"lost\"",
            "LOST: a file: gone",
            "not clean",
            "median 400 ms",
        ] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
        let json = serde_json::to_string(&report).unwrap();
        let back: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(back.faults, report.faults);
    }
}
