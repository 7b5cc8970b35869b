//! A daemon that kills itself at a moment of its journal: this very program, which runs nothing but
//! [`the_mortal`].

use std::process::{Command, Stdio};

use rustix::process::{Signal, getpid, kill_process};
use shunt_helper::daemon::service::{self, Options};

use super::World;
use super::app::this_program;

/// How it is started: it dies at the `n`th moment, counted from 1.
pub fn command(world: &World, n: usize) -> Command {
    let program = this_program(module_path!(), "the_mortal");
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).env("FOLDER", world.path("")).env("MOMENT", n.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[test]
#[ignore = "the daemon that other tests let die"]
fn the_mortal() {
    let (Ok(folder), Ok(moment)) = (std::env::var("FOLDER"), std::env::var("MOMENT")) else {
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    let options = Options {
        config: folder.join("apps"),
        state: folder.join("state"),
        socket: folder.join("shuntd.sock"),
        group: None,
    };
    let mut left: usize = moment.parse().unwrap();
    let observer = move |_| {
        left -= 1;
        if left == 0 {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    };
    service::run(&options, Box::new(observer)).unwrap();
}
