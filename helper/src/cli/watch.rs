//! `shunt watch`

use std::time::Duration;

use shunt_api::NginxTime;

use super::Failure;
use crate::watch::{self, Noticed, Options, Target};
use crate::wire::exit;

/// What it takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The URL to ask for: http:// and an IP address or localhost.
    pub url: String,
    /// A path to POST to; what is answered must not be an error.
    #[arg(long, value_parser = path)]
    pub post: Option<String>,
    /// A path with a WebSocket that gets back what it sends.
    #[arg(long, value_parser = path)]
    pub websocket: Option<String>,
    /// How long a WebSocket is kept open; then it is closed, and another one opened.
    #[arg(long, default_value = "5s")]
    pub websocket_time: NginxTime,
    /// Requests a second, over new and over kept-open connections.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
    /// How long; until Ctrl-C if left out.
    #[arg(long)]
    pub duration: Option<NginxTime>,
    /// How many requests; without an end if left out.
    #[arg(long)]
    pub count: Option<u64>,
    /// How long one answer may take.
    #[arg(long, default_value = "10s")]
    pub timeout: NginxTime,
    /// The header that names the release.
    #[arg(long, default_value = "X-Release", value_parser = header)]
    pub header: String,
}

fn path(text: &str) -> Result<String, String> {
    let path = text.parse::<http::uri::PathAndQuery>().ok().filter(|_| text.starts_with('/'));
    path.map(|path| path.to_string()).ok_or_else(|| "a path begins with \"/\"".to_owned())
}

fn header(text: &str) -> Result<String, String> {
    let name = text.parse::<http::HeaderName>();
    name.map(|_| text.to_owned()).map_err(|_| "is not a header's name".to_owned())
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(args: Args, json: bool) -> Result<u8, Failure> {
    let usage = |e: String| Failure::new(exit::USAGE, e);
    let target = Target::parse(&args.url).await.map_err(usage)?;
    let options = Options {
        target,
        post: args.post,
        websocket: args.websocket,
        websocket_time: args.websocket_time.duration(),
        rate: args.rate,
        count: args.count,
        timeout: args.timeout.duration(),
        header: args.header,
    };
    let limit = args.duration.map_or(Duration::MAX, NginxTime::duration);
    let unread = tokio::sync::Notify::new();
    let stop = async {
        tokio::select! {
            () = tokio::time::sleep(limit) => {}
            () = unread.notified() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let mut printed = Ok(());
    let show = |noticed: &Noticed| {
        let line = if json { super::json(noticed) } else { format!("{noticed}\n") };
        if printed.is_ok() {
            printed = super::print(line);
            if printed.is_err() {
                unread.notify_one();
            }
        }
    };
    let verdict = watch::run(options, stop, show).await;
    printed?;
    super::print(if json { super::json(&verdict) } else { verdict.to_string() })?;
    Ok(if verdict.is_good() { exit::DONE } else { exit::FAILED })
}
