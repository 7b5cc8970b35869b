//! The name of a release that nobody has given one.

use axum::http::StatusCode;
use jiff::Timestamp;
use shunt_api::ReleaseName;

use super::{Answer, Refusal};
use crate::deploy::app::App;
use crate::source::Source;

/// One that no release has.
pub(super) fn unused(app: &App, from: Option<&Source>) -> Answer<ReleaseName> {
    candidates(Timestamp::now(), from)
        .find(|name| !app.releases.of(name).exists())
        .ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "too many releases in this second"))
}

/// The time, so that names are in the order of the releases and the same commit can be deployed again,
/// and what was asked for in a repository; with a number for the case that it is taken. The commit of a
/// branch is not known before it is fetched.
fn candidates(now: Timestamp, from: Option<&Source>) -> impl Iterator<Item = ReleaseName> {
    let mut name = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let label = match from {
        Some(Source::Git { reference, .. }) => reference.label(),
        Some(Source::Image(image)) => image.label(),
        Some(Source::Folder(_) | Source::Archive { .. }) | None => None,
    };
    if let Some(label) = label {
        name = format!("{name}-{label}");
    }
    let numbered = move |n| if n == 0 { name.clone() } else { format!("{name}-{n}") };
    (0..1000).filter_map(move |n| ReleaseName::new(&numbered(n)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_time_and_what_was_asked_for() {
        let now: Timestamp = "2026-11-24T13:24:40Z".parse().unwrap();
        let git = |reference: &str| Source::Git {
            url: "https://git.example/web.git".parse().unwrap(),
            reference: reference.parse().unwrap(),
            submodules: false,
        };
        let longest = "x".repeat(250);
        for (from, name) in [
            (None, "20261124T132440Z"),
            (Some(Source::Folder("/srv/dist".into())), "20261124T132440Z"),
            (Some(git("HEAD")), "20261124T132440Z"),
            (Some(Source::Image("web:v2".parse().unwrap())), "20261124T132440Z-v2"),
            (Some(git("v2.1.0")), "20261124T132440Z-v2.1.0"),
            (Some(git("refs/tags/v2.1.0")), "20261124T132440Z-v2.1.0"),
            (Some(git("refs/pull/7/head")), "20261124T132440Z-pull-7-head"),
            (Some(git("feature/züge")), "20261124T132440Z-feature-z-ge"),
            (Some(git("0123456789ABCDEF0123456789abcdef01234567")), "20261124T132440Z-0123456"),
        ] {
            let mut names = candidates(now, from.as_ref());
            assert_eq!(names.next().unwrap().as_str(), name);
            assert_eq!(names.next().unwrap().as_str(), format!("{name}-1"));
        }
        assert_eq!(candidates(now, Some(&git(&longest))).count(), 1000, "none is too long");
    }
}
