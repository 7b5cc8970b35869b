//! A release that is an image of Docker's. Its folder has no files of the application, only what it was
//! made of: `REVISION` is the image's ID, which never means another one, and `IMAGE` by which name it
//! can be had again.

use std::io::Write;
use std::path::Path;

use super::order::Order;
use super::partial::{Partial, Revision};
use super::{Fetched, SourceError};
use crate::file;
use crate::origin::image::Image;
use crate::runner::docker::image::Found;

/// The file of a release that has its image's name.
pub const IMAGE: &str = "IMAGE";

/// The longest name in a release's folder, in bytes.
const LONGEST: u64 = 1 << 10;

/// By which name the image of a release can be had again, if its folder says so.
#[must_use]
pub fn of(folder: &Path) -> Option<Image> {
    file::read(&folder.join(IMAGE), LONGEST).ok()?.trim().parse().ok()
}

/// Makes the folder of a release.
pub(super) fn fetch(found: &Found, order: Order) -> Result<Fetched, SourceError> {
    let partial = Partial::begin(order)?;
    let write = || {
        let mut file = partial.create(partial.top(), IMAGE.as_ref())?;
        file.write_all(format!("{}\n", found.name).as_bytes())?;
        partial.seal(&file, 0o644, jiff::Timestamp::now().as_second())
    };
    write().map_err(|error| SourceError::Write { path: IMAGE.into(), error })?;
    let (folder, revision) = partial.finish(Revision::Is(found.id.clone()))?;
    Ok(Fetched { folder, revision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::order::testing::order;
    use crate::source::revision;

    #[test]
    fn a_release_s_folder_says_what_it_is_made_of() {
        let tmp = tempfile::tempdir().unwrap();
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let found = Found { id: digest.clone(), name: "web:v1".parse().unwrap() };
        let fetched = fetch(&found, order(tmp.path())).unwrap();
        assert_eq!(fetched.revision, digest);
        assert_eq!(revision::of(&fetched.folder), Some(digest));
        assert_eq!(of(&fetched.folder), Some(found.name));
        assert_eq!(of(tmp.path()), None);
    }
}
