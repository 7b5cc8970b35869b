//! What every comparison needs.

use shunt_tests::build::Build;

use crate::application::Application;
use crate::contender::{Contender, Kind, Setup};
use crate::machine::Cores;
use crate::results::Folder;

/// What every comparison needs.
#[derive(Debug)]
pub struct Bench {
    /// The machine's NGINX: Lua's module is built for that one only.
    pub build: Build,
    /// Who runs where.
    pub cores: Cores,
    /// How many files a process may have open.
    pub files: u64,
    /// Where results go.
    pub folder: Folder,
    /// Who is compared.
    pub kinds: Vec<Kind>,
}

/// One of those who are compared, running.
pub struct Running {
    /// Which.
    pub kind: Kind,
    /// It.
    pub proxy: Box<dyn Contender>,
}

impl Bench {
    /// Two releases of the application.
    pub fn applications(&self) -> [Application; 2] {
        ["a", "b"].map(|name| Application::start(&self.build, name))
    }

    /// A setup with these.
    pub fn setup(&self, releases: &[Application]) -> Setup<'_> {
        let releases: Vec<&Application> = releases.iter().collect();
        Setup::new(&self.build, &self.cores, &releases)
    }

    /// All who can go to another release.
    pub fn flipping(&self) -> impl Iterator<Item = Kind> {
        self.kinds.iter().copied().filter(|kind| kind.flips())
    }

    /// All who can, and Shunt without a state file besides: the others have none.
    pub fn flipping_and_volatile(&self) -> impl Iterator<Item = Kind> {
        let volatile = self.kinds.contains(&Kind::Shunt).then_some(Kind::Volatile);
        self.flipping().chain(volatile)
    }
}

impl Running {
    /// Starts one.
    pub fn start(kind: Kind, setup: &Setup) -> Self {
        Self { kind, proxy: kind.start(setup) }
    }

    /// Makes a release active, which has to succeed.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn flip(&mut self, release: &str) {
        if let Err(said) = self.proxy.flip(release) {
            panic!("{}: to {release}: {said}", self.kind.name());
        }
    }
}
