//! P7: of two changes based on the same generation, one wins and the other is told.

use std::sync::{Arc, Barrier};

use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};

fn p7_of_many_switches_at_once_one_wins(build: &Build) {
    let releases: Vec<Backend> = (0..8).map(|i| Backend::start(&format!("r{i}"), 1)).collect();
    let lines: String = releases.iter().map(Backend::lines).collect();
    let nginx =
        Nginx::start(build, Setup::standard(&format!("upstream web {{ shunt;\n{lines} }}")));
    for _ in 0..50 {
        let before = nginx.admin().state("web");
        let others: Vec<String> = before
            .releases
            .iter()
            .map(|r| r.name.to_string())
            .filter(|name| before.active.as_ref().is_none_or(|active| active.as_str() != name))
            .collect();
        let barrier = Arc::new(Barrier::new(others.len()));
        let threads: Vec<_> = others
            .into_iter()
            .map(|release| {
                let (admin, barrier) = (nginx.admin(), barrier.clone());
                let generation = before.generation;
                std::thread::spawn(move || {
                    barrier.wait();
                    (admin.switch("web", &release, Some(generation)), release)
                })
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let winners: Vec<_> = results.iter().filter(|(result, _)| result.is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        let now = nginx.admin().state("web");
        assert_eq!(now.generation, before.generation + 1);
        assert_eq!(now.active.as_ref().unwrap().as_str(), winners[0].1);
        assert_eq!(now.previous, before.active);
        for (result, _) in results {
            if let Err(problem) = result {
                assert_eq!(problem.status, 412, "{problem}");
                // The one who lost sees what won.
                assert_eq!(problem.upstream.unwrap().active, now.active);
            }
        }
    }
}

each_nginx!(p7_of_many_switches_at_once_one_wins);
