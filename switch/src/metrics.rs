//! The state as Prometheus reads it.
//!
//! Source: the text format, version 0.0.4, of Prometheus' "exposition formats".

use std::fmt::Write;

use shunt_api::{Index, Release, Upstream};

/// The `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes the families one after the other, each with all of its series.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP shunt_{name} {help}\n# TYPE shunt_{name} {kind}");
    }

    fn series(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.0, "shunt_{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// A family with one figure for each release: name, type, help, the figure.
type OfRelease = (&'static str, &'static str, &'static str, fn(&Upstream, &Release) -> u64);

const OF_RELEASE: [OfRelease; 7] = [
    ("release_active", "gauge", "Whether new requests go to the release.", |u, r| {
        u64::from(u.active.as_ref() == Some(&r.name))
    }),
    (
        "release_previous",
        "gauge",
        "Whether the release was active before the last switch.",
        |u, r| u64::from(u.previous.as_ref() == Some(&r.name)),
    ),
    ("requests_total", "counter", "Requests given to the release.", |_, r| r.requests),
    ("in_flight_requests", "gauge", "Requests that have not ended.", |_, r| r.in_flight.requests),
    ("in_flight_upgraded", "gauge", "Upgraded connections that have not ended.", |_, r| {
        r.in_flight.upgraded
    }),
    ("connect_failures_total", "counter", "Failed attempts to connect to a server.", |_, r| {
        r.connect_failures
    }),
    (
        "fallbacks_total",
        "counter",
        "Requests that went on to another release because this one could not be connected to.",
        |_, r| r.fallbacks,
    ),
];

/// A family with one figure for each upstream.
type OfUpstream = (&'static str, &'static str, &'static str, fn(&Upstream) -> u64);

const OF_UPSTREAM: [OfUpstream; 5] = [
    ("generation", "gauge", "Raised by one with every change of the upstream.", |u| {
        u.generation.into()
    }),
    ("switches_total", "counter", "Times that another release was made active.", |u| u.switches),
    ("hold", "gauge", "Whether new requests are parked.", |u| u.hold.is_some().into()),
    ("parked_requests", "gauge", "Requests that are parked now.", |u| u.parked),
    ("parked_requests_total", "counter", "Requests that were parked.", |u| u.parked_total),
];

/// Writes the page.
#[must_use]
pub fn page(index: &Index, upstreams: &[Upstream]) -> String {
    let mut page = Page(String::with_capacity(2048));
    page.family("info", "gauge", "Versions of the module and of NGINX.");
    page.series("info", &[("module", &index.module), ("nginx", &index.nginx)], 1);
    page.family("workers", "gauge", "Worker processes, those of an older configuration included.");
    page.series("workers", &[], index.workers);
    page.family(
        "zone_used",
        "gauge",
        "What is used in a zone: upstreams, releases, bytes of tables.",
    );
    for (zone, what, share) in zones(index) {
        page.series("zone_used", &[("zone", zone), ("what", what)], share.used);
    }
    page.family("zone_capacity", "gauge", "What there is in a zone.");
    for (zone, what, share) in zones(index) {
        page.series("zone_capacity", &[("zone", zone), ("what", what)], share.capacity);
    }
    for (name, kind, help, figure) in OF_UPSTREAM {
        page.family(name, kind, help);
        for upstream in upstreams {
            page.series(name, &[("upstream", &upstream.name)], figure(upstream));
        }
    }
    let releases = || upstreams.iter().flat_map(|u| u.releases.iter().map(move |r| (u, r)));
    page.family("canary_share", "gauge", "The share of the requests that a canary gets.");
    for upstream in upstreams {
        if let Some(canary) = &upstream.canary {
            let labels = [("upstream", &*upstream.name), ("release", canary.release.as_str())];
            page.series("canary_share", &labels, canary.share);
        }
    }
    for (name, kind, help, figure) in OF_RELEASE {
        page.family(name, kind, help);
        for (upstream, release) in releases() {
            let labels = [("upstream", &*upstream.name), ("release", release.name.as_str())];
            page.series(name, &labels, figure(upstream, release));
        }
    }
    page.family("responses_total", "counter", "Responses by the class of their status.");
    for (upstream, release) in releases() {
        let r = release.responses;
        for (class, count) in [
            ("1xx", r.informational),
            ("2xx", r.successful),
            ("3xx", r.redirection),
            ("4xx", r.client_error),
            ("5xx", r.server_error),
        ] {
            let labels = [
                ("upstream", &*upstream.name),
                ("release", release.name.as_str()),
                ("class", class),
            ];
            page.series("responses_total", &labels, count);
        }
    }
    let name = "response_time_seconds";
    page.family(name, "histogram", "Time to the end of a response, upgraded connections left out.");
    for (upstream, release) in releases() {
        let labels = [("upstream", &*upstream.name), ("release", release.name.as_str())];
        let time = &release.response_time;
        for bucket in &time.buckets {
            let le = bucket.le.to_string();
            let labels = [labels[0], labels[1], ("le", &*le)];
            page.series(&format!("{name}_bucket"), &labels, bucket.count);
        }
        let all = [labels[0], labels[1], ("le", "+Inf")];
        page.series(&format!("{name}_bucket"), &all, time.count);
        page.series(&format!("{name}_sum"), &labels, time.sum);
        page.series(&format!("{name}_count"), &labels, time.count);
    }
    page.0
}

fn zones(index: &Index) -> impl Iterator<Item = (&str, &'static str, shunt_api::state::Share)> {
    index.zones.iter().flat_map(|zone| {
        [("upstreams", zone.upstreams), ("releases", zone.releases), ("table_bytes", zone.tables)]
            .map(|(what, share)| (&*zone.name, what, share))
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page(String::new());
        page.series("x", &[("a", "q\"b\\c\nd"), ("b", "")], 0.5);
        page.series("y", &[], 3);
        assert_eq!(page.0, "shunt_x{a=\"q\\\"b\\\\c\\nd\",b=\"\"} 0.5\nshunt_y 3\n");
    }
}
