//! The check of gRPC's health protocol: `grpc.health.v1.Health/Check` over HTTP/2 without TLS.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, and
//! `doc/PROTOCOL-HTTP2.md` beside it. The two messages have one field each, which is no reason to
//! carry a whole implementation of gRPC.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use shunt_api::Address;

use crate::clock::Span;
use crate::endpoint;

/// Where the method is. The authority is that of the default `Host` of a check by HTTP.
const METHOD: &str = "http://localhost/grpc.health.v1.Health/Check";

/// A message begins with a flag and its length.
const PREFIX: usize = 5;

/// The largest answer, in bytes: its only field needs two.
const MAX_ANSWER: usize = 4096;

/// Asks once; the error is what was wrong.
pub(super) async fn check(slot: &Address, service: &str, limit: Duration) -> Result<(), String> {
    let exchange = async {
        let stream = endpoint::connect(slot)
            .await
            .map_err(|error| format!("cannot connect to {slot}: {error}"))?;
        let broken = |error: h2::Error| format!("no answer of gRPC from {slot}: {error}");
        let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
        // Moves what is asked and answered. When it ends, whoever waits for an answer is told.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            answer = ask(sender, service) => {
                answer.map_err(broken)?.and_then(|message| is_serving(service, &message))
            }
            never = drive => match never {},
        }
    };
    match tokio::time::timeout(limit, exchange).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer of gRPC from {slot} within {}", Span(limit))),
    }
}

/// Calls the method. What is inside is the answer's message, or what it says instead of one.
async fn ask(
    sender: h2::client::SendRequest<Bytes>,
    service: &str,
) -> Result<Result<Vec<u8>, String>, h2::Error> {
    let request = Request::post(METHOD)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "shunt-health");
    let Ok(request) = request.body(()) else { return Ok(Err(format!("{METHOD:?} is no URL"))) };
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(request, false)?;
    stream.send_data(frame(&request_of(service)), true)?;
    let (head, mut body) = response.await?.into_parts();
    if head.status != StatusCode::OK {
        return Ok(Err(format!("gRPC was answered with HTTP status {}", head.status)));
    }
    let mut data = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        if data.len() + part.len() > MAX_ANSWER {
            return Ok(Err(format!(
                "the health service answers with more than {MAX_ANSWER} bytes"
            )));
        }
        data.extend_from_slice(&part);
    }
    // An answer without a message has its status at once.
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    Ok(status(service, &trailers).and_then(|()| {
        message_in(&data).ok_or_else(|| "the health service's answer is no message".to_owned())
    }))
}

/// What gRPC's own status says.
fn status(service: &str, trailers: &HeaderMap) -> Result<(), String> {
    let text = |name| trailers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()));
    match text("grpc-status").as_deref() {
        Some("0") => Ok(()),
        // NOT_FOUND and UNIMPLEMENTED.
        Some("5") => Err(format!("the health service does not know the service {service:?}")),
        Some("12") => Err("there is no service grpc.health.v1.Health".to_owned()),
        Some(code) => {
            let why = text("grpc-message").map(|why| format!(": {why}")).unwrap_or_default();
            Err(format!("the health service answered with gRPC status {code}{why}"))
        }
        None => Err("what answered is not gRPC: there is no \"grpc-status\"".to_owned()),
    }
}

/// Whether the answer says `SERVING`.
fn is_serving(service: &str, message: &[u8]) -> Result<(), String> {
    let name = match status_in(message) {
        Some(1) => return Ok(()),
        Some(0) => "UNKNOWN",
        Some(2) => "NOT_SERVING",
        Some(3) => "SERVICE_UNKNOWN",
        Some(_) | None => return Err("the health service's answer is no status".to_owned()),
    };
    let whose = if service.is_empty() { "the server".to_owned() } else { format!("{service:?}") };
    Err(format!("{whose} is {name}"))
}

/// A message on the wire, not compressed.
fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(PREFIX + message.len());
    frame.push(0);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// The only message in what was answered.
fn message_in(data: &[u8]) -> Option<Vec<u8>> {
    let [0, a, b, c, d, message @ ..] = data else { return None };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    (message.len() == length).then(|| message.to_vec())
}

