//! The page of `shunt_metrics`, as Prometheus reads it.

use std::collections::BTreeMap;

use prometheus_parse::{Sample, Scrape, Value};

/// A page that was read.
#[derive(Debug)]
pub struct Page {
    samples: Vec<Sample>,
}

/// What a series is called: its name, and its labels but for those of a bucket.
fn series(sample: &Sample) -> String {
    let mut labels: Vec<_> = sample.labels.iter().collect();
    labels.sort();
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{}{{{}}}", sample.metric, labels.join(","))
}

impl Page {
    /// Reads a page.
    ///
    /// # Panics
    ///
    /// When it is not one.
    #[must_use]
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        Self { samples: Scrape::parse(lines).expect("Prometheus' format").samples }
    }

    /// Every counter by its series; a histogram's buckets, its sum and its count are counters, too.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, f64> {
        let mut counters = BTreeMap::new();
        for sample in &self.samples {
            match &sample.value {
                Value::Counter(value) => {
                    counters.insert(series(sample), *value);
                }
                Value::Histogram(buckets) => {
                    for bucket in buckets {
                        let name = format!("{} to {}", series(sample), bucket.less_than);
                        counters.insert(name, bucket.count);
                    }
                }
                Value::Untyped(value)
                    if sample.metric.ends_with("_count") || sample.metric.ends_with("_sum") =>
                {
                    counters.insert(series(sample), *value);
                }
                _ => {}
            }
        }
        counters
    }

    /// The value of the first series with this name, of this release if one is named.
    #[must_use]
    pub fn value(&self, name: &str, release: Option<&str>) -> Option<f64> {
        let found = self.samples.iter().find(|s| {
            s.metric == name && (release.is_none() || s.labels.get("release") == release)
        });
        match found?.value {
            Value::Counter(v) | Value::Gauge(v) | Value::Untyped(v) => Some(v),
            _ => None,
        }
    }
}

/// Looks at page after page whether a counter goes backwards.
#[derive(Debug, Default)]
pub struct Monotone {
    last: BTreeMap<String, f64>,
}

impl Monotone {
    /// Looks at the next page; tells which counters are less than they were, and which are gone.
    #[must_use]
    pub fn look(&mut self, page: &Page) -> Backwards {
        let now = page.counters();
        let mut backwards = Backwards::default();
        for (name, before) in &self.last {
            match now.get(name) {
                None => backwards.gone.push(name.clone()),
                Some(now) if now < before => {
                    backwards.less.push(format!("{name} was {before} and is {now}"));
                }
                Some(_) => {}
            }
        }
        self.last = now;
        backwards
    }
}

/// What no counter may do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Backwards {
    /// Counters that are less than they were.
    pub less: Vec<String>,
    /// Counters that are no longer there; those of a release that was deleted may.
    pub gone: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(requests: u32, bucket: u32) -> Page {
        Page::parse(&format!(
            "# TYPE r counter\nr{{release=\"a\"}} {requests}\n# TYPE g gauge\ng {requests}\n\
             # TYPE t histogram\nt_bucket{{release=\"a\",le=\"1\"}} {bucket}\n\
             t_bucket{{release=\"a\",le=\"+Inf\"}} 9\nt_sum{{release=\"a\"}} 9\n\
             t_count{{release=\"a\"}} 9\n"
        ))
    }

    #[test]
    fn a_counter_that_goes_backwards_is_found_and_a_gauge_may() {
        let mut monotone = Monotone::default();
        assert_eq!(monotone.look(&page(5, 5)), Backwards::default());
        assert_eq!(monotone.look(&page(5, 6)), Backwards::default());
        let Backwards { less, gone } = monotone.look(&page(4, 6));
        assert_eq!((less.len(), gone.len()), (1, 0));
        assert!(less[0].contains("release=\"a\"") && less[0].ends_with("was 5 and is 4"));
        assert_eq!(monotone.look(&page(4, 5)).less.len(), 1, "a bucket is a counter");
        assert_eq!(monotone.look(&Page::parse("# TYPE r counter\n")).gone.len(), 5);
        assert_eq!(page(7, 0).value("r", Some("a")), Some(7.0));
        assert_eq!(page(7, 0).value("r", Some("b")), None);
    }
}
