//! Threads that read, hash, send and write while one thread decides what to do.

use std::num::NonZero;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::object::target::TargetError;

type Job = Box<dyn FnOnce() + Send>;

/// A number of threads; dropped, it waits for what they have begun.
#[derive(Debug)]
pub struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// What a job returns, once it is done.
#[derive(Debug)]
pub struct Later<T>(Receiver<T>);

impl<T, E: From<TargetError>> Later<Result<T, E>> {
    /// Waits for it.
    ///
    /// # Errors
    /// The job's, or [`TargetError::Lost`].
    pub fn wait(self) -> Result<T, E> {
        self.0.recv().unwrap_or_else(|_| Err(TargetError::Lost.into()))
    }
}

impl Pool {
    /// Starts the threads.
    pub fn new(threads: NonZero<usize>) -> Self {
        let (jobs, taken) = mpsc::channel::<Job>();
        let taken = Arc::new(Mutex::new(taken));
        let work = move || {
            let taken = Arc::clone(&taken);
            std::thread::spawn(move || {
                let next = || taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(job) = next() {
                    job();
                }
            })
        };
        Self { jobs: Some(jobs), threads: (0..threads.get()).map(|_| work()).collect() }
    }

    /// Threads.
    pub fn width(&self) -> usize {
        self.threads.len()
    }

    /// Has one of the threads do `job`.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Later<T> {
        let (told, later) = mpsc::sync_channel(1);
        let job = Box::new(move || {
            // Nobody waits for it where another job has failed.
            drop(told.send(job()));
        });
        let jobs = self.jobs.as_ref().expect("taken on drop alone");
        // With all threads gone the job is dropped, and who waits is told.
        drop(jobs.send(job));
        Later(later)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that moves objects panicked");
            }
        }
    }
}
