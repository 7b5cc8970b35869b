//! The release's files come.

use crate::deploy::engine::Job;
use crate::deploy::failure::{Done, Failure};
use crate::source;
use crate::wire::{Outcome, Step, What};

impl Job<'_> {
    pub(in crate::deploy) async fn fetch(&mut self) -> Done {
        let Some(from) = self.from.clone() else { return Ok(String::new()) };
        let report = self.report;
        let mut lines =
            |line: &str| report.say(What::Line { step: Step::Fetch, text: line.to_owned() });
        let config = self.app.job_config().await.map_err(Failure::not_started)?;
        let fetched =
            source::fetch(&config, &from, self.by.as_ref(), &self.release, &mut lines).await;
        let fetched = fetched.map_err(|error| Failure {
            lines: error.lines().to_vec(),
            ..Failure::new(Outcome::Failed, error)
        })?;
        let (folder, revision) = (fetched.folder.display().to_string(), fetched.revision);
        let note = match revision == from.to_string() {
            true => folder,
            false => format!("{folder} ({revision})"),
        };
        self.revision = Some(revision);
        Ok(note)
    }
}
