//! A job that was cut off, or could not take back what it had begun, comes first: the next job would
//! write its own intent in that one's place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::deploy::app::App;
use crate::deploy::journal::Underway;

/// How many recoveries are to finish a job of an application, or take it back.
#[derive(Debug, Clone, Default)]
pub(super) struct Count(Arc<AtomicU32>);

/// Until this is dropped, no other job of the application begins.
#[derive(Debug)]
pub struct Unfinished(Count);

impl Unfinished {
    fn new(count: &Count) -> Self {
        count.0.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl App {
    /// What an earlier daemon has left is to be finished or taken back, if it has left something.
    pub async fn left_before(&self) -> Option<Unfinished> {
        self.underway().await.map(|_| Unfinished::new(&self.unfinished))
    }

    /// What this job has left is to be taken back, if it has left something.
    pub async fn left_by(&self, job: u64) -> Option<Unfinished> {
        self.underway().await.filter(|left| left.job == job)?;
        Some(Unfinished::new(&self.unfinished))
    }

    /// The job that has to be finished or taken back before another one begins.
    pub async fn unfinished(&self) -> Option<Underway> {
        self.underway().await.filter(|_| self.unfinished.0.load(Ordering::SeqCst) > 0)
    }
}
