//! What Shunt costs, measured in one run beside what NGINX costs without it, and beside other ways to
//! do the same.

#![forbid(unsafe_code)]

mod application;
mod bench;
mod callgrind;
mod contender;
mod faults;
mod flip;
mod flips;
mod helper;
mod http;
mod instructions;
mod load;
mod machine;
mod plot;
mod results;
mod scale;
mod stats;
mod steady;
mod summary;
mod targets;
mod websockets;
mod wrk;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use shunt_tests::build::Build;

use crate::bench::Bench;
use crate::contender::Kind;
use crate::results::Folder;

/// Measures what Shunt costs, and what other ways to do the same cost.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// Where results go.
    #[arg(long, global = true, default_value = "bench/results")]
    results: PathBuf,
    /// Only these are compared.
    #[arg(long, global = true, value_delimiter = ',')]
    only: Vec<Kind>,
    #[command(subcommand)]
    table: Table,
}

#[derive(Debug, Subcommand)]
enum Table {
    /// Instructions per proxied request, with the module and without it (P10).
    Instructions(instructions::Args),
    /// Requests a second, processor time and latency while nothing is changed.
    Steady,
    /// A flip: when it returns, and when it has come true.
    Flip,
    /// Many flips under load.
    Flips,
    /// Flips while WebSockets are open.
    Websockets,
    /// Releases that are dead or die, processes that are killed.
    Faults,
    /// Curves: what a switch, a request, a drain and a reload cost beside the number of upstreams,
    /// releases and connections.
    Scale,
    /// The helper: a deploy beside what it waits for, at rest, and to watch.
    Helper,
    /// Puts a table of the results into the README, and what Shunt is held to into that of the results.
    Readme {
        /// The README.
        #[arg(default_value = "README.md")]
        readme: PathBuf,
    },
}

/// Above this, something else runs on the machine.
const BUSY: f64 = 0.1;

/// Where results go, with what is said of the machine in each.
fn folder(args: &Args) -> Folder {
    let busy = machine::busy();
    if busy > BUSY {
        println!(
            "this machine is {:.0} % busy with something else: figures say little",
            busy * 1e2
        );
    }
    let machine = format!(
        "{}, {:.0} % busy before; {}",
        machine::describe(),
        busy * 1e2,
        contender::versions()
    );
    println!("{machine}");
    Folder::new(&args.results, machine)
}

/// Prepares the machine.
fn prepare(args: &Args) -> Bench {
    let folder = folder(args);
    let cores = machine::Cores::divide();
    if !cores.apart {
        println!("this process has one core: proxy, load and application share it");
    }
    let kinds = if args.only.is_empty() { &Kind::ALL[..] } else { &args.only };
    let kinds = Kind::installed(kinds);
    Bench { build: Build::debian(), cores, files: machine::allow_files(), folder, kinds }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    match &args.table {
        Table::Instructions(of) => return instructions::run(of, || folder(&args)),
        Table::Readme { readme } => {
            if let Err(error) = summary::write(&args.results, readme) {
                eprintln!("shunt-bench: {error}");
                return ExitCode::FAILURE;
            }
            return ExitCode::SUCCESS;
        }
        Table::Steady => steady::run(&prepare(&args)),
        Table::Flip => flip::run(&prepare(&args)),
        Table::Flips => flips::run(&prepare(&args)),
        Table::Websockets => websockets::run(&prepare(&args)),
        Table::Faults => faults::run(&prepare(&args)),
        Table::Scale => scale::run(&prepare(&args)),
        Table::Helper => helper::run(&prepare(&args)),
    }
    println!("it took {:.0} s", began.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
