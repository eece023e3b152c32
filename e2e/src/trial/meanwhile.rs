//! Something that goes on while a test does something else, and ends with it, however it ended.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::error::Result;

/// Ends what goes on, also where a scenario panics: who waits for threads that nobody stops waits for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Has each of `workers` threads do its work over and over, at least once, until the scenario is over. A worker is given
/// its number, and ends with its first error. What failed in the scenario comes before what failed beside it.
pub fn meanwhile<T>(
    workers: usize,
    work: impl Fn(usize) -> Result<()> + Sync,
    scenario: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (work, over) = (&work, &over);
        let working: Vec<_> = (0..workers)
            .map(|number| {
                scope.spawn(move || {
                    loop {
                        work(number)?;
                        if over.load(Relaxed) {
                            return Ok(());
                        }
                    }
                })
            })
            .collect();
        let outcome = {
            let _over = Over(over);
            scenario()
        };
        let worked: Result<()> = working.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let outcome = outcome?;
        worked.map(|()| outcome)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::error::Error;

    #[test]
    fn it_ends_with_the_scenario_however_that_ended() {
        let rounds = AtomicUsize::new(0);
        let work = |_| {
            rounds.fetch_add(1, Relaxed);
            Ok(())
        };
        assert_eq!(meanwhile(3, work, || Ok(7)).unwrap(), 7);
        assert!(rounds.load(Relaxed) >= 3);
        let failed = meanwhile(3, work, || Err::<(), _>(Error::new("the scenario")));
        assert_eq!(failed.unwrap_err().to_string(), "the scenario");
        let panicked =
            std::panic::catch_unwind(|| meanwhile(3, |_| Ok(()), || -> Result<()> { panic!("so") }));
        assert!(panicked.is_err());
        let beside = meanwhile(
            2,
            |number| Err(Error::new(format!("worker {}", number / 2))),
            || Ok(()),
        );
        assert_eq!(beside.unwrap_err().to_string(), "worker 0");
    }
}
