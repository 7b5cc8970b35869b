//! The upstreams that the API serves, found by their names.

use std::collections::HashMap;
use std::ops::Deref;

/// An upstream that the API serves.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// Its zone: index into [`Service::zones`](crate::service::Service::zones).
    pub zone: usize,
    /// Its record in the zone; `None` when the zone had no room.
    pub record: Option<usize>,
    /// Whether its balancing method knows backup servers.
    pub backup: bool,
    /// Whether a `shunt_hold` names it.
    pub holdable: bool,
}

/// All of a configuration, in its order.
#[derive(Debug, Default)]
pub struct ServedUpstreams {
    all: Vec<Served>,
    /// There may be a thousand, and a call is about one.
    places: HashMap<String, usize>,
}

impl ServedUpstreams {
    /// The upstream of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Served> {
        self.all.get(*self.places.get(name)?)
    }
}

impl FromIterator<Served> for ServedUpstreams {
    fn from_iter<I: IntoIterator<Item = Served>>(upstreams: I) -> Self {
        let all: Vec<Served> = upstreams.into_iter().collect();
        let places = all.iter().enumerate().map(|(at, served)| (served.name.clone(), at)).collect();
        Self { all, places }
    }
}

impl Deref for ServedUpstreams {
    type Target = [Served];

    fn deref(&self) -> &[Served] {
        &self.all
    }
}
