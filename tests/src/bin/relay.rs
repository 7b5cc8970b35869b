//! A slow network: passes connections on, and each byte so much later.

use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// So many pieces are under way in one direction.
const PIECES: usize = 64;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, to, delay] = args.as_slice() else {
        eprintln!("usage: shunt-relay LISTEN TO MILLISECONDS");
        return ExitCode::FAILURE;
    };
    let Ok(delay) = delay.parse().map(Duration::from_millis) else {
        eprintln!("{delay}: not a number of milliseconds");
        return ExitCode::FAILURE;
    };
    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("{listen}: {error}");
            return ExitCode::FAILURE;
        }
    };
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let to = to.clone();
        tokio::spawn(async move {
            // Whoever cannot be reached closes the connection.
            let Ok(server) = TcpStream::connect(to).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (client, server) = (client.into_split(), server.into_split());
            tokio::spawn(pass(client.0, server.1, delay));
            tokio::spawn(pass(server.0, client.1, delay));
        });
    }
}

/// Passes on what comes, in its order and at its distance, to the end.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    tokio::spawn(async move {
        while let Some((when, piece)) = receive.recv().await {
            tokio::time::sleep_until(when).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    let mut piece = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        if send.send((Instant::now() + delay, piece[..n].to_vec())).await.is_err() {
            return;
        }
    }
}
