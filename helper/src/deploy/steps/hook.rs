//! The hooks.

use crate::config::hooks::When;
use crate::deploy::engine::Job;
use crate::deploy::failure::{Done, Failure};
use crate::hook::Call;
use crate::source;
use crate::wire::{Outcome, Step, What};

impl Job<'_> {
    pub(in crate::deploy) async fn hook(&mut self, step: Step) -> Done {
        let Some(when) = when(step) else { return Ok(String::new()) };
        let config = self.app.job_config().await.map_err(Failure::not_started)?;
        let Some(hook) = config.hooks.at(when) else { return Ok(String::new()) };
        let call = Call {
            app: &config,
            when,
            release: &self.release,
            revision: self.revision.as_deref(),
            previous: self.old.as_ref(),
            slot: self.slot.as_ref(),
            failure: self.failure.as_deref(),
        };
        let report = self.report;
        call.run(&mut |line: &str| report.say(What::Line { step, text: line.to_owned() })).await?;
        if matches!(when, When::Build | When::Migrate) {
            // What it has written must outlive a loss of power, once users rely on it.
            let folder = self.app.releases.of(&self.release);
            source::sync(&folder).await.map_err(|error| {
                Failure::new(Outcome::Failed, format!("{}: {error}", folder.display()))
            })?;
        }
        Ok(hook.command.first().cloned().unwrap_or_default())
    }
}

/// The hook of a step.
fn when(step: Step) -> Option<When> {
    match step {
        Step::Build => Some(When::Build),
        Step::Migrate => Some(When::Migrate),
        Step::BeforeSwitch => Some(When::BeforeSwitch),
        Step::AfterSwitch => Some(When::AfterSwitch),
        Step::AfterDeploy => Some(When::AfterDeploy),
        Step::OnFailure => Some(When::OnFailure),
        _ => None,
    }
}
