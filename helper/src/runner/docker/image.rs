//! The image of a release: looked for on this machine, or fetched from its registry.

use std::time::Duration;

use super::DockerError;
use super::engine::Engine;
use crate::config::{self, Pull};
use crate::program::Lines;
use crate::source::image::{Found, Image};

/// Finds an image, and fetches it before if that is wanted and what was not there can be had.
///
/// # Errors
///
/// [`DockerError`].
pub async fn find(
    config: &config::Docker,
    image: &Image,
    limit: Duration,
    lines: &mut Lines<'_>,
) -> Result<Found, DockerError> {
    let engine = Engine::patient(&config.socket, limit).await?;
    let name = image.to_string();
    let known = match engine.image(&name).await {
        Ok(known) => Some(known),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let known = match (config.pull, known) {
        (Pull::Missing | Pull::Never, Some(known)) => known,
        (Pull::Never, None) => return Err(DockerError::NoImage(image.clone())),
        (Pull::Always, _) | (Pull::Missing, None) => {
            let failed = |error| DockerError::Pull { image: image.clone(), error };
            engine.pull(image, lines).await.map_err(failed)?;
            engine.image(&name).await?
        }
    };
    let digests = known.repo_digests.unwrap_or_default();
    let id = known.id.unwrap_or_default();
    Ok(Found { id, name: pinned(image, &digests) })
}

/// The image by the digest that its registry has of it, if it came from there.
fn pinned(image: &Image, digests: &[String]) -> Image {
    let of_it = |text: &String| {
        let digest = text.parse::<Image>().ok()?;
        (digest.repository() == image.repository()).then_some(digest)
    };
    digests.iter().find_map(of_it).unwrap_or_else(|| image.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_a_registry_can_be_had_again_from_there() {
        let image: Image = "registry.example/web:v1".parse().unwrap();
        let digest = format!("sha256:{}", "0a".repeat(32));
        let [other, own] = ["other", "registry.example/web"].map(|name| format!("{name}@{digest}"));
        assert_eq!(pinned(&image, &[other.clone(), own.clone()]).to_string(), own);
        assert_eq!(pinned(&image, &[other, "<none>@<none>".to_owned()]), image);
    }
}
