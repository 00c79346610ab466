//! Several things at a time.

use crate::failure::Tally;
use tokio::task::JoinSet;

/// How many at a time: enough to share the NameNode's syncs.
const HANDS: usize = 16;

/// Does jobs side by side, a bounded number at a time. What fails is reported and does not keep the others.
#[derive(Default)]
pub struct Crew {
    jobs: JoinSet<anyhow::Result<()>>,
    tally: Tally,
}

impl Crew {
    /// Starts a job, when there is a hand for it.
    pub async fn add(&mut self, job: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        while self.jobs.len() >= HANDS {
            self.one().await;
        }
        self.jobs.spawn(job);
    }

    /// Takes an outcome of something that was done outside the crew; gives its value.
    pub fn take<T>(&mut self, outcome: anyhow::Result<T>) -> Option<T> {
        self.tally.take(outcome)
    }

    /// Waits until all jobs so far are done.
    pub async fn rest(&mut self) {
        while !self.jobs.is_empty() {
            self.one().await;
        }
    }

    /// Waits for all jobs.
    ///
    /// # Errors
    /// Some failed; they have been reported.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.rest().await;
        self.tally.end()
    }

    async fn one(&mut self) {
        match self.jobs.join_next().await {
            Some(Ok(outcome)) => drop(self.tally.take(outcome)),
            Some(Err(why)) => drop(self.tally.take::<()>(Err(why.into()))),
            None => tokio::task::yield_now().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn every_job_is_done_and_one_failure_is_remembered() {
        let done = Arc::new(AtomicUsize::new(0));
        let mut crew = Crew::default();
        for number in 0..100 {
            let done = done.clone();
            crew.add(async move {
                tokio::task::yield_now().await;
                done.fetch_add(1, Ordering::Relaxed);
                anyhow::ensure!(number != 50, "number 50");
                Ok(())
            })
            .await;
        }
        assert!(crew.end().await.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }
}
