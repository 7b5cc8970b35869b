//! A WebSocket that stays open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;

use super::tally::{Answer, Sample, Way};
use super::{Options, over};
use crate::clock::Span;

/// How often it sends something.
const ECHO: Duration = Duration::from_millis(50);

/// Keeps one WebSocket open at a time and checks that everything comes back.
pub(super) async fn keep(
    options: Arc<Options>,
    path: String,
    send: mpsc::UnboundedSender<Sample>,
    mut ended: watch::Receiver<bool>,
) {
    while !*ended.borrow() {
        let start = Instant::now();
        if let Err(why) = websocket(&options, &path, &send, &mut ended).await {
            // Nobody listens any more only when the whole watch is over.
            let _ = send.send(Sample::new(Way::Websocket, start, Err(why)));
            tokio::select! {
                () = over(&mut ended) => {}
                () = tokio::time::sleep(ECHO) => {}
            }
        }
    }
}

/// One WebSocket from its opening to its end in order; whatever else ends it is an error.
async fn websocket(
    options: &Options,
    path: &str,
    send: &mpsc::UnboundedSender<Sample>,
    ended: &mut watch::Receiver<bool>,
) -> Result<(), String> {
    let late = |what: &str| format!("{what} within {}", Span(options.timeout));
    let url = format!("ws://{}{path}", options.target.host);
    let connect = async {
        let stream = TcpStream::connect(options.target.address).await.map_err(|e| e.to_string())?;
        tokio_tungstenite::client_async(url, stream).await.map_err(|e| e.to_string())
    };
    let connected = tokio::time::timeout(options.timeout, connect).await;
    let (mut socket, _) = connected.map_err(|_| late("not open"))??;
    let opened = Instant::now();
    let mut ticks = tokio::time::interval(ECHO);
    let mut n = 0u64;
    while opened.elapsed() < options.websocket_time {
        tokio::select! {
            () = over(ended) => break,
            _ = ticks.tick() => {}
        }
        n += 1;
        let (start, text) = (Instant::now(), format!("shunt {n}"));
        let echo = async {
            socket.send(Message::text(text.clone())).await.map_err(|e| e.to_string())?;
            loop {
                match socket.next().await {
                    // A server may say something of its own.
                    Some(Ok(Message::Text(back))) if *back == *text => return Ok(()),
                    Some(Ok(Message::Close(frame))) => return Err(format!("closed: {frame:?}")),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err("closed".to_owned()),
                }
            }
        };
        tokio::time::timeout(options.timeout, echo).await.map_err(|_| late("no echo"))??;
        let _ = send.send(Sample::new(Way::Websocket, start, Ok(Answer::default())));
    }
    // The other side answers the close, or has gone: both end it.
    let _ = socket.close(None).await;
    let _ = tokio::time::timeout(options.timeout, async { while socket.next().await.is_some() {} })
        .await;
    Ok(())
}
