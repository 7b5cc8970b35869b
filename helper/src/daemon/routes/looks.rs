//! What people and Prometheus look at: the page and the metrics.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::{Answer, Refusal};
use crate::daemon::metrics::{self, AppFigures};
use crate::daemon::shared::Shared;

const PAGE: &str = include_str!("page.html");

/// Nothing but the page's own script and style, and questions to where it came from.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |element: &str| {
        let (_, rest) = PAGE.split_once(&format!("<{element}>")).unwrap_or_default();
        let (text, _) = rest.split_once(&format!("</{element}>")).unwrap_or_default();
        BASE64_STANDARD.encode(Sha256::digest(text))
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
});

/// A page that shows what runs.
pub(super) async fn page() -> impl IntoResponse {
    let headers = [(CONTENT_SECURITY_POLICY, POLICY.as_str()), (CACHE_CONTROL, "no-cache")];
    (headers, Html(PAGE))
}

/// For Prometheus. NGINX is not asked: it has metrics of its own.
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Answer<impl IntoResponse> {
    let (jobs, mut apps) = (&shared.jobs, Vec::new());
    for app in shared.all().await {
        let name = &app.config.name;
        apps.push(AppFigures {
            app: name.clone(),
            slots: app.slot_statuses().await,
            job: jobs.running(name),
            latest: jobs.journal().latest(name).await.map_err(|e| Refusal::failed(&e))?,
            ended: jobs.ended(name),
        });
    }
    let page = metrics::page(&apps).map_err(|e| Refusal::failed(&e))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page))
}
