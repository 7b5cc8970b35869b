//! Whether the module answers, is of our version, lets us change something, and has the upstream.

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use shunt_api::{Address, Index};

use super::{Finding, count};
use crate::config::{App, Strategy};
use crate::nginx::{Client, NginxError};
use crate::request::{self, RequestError};

const CHECK: &str = "module";

/// Asks `shunt_api`.
pub async fn check(app: &App) -> Vec<Finding> {
    let index = match index(app).await {
        Ok(index) => index,
        Err(finding) => return vec![finding],
    };
    vec![version(app, &index), writable(app, &index), upstream(app).await]
}

async fn index(app: &App) -> Result<Index, Finding> {
    let address = &app.nginx;
    let strange = |saw: String| Finding::problem(CHECK, saw, load(address));
    let mut request = Request::builder().uri("/v1/").header(header::HOST, "shunt");
    if let Some(path) = &app.token_file {
        let token = std::fs::read_to_string(path).map_err(|e| {
            let saw = format!("cannot read the token file {}: {e}", path.display());
            Finding::problem(CHECK, saw, "run this as root, or as shuntd's user")
        })?;
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim_end()));
    }
    let request = request.body(Full::new(Bytes::new())).map_err(|e| strange(e.to_string()))?;
    let answer = request::send(address, request, app.nginx_timeout).await.map_err(|error| {
        let denied = matches!(&error, RequestError::Connect { error, .. }
            if error.kind() == std::io::ErrorKind::PermissionDenied);
        match denied {
            true => {
                Finding::problem(CHECK, error.to_string(), "run this as root, or as shuntd's user")
            }
            false => strange(error.to_string()),
        }
    })?;
    if answer.status() != StatusCode::OK {
        return Err(strange(format!("{address} answers {} to GET /v1/", answer.status())));
    }
    serde_json::from_slice(answer.body())
        .map_err(|e| strange(format!("{address} answers something else than shunt_api does: {e}")))
}

/// What has to stand in NGINX's configuration.
fn load(address: &Address) -> String {
    format!(
        "is the module loaded? At the top of nginx.conf: load_module \
         modules/ngx_http_shunt_module.so; in http: server {{ listen {address}; location / {{ \
         shunt_api write=on; }} }}; then nginx -t && systemctl restart nginx"
    )
}

fn version(app: &App, index: &Index) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let Index { module, nginx, workers, .. } = index;
    let address = &app.nginx;
    let saw = format!("{address}: module {module} in NGINX {nginx}, {}", count(*workers, "worker"));
    match module == ours {
        true => Finding::ok(CHECK, saw),
        false => Finding::warning(
            CHECK,
            format!("{saw}; shunt is {ours}"),
            "install both of one version, then systemctl restart nginx: a reload goes on with the old code",
        ),
    }
}

fn writable(app: &App, index: &Index) -> Finding {
    let address = &app.nginx;
    if index.writable {
        return Finding::ok(CHECK, format!("{address}: this user may switch"));
    }
    let cure = match address {
        Address::Unix(_) => {
            "write shunt_api write=on there; others than root also need user=NAME, or run this as root"
        }
        Address::Ip(_) => {
            "write shunt_api write=on token_file=PATH there, and the same token_file into the \
             application's file"
        }
    };
    Finding::problem(CHECK, format!("{address}: this user may only read"), cure)
}

