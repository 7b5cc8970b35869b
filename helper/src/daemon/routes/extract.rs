//! What requests hold. What cannot be read is refused as everything else is.

use axum::extract::rejection::{PathRejection, QueryRejection, StringRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Refusal;

/// What stands in the path.
pub(super) struct Path<T>(pub T);

/// What stands in the query.
pub(super) struct Query<T>(pub T);

/// The body.
pub(super) struct Body(pub String);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        let refused = |e: PathRejection| Refusal::new(e.status(), e.body_text());
        read.map(|path| Self(path.0)).map_err(refused)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        let refused = |e: QueryRejection| Refusal::new(e.status(), e.body_text());
        read.map(|query| Self(query.0)).map_err(refused)
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let refused = |e: StringRejection| Refusal::new(e.status(), e.body_text());
        String::from_request(request, state).await.map(Self).map_err(refused)
    }
}
