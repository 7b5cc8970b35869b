//! The check by a connection.

use std::time::Duration;

use shunt_api::Address;

use crate::clock::Span;
use crate::endpoint;

/// Connects once; the error is what was wrong.
pub(super) async fn check(slot: &Address, limit: Duration) -> Result<(), String> {
    match tokio::time::timeout(limit, endpoint::connect(slot)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("cannot connect to {slot}: {error}")),
        Err(_) => Err(format!("no connection to {slot} within {}", Span(limit))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_listens_is_good() {
        let tmp = tempfile::tempdir().unwrap();
        let slot = Address::Unix(tmp.path().join("slot.sock"));
        let limit = Duration::from_secs(20);
        let error = check(&slot, limit).await.unwrap_err();
        assert!(error.contains("cannot connect to unix:/"), "{error}");
        let _listener = endpoint::listen(&slot).await.unwrap();
        check(&slot, limit).await.unwrap();
    }
}
