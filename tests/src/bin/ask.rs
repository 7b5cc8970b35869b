//! Sends one request over a unix socket and prints the status: for a test that asks as another user.

use std::path::Path;
use std::process::ExitCode;

use shunt_tests::admin::Admin;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, method, target, body] = args.as_slice() else {
        eprintln!("usage: shunt-ask SOCKET METHOD TARGET BODY");
        return ExitCode::FAILURE;
    };
    match Admin::new(Path::new(socket)).try_ask(method, target, &[], body.as_bytes()) {
        Ok(response) => {
            println!("{}", response.status);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
