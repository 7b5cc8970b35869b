//! Whether the application keeps connections open for longer than NGINX does.
//!
//! If it does not, it closes one now and then that NGINX is just sending a request on, and that
//! request fails if it must not be sent twice.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shunt_api::Address;

use super::Finding;
use super::conf::Kept;
use crate::clock::Span;
use crate::endpoint;

const CHECK: &str = "keepalive";

/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What the application did with a connection that nobody used.
#[derive(Debug, PartialEq, Eq)]
enum Idle {
    /// It said with the answer that it closes it.
    NotKept,
    /// It closed it after so long.
    Closed(Duration),
    /// It was still open at the end.
    Open,
}

/// Makes one request and watches its connection, for `limit` at most.
pub async fn check(slot: &Address, host: HeaderValue, kept: &Kept, limit: Duration) -> Finding {
    let nginx = match kept {
        Kept::Nothing => {
            return Finding::ok(CHECK, "NGINX keeps no connection to the upstream open");
        }
        Kept::Unknown(why) => {
            let cure = "run this as root, or say how NGINX is called (--nginx)";
            return Finding::warning(
                CHECK,
                format!("what NGINX keeps open is not known: {why}"),
                cure,
            );
        }
        Kept::For(nginx) => *nginx,
    };
    let limit = limit.min(nginx + Duration::from_millis(500));
    let (app, what) = match idle(slot, host, limit).await {
        Err(why) => {
            let cure = "is it an application of HTTP/1.1, and well?";
            return Finding::warning(CHECK, format!("{slot}: {why}"), cure);
        }
        Ok(Idle::NotKept) => {
            return Finding::ok(CHECK, format!("{slot} keeps no connection open"));
        }
        Ok(Idle::Closed(after)) => {
            (after, format!("closes an idle connection after {}", Span(after)))
        }
        Ok(Idle::Open) => {
            (limit, format!("keeps an idle connection open for {} and more", Span(limit)))
        }
    };
    let saw = format!("{slot} {what}, NGINX uses it for {}", Span(nginx));
    if app > nginx || (app == limit && limit > nginx) {
        return Finding::ok(CHECK, saw);
    }
    let seconds = nginx.as_secs();
    match app < limit {
        true => Finding::problem(
            CHECK,
            format!("{saw}: a POST on it fails now and then"),
            format!(
                "let the application keep connections for longer than {seconds} s, or write a shorter \
                 keepalive_timeout into the upstream"
            ),
        ),
        false => {
            Finding::ok(CHECK, format!("{saw}; --keepalive {}s would see all of it", seconds + 1))
        }
    }
}

async fn idle(slot: &Address, host: HeaderValue, limit: Duration) -> Result<Idle, String> {
    let ask = async {
        let stream = endpoint::connect(slot).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .uri("/")
            .header(header::HOST, host)
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let closes = answer.version() < Version::HTTP_11
            || answer.headers().get(header::CONNECTION).is_some_and(|v| v == "close");
        answer.into_body().collect().await.map_err(|e| e.to_string())?;
        Ok::<_, String>((sender, connection, closes))
    };
    let asked = tokio::time::timeout(ANSWER, ask).await;
    let (sender, mut connection, closes) =
        asked.map_err(|_| format!("no answer within {}", Span(ANSWER)))??;
    if closes {
        return Ok(Idle::NotKept);
    }
    let start = Instant::now();
    let closed = tokio::time::timeout(limit, &mut connection).await;
    // Without it the connection would end by itself.
    drop(sender);
    connection.abort();
    Ok(if closed.is_ok() { Idle::Closed(start.elapsed()) } else { Idle::Open })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// An application that answers like this, and closes an idle connection after so long.
    async fn app(answer: &'static str, closes: Duration) -> Address {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while tokio::time::timeout(closes, stream.read(&mut request))
                        .await
                        .is_ok_and(|read| read.is_ok_and(|n| n > 0))
                    {
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Address::Ip(address)
    }

    const KEPT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const CLOSED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

    async fn found(address: &Address, nginx: Duration, limit: Duration) -> Finding {
        check(address, HeaderValue::from_static("localhost"), &Kept::For(nginx), limit).await
    }

    #[tokio::test]
    async fn an_application_that_closes_before_nginx_does() {
        let short = app(KEPT, Duration::from_millis(100)).await;
        let (nginx, limit) = (Duration::from_secs(60), Duration::from_secs(20));
        let finding = found(&short, nginx, limit).await;
        assert_eq!(finding.level, Level::Problem, "{finding:?}");
        assert!(finding.saw.contains("a POST on it fails"), "{finding:?}");
        assert!(finding.cure.unwrap().contains("longer than 60 s"));
    }

    #[tokio::test]
    async fn one_that_keeps_them_for_longer_or_not_at_all() {
        let long = app(KEPT, Duration::from_secs(600)).await;
        let finding = found(&long, Duration::from_millis(50), Duration::from_secs(20)).await;
        assert_eq!(finding.level, Level::Ok, "{finding:?}");
        let finding = found(&long, Duration::from_secs(60), Duration::from_millis(50)).await;
        assert!(
            finding.level == Level::Ok && finding.saw.contains("--keepalive 61s"),
            "{finding:?}"
        );
        let never = app(CLOSED, Duration::from_secs(600)).await;
        let finding = found(&never, Duration::from_secs(60), Duration::from_secs(20)).await;
        assert!(finding.saw.ends_with("keeps no connection open"), "{finding:?}");
    }

    #[tokio::test]
    async fn what_is_not_known_is_said() {
        let nobody = Address::Ip(([127, 0, 0, 1], 1).into());
        let finding = found(&nobody, Duration::from_secs(60), Duration::from_secs(1)).await;
        assert_eq!(finding.level, Level::Warning, "{finding:?}");
        let unknown = Kept::Unknown("no rights".to_owned());
        let host = HeaderValue::from_static("localhost");
        let finding = check(&nobody, host, &unknown, Duration::from_secs(1)).await;
        assert!(
            finding.level == Level::Warning && finding.saw.ends_with("no rights"),
            "{finding:?}"
        );
    }
}