/// `HealthCheckRequest { string service = 1; }`
fn request_of(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    // The default value of a field is left out.
    if !service.is_empty() {
        message.push(1 << 3 | LENGTH);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    message
}

/// The ways in which protobuf writes a field.
const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH: u8 = 2;
const FOUR_BYTES: u8 = 5;

/// The status in `HealthCheckResponse { ServingStatus status = 1; }`, other fields left out; `None`
/// when it is none.
fn status_in(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let skipped = match ((key >> 3), (key & 7) as u8) {
            (1, VARINT) => {
                status = varint(&mut message)?;
                0
            }
            (0 | 1, _) => return None,
            (_, VARINT) => {
                varint(&mut message)?;
                0
            }
            (_, EIGHT_BYTES) => 8,
            (_, LENGTH) => usize::try_from(varint(&mut message)?).ok()?,
            (_, FOUR_BYTES) => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(status)
}

/// Takes a number off the front.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (first, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    /// How a server answers.
    #[derive(Debug, Clone)]
    enum Answer {
        Message(&'static [u8]),
        Status(&'static str, &'static str),
        Http(u16),
        Hang,
    }

    /// A server that answers `shop` as told, and knows nothing else.
    async fn serve(answer: Answer) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, answer.clone()));
            }
        });
        Address::Ip(address)
    }

    async fn connection(stream: tokio::net::TcpStream, answer: Answer) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                assert_eq!(request.headers()["te"], "trailers");
                let mut data = Vec::new();
                let mut body = request.into_body();
                while let Some(part) = body.data().await {
                    data.extend_from_slice(&part.unwrap());
                }
                let known = data == b"\0\0\0\0\x06\x0a\x04shop";
                let head = http::Response::builder().header("content-type", "application/grpc");
                match if known { answer } else { Answer::Status("5", "") } {
                    Answer::Message(message) => {
                        let head = head.body(()).unwrap();
                        let mut stream = respond.send_response(head, false).unwrap();
                        stream.send_data(frame(message), false).unwrap();
                        let trailers = HeaderMap::from_iter([(
                            "grpc-status".parse().unwrap(),
                            "0".parse().unwrap(),
                        )]);
                        stream.send_trailers(trailers).unwrap();
                    }
                    Answer::Status(status, why) => {
                        let head = head.header("grpc-status", status).header("grpc-message", why);
                        respond.send_response(head.body(()).unwrap(), true).unwrap();
                    }
                    Answer::Http(status) => {
                        respond.send_response(head.status(status).body(()).unwrap(), true).unwrap();
                    }
                    Answer::Hang => std::future::pending().await,
                }
            });
        }
    }

    async fn ask_of(answer: Answer, service: &str) -> Result<(), String> {
        check(&serve(answer).await, service, Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn only_serving_is_good() {
        ask_of(Answer::Message(&[8, 1]), "shop").await.unwrap();
        for (answer, said) in [
            (Answer::Message(&[]), "\"shop\" is UNKNOWN"),
            (Answer::Message(&[8, 2]), "\"shop\" is NOT_SERVING"),
            (Answer::Message(&[8, 3]), "\"shop\" is SERVICE_UNKNOWN"),
            (Answer::Message(&[8]), "is no status"),
            (Answer::Message(&[0; MAX_ANSWER]), "more than 4096 bytes"),
            (Answer::Status("5", ""), "does not know the service \"shop\""),
            (Answer::Status("12", ""), "there is no service grpc.health.v1.Health"),
            (Answer::Status("13", "oh"), "gRPC status 13: oh"),
            (Answer::Http(503), "HTTP status 503"),
            (Answer::Http(200), "is not gRPC"),
        ] {
            let error = ask_of(answer.clone(), "shop").await.unwrap_err();
            assert!(error.contains(said), "{answer:?}: {error}");
        }
    }

    #[tokio::test]
    async fn an_unknown_service_is_named() {
        let error = ask_of(Answer::Message(&[8, 1]), "shopp").await.unwrap_err();
        assert!(error.contains("does not know the service \"shopp\""), "{error}");
    }

    #[tokio::test]
    async fn what_does_not_answer_is_waited_for_as_long_as_a_check_may_take() {
        let slot = serve(Answer::Hang).await;
        let error = check(&slot, "shop", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.contains("within 50ms"), "{error}");
    }

    #[tokio::test]
    async fn what_speaks_http_1_only_is_named() {
        let slot = crate::health::tests::serve(axum::Router::new()).await;
        let error = check(&slot, "", Duration::from_secs(20)).await.unwrap_err();
        assert!(error.contains("no answer of gRPC from 127.0.0.1"), "{error}");
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(mut data in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(message_in(&frame(&data)), Some(data.clone()));
            // The last of a field counts; what is no message stays none.
            let known = status_in(&data).is_some();
            data.extend([8, 1]);
            if known {
                prop_assert_eq!(status_in(&data), Some(1));
            }
        }

        #[test]
        fn unknown_fields_do_not_hide_the_status(
            number in 2u8..15, text in prop::collection::vec(any::<u8>(), 0..100), status in 0u8..4
        ) {
            let mut message = vec![number << 3 | LENGTH, text.len() as u8];
            message.extend(&text);
            message.extend([8, status]);
            message.extend([number << 3 | VARINT, 0xff, 1]);
            message.extend([number << 3 | EIGHT_BYTES, 0, 0, 0, 0, 0, 0, 0, 8]);
            message.extend([number << 3 | FOUR_BYTES, 0, 0, 0, 8]);
            prop_assert_eq!(status_in(&message), Some(u64::from(status)));
        }

        #[test]
        fn a_services_name_is_written_with_its_length(service in "[a-z.]{0,300}") {
            let message = request_of(&service);
            let mut rest = &message[..];
            if service.is_empty() {
                prop_assert!(rest.is_empty());
            } else {
                prop_assert_eq!(varint(&mut rest), Some(10));
                prop_assert_eq!(varint(&mut rest), Some(service.len() as u64));
                prop_assert_eq!(rest, service.as_bytes());
            }
        }
    }
}