async fn upstream(app: &App) -> Finding {
    let name = app.upstream();
    match Client::new(app).state().await {
        Ok(state) => {
            let active = state.active.map_or("none".to_owned(), |active| format!("\"{active}\""));
            let saw = format!("upstream {name:?} is switchable, active is {active}");
            match (state.holdable, app.strategy) {
                (true, _) => Finding::ok(CHECK, saw),
                // Nothing but `shunt hold` needs it.
                (false, Strategy::BlueGreen) => {
                    let saw =
                        format!("{saw}; no shunt_hold names it: \"shunt hold\" parks nothing");
                    Finding::ok(CHECK, saw)
                }
                (false, Strategy::InPlace) => {
                    let saw = format!(
                        "{saw}; no shunt_hold names it: while it is deployed in place, requests are \
                         not parked"
                    );
                    let cure = format!(
                        "write \"shunt_hold {name};\" where requests are passed to it, then: nginx -t \
                         && systemctl reload nginx"
                    );
                    Finding::warning(CHECK, saw, cure)
                }
            }
        }
        Err(NginxError::Refused(problem)) if problem.status == 404 => Finding::problem(
            CHECK,
            format!("NGINX has no switchable upstream {name:?}: {}", problem.detail),
            format!(
                "write \"shunt;\" into upstream {name} {{ … }}, or name another one in upstream ="
            ),
        ),
        Err(error) => Finding::problem(CHECK, error.to_string(), "look into NGINX's error log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use axum::Router;
    use axum::http::Uri;
    use axum::response::IntoResponse;
    use serde_json::json;

    /// An application whose NGINX answers like this to `/v1/`, and knows the upstream `web`, which can
    /// be held or not, or does not know it.
    async fn app(
        index: &'static str,
        status: StatusCode,
        web: Option<bool>,
    ) -> (App, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nginx.sock");
        let answer = move |uri: Uri| async move {
            match (uri.path(), web) {
                ("/v1/", _) => (status, index.to_owned()).into_response(),
                (_, Some(holdable)) => {
                    let state = json!({ "name": "web", "generation": 1, "active": null,
                        "previous": null, "canary": null, "hold": null, "holdable": holdable, "parked": 0,
                        "parked_total": 0, "fallback": false, "switches": 0, "releases": [] });
                    axum::Json(state).into_response()
                }
                (_, None) => {
                    let problem = shunt_api::Problem::new(404, "no upstream \"web\"".to_owned());
                    (StatusCode::NOT_FOUND, axum::Json(problem)).into_response()
                }
            }
        };
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let router = Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, router).await });
        (of(&format!("unix:{}", socket.display())), folder)
    }

    fn of(nginx: &str) -> App {
        App::parse(&format!(
            "name = \"web\"\nroot = \"/srv/web\"\nnginx = {nginx:?}\n[run]\ncommand = [\"x\"]\n\
             slots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n"
        ))
        .unwrap()
    }

    const GOOD: &str = concat!(
        r#"{"module":""#,
        env!("CARGO_PKG_VERSION"),
        r#"","nginx":"1.28.3","workers":2,"zones":[],"writable":true}"#
    );
    const OLD: &str =
        r#"{"module":"0.0.1","nginx":"1.28.3","workers":2,"zones":[],"writable":false}"#;

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|f| f.level).collect()
    }

    #[tokio::test]
    async fn a_module_that_is_as_it_should_be() {
        let (app, _folder) = app(GOOD, StatusCode::OK, Some(true)).await;
        let found = check(&app).await;
        assert_eq!(levels(&found), [Level::Ok; 3], "{found:?}");
    }

    #[tokio::test]
    async fn an_upstream_that_nothing_is_parked_for_matters_where_a_deploy_needs_it() {
        let (mut app, _folder) = app(GOOD, StatusCode::OK, Some(false)).await;
        let found = check(&app).await;
        assert_eq!(levels(&found), [Level::Ok; 3], "{found:?}");
        assert!(found[2].saw.contains("\"shunt hold\" parks nothing"), "{found:?}");
        app.strategy = Strategy::InPlace;
        let found = check(&app).await;
        assert_eq!(levels(&found), [Level::Ok, Level::Ok, Level::Warning], "{found:?}");
        assert!(found[2].cure.as_ref().unwrap().contains("\"shunt_hold web;\""), "{found:?}");
    }

    #[tokio::test]
    async fn an_old_one_that_only_reads_and_has_no_such_upstream() {
        let (app, _folder) = app(OLD, StatusCode::OK, None).await;
        let found = check(&app).await;
        assert_eq!(levels(&found), [Level::Warning, Level::Problem, Level::Problem], "{found:?}");
        assert!(found[0].cure.as_ref().unwrap().contains("restart nginx"), "{found:?}");
        assert!(found[1].cure.as_ref().unwrap().contains("write=on"), "{found:?}");
        assert!(
            found[2].cure.as_ref().unwrap().contains("\"shunt;\" into upstream web"),
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_said_what_to_write_for() {
        let folder = tempfile::tempdir().unwrap();
        let nobody = of(&format!("unix:{}", folder.path().join("x").display()));
        let (not_found, _folder) = app("<html>", StatusCode::NOT_FOUND, Some(true)).await;
        let (strange, _folder) = app("<html>", StatusCode::OK, Some(true)).await;
        for (app, saw) in [
            (nobody, "cannot connect"),
            (not_found, "answers 404 Not Found to GET /v1/"),
            (strange, "something else than shunt_api"),
        ] {
            let found = check(&app).await;
            assert_eq!(levels(&found), [Level::Problem], "{found:?}");
            assert!(found[0].saw.contains(saw), "{found:?}");
            let listen = format!("listen {}; location / {{ shunt_api write=on; }}", app.nginx);
            assert!(found[0].cure.as_ref().unwrap().contains(&listen), "{found:?}");
        }
    }
}
