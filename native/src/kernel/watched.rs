//! The loop of a kernel thread, watched: a panic in it is told, and it begins anew; after too many it is told that it does not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::events::{EventSink, KernelEvent};
use crate::relay::succession::{MOST_DEATHS, WINDOW, text_of};

const PAUSE: Duration = Duration::from_millis(200);

/// Runs `body` until it returns by itself.
pub fn run(sink: &EventSink, body: impl Fn()) {
    let mut deaths: Vec<Instant> = Vec::new();
    while let Err(panic) = catch_unwind(AssertUnwindSafe(&body)) {
        deaths.retain(|at| at.elapsed() < WINDOW);
        deaths.push(Instant::now());
        let restarted = deaths.len() < MOST_DEATHS;
        sink(KernelEvent::Died { message: text_of(panic.as_ref()), restarted });
        if !restarted {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    fn deaths(panics: usize) -> Vec<bool> {
        let told: Arc<Mutex<Vec<bool>>> = Arc::default();
        let log = told.clone();
        let sink: EventSink = Arc::new(move |event| match event {
            KernelEvent::Died { restarted, message } => {
                assert_eq!(message, "a bug");
                log.lock().unwrap().push(restarted);
            }
            other => panic!("{other:?}"),
        });
        let turns = AtomicUsize::new(0);
        run(&sink, || assert!(turns.fetch_add(1, Ordering::Relaxed) >= panics, "a bug"));
        told.lock().unwrap().clone()
    }

    #[test]
    #[doc = "[INT-14] a kernel thread that panics is told of and goes on; one that panics for ever is given up, and that is told too"]
    fn a_panic_is_told_and_the_loop_goes_on() {
        assert!(deaths(0).is_empty());
        assert_eq!(deaths(2), [true, true]);
        assert_eq!(deaths(99), [true, true, true, true, false]);
    }
}
