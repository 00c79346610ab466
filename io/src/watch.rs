//! A value that tasks wait on.
//!
//! As `tokio::sync::watch`, with one difference: that one wakes those who wait in an order that it
//! draws by lot, which no seed governs. Here they wake in the order in which they began to wait.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The sender is gone: the value stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watched value will not change any more")]
pub struct Closed;

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    value: T,
    /// Counts the changes.
    version: u64,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A closure that panics leaves the value as it left it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the value. Dropping it lets those who wait for more know.
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value. Clones wait on their own.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The version that was seen last.
    seen: u64,
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver {
            shared: self.shared.clone(),
            seen: self.seen,
        }
    }
}

/// A value, and the first who watches it; its first value counts as seen.
#[must_use]
pub fn channel<T: Clone>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T: Clone> Sender<T> {
    /// A value that nobody watches yet.
    #[must_use]
    pub fn new(value: T) -> Sender<T> {
        Sender(Arc::new(Shared {
            state: Mutex::new(State {
                value,
                version: 0,
                closed: false,
            }),
            changed: Notify::new(),
        }))
    }

    /// One more who watches; what the value is now counts as seen.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver {
            seen: self.0.lock().version,
            shared: self.0.clone(),
        }
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> T {
        self.0.lock().value.clone()
    }

    /// Puts another value in its place and wakes all who wait.
    pub fn set(&self, value: T) {
        self.change(|now| {
            *now = value;
            true
        });
    }

    /// Changes the value, and wakes all who wait if the closure says that it did.
    pub fn change(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let changed = {
            let mut state = self.0.lock();
            let changed = change(&mut state.value);
            state.version += u64::from(changed);
            changed
        };
        if changed {
            self.0.changed.notify_waiters();
        }
        changed
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_waiters();
    }
}

impl<T: Clone> Receiver<T> {
    /// What it is now; does not count as seen.
    #[must_use]
    pub fn get(&self) -> T {
        self.shared.lock().value.clone()
    }

    /// Waits until the value is another than the one seen last, and counts it as seen. Safe to
    /// cancel.
    ///
    /// # Errors
    /// The sender is gone and the last value was seen.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Begins to wait before it looks, so that no change falls between the two.
            let notified = self.shared.changed.notified();
            {
                let state = self.shared.lock();
                if state.version != self.seen {
                    self.seen = state.version;
                    return Ok(());
                }
                if state.closed {
                    return Err(Closed);
                }
            }
            notified.await;
        }
    }

    /// Waits until the value, as it is or as it will be, is as wanted, and counts it as seen.
    /// Safe to cancel.
    ///
    /// # Errors
    /// The sender is gone and the last value is another.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<T, Closed> {
        loop {
            let notified = self.shared.changed.notified();
            {
                let state = self.shared.lock();
                self.seen = state.version;
                if wanted(&state.value) {
                    return Ok(state.value.clone());
                }
                if state.closed {
                    return Err(Closed);
                }
            }
            notified.await;
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.0.lock().value).finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_tuple("Receiver").field(&state.value).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::World;
    use std::time::Duration;

    #[test]
    fn those_who_wait_wake_in_their_order() {
        let world = World::new(1);
        world.run(async {
            let io = world.node("a");
            let sender = Sender::new(0);
            let order = Arc::new(Mutex::new(Vec::new()));
            let mut tasks = Vec::new();
            for number in 0..100 {
                let (mut receiver, order) = (sender.subscribe(), order.clone());
                tasks.push(tokio::spawn(async move {
                    receiver.wait_for(|v| *v == 7).await.unwrap();
                    order.lock().unwrap().push(number);
                }));
            }
            io.sleep(Duration::from_millis(1)).await;
            sender.set(7);
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_change_is_seen_once_and_the_end_is_said() {
        let world = World::new(1);
        world.run(async {
            let (sender, mut receiver) = channel(1);
            assert!(!sender.change(|_| false));
            sender.set(2);
            sender.set(3);
            let mut other = receiver.clone();
            assert_eq!(receiver.changed().await, Ok(()));
            assert_eq!((receiver.get(), sender.get()), (3, 3));
            let mut late = sender.subscribe();
            drop(sender);
            assert_eq!(receiver.changed().await, Err(Closed));
            assert_eq!(late.changed().await, Err(Closed));
            assert_eq!(other.changed().await, Ok(()));
            assert_eq!(other.wait_for(|v| *v == 3).await, Ok(3));
            assert_eq!(other.wait_for(|v| *v == 4).await, Err(Closed));
        });
    }

    #[test]
    fn a_wait_that_began_before_the_change_ends_with_it() {
        let world = World::new(1);
        world.run(async {
            let io = world.node("a");
            let (sender, mut receiver) = channel(false);
            let waiting = tokio::spawn(async move { receiver.changed().await });
            io.sleep(Duration::from_millis(1)).await;
            assert!(!waiting.is_finished());
            assert!(sender.change(|v| !std::mem::replace(v, true)));
            assert_eq!(waiting.await.unwrap(), Ok(()));
        });
    }
}
