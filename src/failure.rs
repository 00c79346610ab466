//! What failures look like: one line on stderr, and an exit code for scripts.

use std::process::ExitCode;

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of a command whose arguments make no sense.
const USAGE: u8 = 2;
/// Exit code of a command that could not reach its cluster.
const UNREACHABLE: u8 = 3;

/// The arguments make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The cluster cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// Some of several things failed; each has been reported by [`warn`].
#[derive(Debug, thiserror::Error)]
#[error("some of it failed")]
pub struct Reported;

/// A usage error as an error of a command.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Reports a failure and says which exit code it has.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<Reported>().is_none() {
        warn(error);
    }
    ExitCode::from(code(error))
}

/// Reports a failure and goes on.
pub fn warn(error: &anyhow::Error) {
    // Whoever reads the last line of stderr gets all of it.
    eprintln!(
        "boomfs: {}",
        format!("{error:#}").trim_end().replace('\n', " ")
    );
}

fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return USAGE;
        }
        if cause.is::<Unreachable>() {
            return UNREACHABLE;
        }
        if let Some(boomfs_client::Error::TimedOut { .. }) = cause.downcast_ref() {
            return UNREACHABLE;
        }
    }
    FAILED
}

/// Goes through several things: what fails is reported and does not keep the others from being done.
#[derive(Debug, Default)]
pub struct Tally {
    worst: u8,
}

impl Tally {
    /// Takes one outcome; gives its value if it has one.
    pub fn take<T>(&mut self, outcome: anyhow::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                self.worst = self.worst.max(code(&error));
                if error.downcast_ref::<Reported>().is_none() {
                    warn(&error);
                }
                None
            }
        }
    }

    /// Whether all went well.
    ///
    /// # Errors
    /// [`Reported`], or [`Unreachable`] where that was the cause.
    pub fn end(self) -> anyhow::Result<()> {
        match self.worst {
            0 => Ok(()),
            UNREACHABLE => Err(anyhow::Error::new(Unreachable(
                "the cluster could not be reached".into(),
            ))
            .context(Reported)),
            _ => Err(Reported.into()),
        }
    }
}

/// A panic is a bug; it still gets one line and no backtrace.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let what = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        let place = info
            .location()
            .map(|at| format!(" ({}:{})", at.file(), at.line()))
            .unwrap_or_default();
        eprintln!(
            "boomfs: internal error: {}{place}; please report this",
            what.replace('\n', " ")
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn causes_have_exit_codes() {
        let timed_out = boomfs_client::Error::TimedOut {
            what: "lookup /a".into(),
            within: Duration::from_secs(1),
            who: "127.0.0.1:1: refused".into(),
        };
        assert_eq!(
            code(&anyhow::Error::new(timed_out).context("stat /a")),
            UNREACHABLE
        );
        assert_eq!(code(&usage("no such mode")), USAGE);
        assert_eq!(code(&anyhow::anyhow!("disk full")), FAILED);
    }

    #[test]
    fn a_tally_remembers_the_worst() {
        let mut tally = Tally::default();
        assert_eq!(tally.take(Ok(1)), Some(1));
        assert!(tally.end().is_ok());
        let mut tally = Tally::default();
        assert_eq!(tally.take::<()>(Err(Reported.into())), None);
        let error = tally.end().unwrap_err();
        assert_eq!(code(&error), FAILED);
        assert!(error.downcast_ref::<Reported>().is_some());
        let mut tally = Tally::default();
        tally.take::<()>(Err(Unreachable("x".into()).into()));
        let error = tally.end().unwrap_err();
        assert_eq!(code(&error), UNREACHABLE);
        assert!(error.downcast_ref::<Reported>().is_some());
    }
}
