//! Waiting for a condition, with a deadline.

use anyhow::{Result, bail};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer. `what` says for what is waited.
///
/// # Errors
/// There is none within the deadline (the last reason is named), which is given by the question as an error.
pub fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(why) if start.elapsed() >= deadline => {
                bail!("{what}: not within {deadline:?}: {why:#}")
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Does something that may hang, such as a call on a mount, on a thread of its own.
///
/// # Errors
/// It is not done within the deadline (the thread is left behind), or what it gives itself.
pub fn within<T: Send + 'static>(
    deadline: Duration,
    what: &str,
    act: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, done) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more after the deadline.
        let _ = sender.send(act());
    });
    match done.recv_timeout(deadline) {
        Ok(result) => result,
        Err(_) => bail!("{what}: not done within {deadline:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_never_comes_is_named() {
        let error =
            eventually::<()>(Duration::ZERO, "the sun", || bail!("it is dark")).unwrap_err();
        assert_eq!(error.to_string(), "the sun: not within 0ns: it is dark");
        let mut tries = 0;
        let answer = eventually(Duration::from_secs(10), "three", || {
            tries += 1;
            if tries == 3 {
                Ok(tries)
            } else {
                bail!("{tries}")
            }
        });
        assert_eq!(answer.unwrap(), 3);
    }
}
