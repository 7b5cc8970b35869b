//! What the runner `docker` needs: Docker's Engine, the image, the network, and slots that lead to
//! containers.

use super::Finding;
use crate::config::{App, Docker, Pull, Runner};
use crate::runner::docker::DockerError;
use crate::runner::docker::engine::{Engine, EngineError};
use crate::runner::docker::place::Place;
use crate::runner::docker::{self};

const CHECK: &str = "docker";

/// Looks at all of it, if the application runs in containers.
pub async fn check(app: &App) -> Vec<Finding> {
    let Runner::Docker(docker) = &app.run.runner else { return Vec::new() };
    let engine = match Engine::connect(&docker.socket).await {
        Ok(engine) => engine,
        Err(error) => return vec![unreachable(docker, &error)],
    };
    let mut found = vec![
        Finding::ok(CHECK, format!("the Engine answers at {}", docker.socket.display())),
        image(&engine, docker).await,
    ];
    found.extend(slots(&engine, app, docker).await);
    found
}

fn unreachable(docker: &Docker, error: &EngineError) -> Finding {
    let cure = match docker.socket.exists() {
        true => "run this as root or as a user of group docker, as shuntd has to be, too",
        false => "systemctl start docker; in a container, mount the socket into it",
    };
    Finding::problem(CHECK, error.to_string(), cure)
}

async fn image(engine: &Engine, docker: &Docker) -> Finding {
    let name = docker.image.to_string();
    if !docker.image.is_chosen() {
        return Finding::ok(CHECK, format!("each deploy names the tag of image {name}"));
    }
    match (engine.image(&name).await, docker.pull) {
        (Ok(_), _) => Finding::ok(CHECK, format!("image {name} is there")),
        (Err(error), Pull::Never) if error.is_not_found() => Finding::problem(
            CHECK,
            format!("there is no image {name}, and it is not fetched (pull = \"never\")"),
            "build or load it on this machine, or write pull = \"missing\"",
        ),
        (Err(error), _) if error.is_not_found() => Finding::ok(
            CHECK,
            format!("image {name} is not there yet, the first deploy fetches it"),
        ),
        (Err(error), _) => Finding::problem(CHECK, error.to_string(), "docker info says more"),
    }
}

/// How each slot leads to its container.
async fn slots(engine: &Engine, app: &App, docker: &Docker) -> Vec<Finding> {
    let mut found = Vec::new();
    for slot in &app.run.slots {
        match docker::place(engine, docker, slot).await {
            Ok((at, place)) => {
                let port = place.port(at);
                found.push(Finding::ok(CHECK, match (place, &docker.network) {
                    (Place::Published { .. }, _) => {
                        format!("slot {slot} is published: it leads to port {port} of its container")
                    }
                    (Place::InNetwork, Some(network)) => {
                        format!("slot {slot} is its container's own address in network {network:?}")
                    }
                    (Place::InNetwork | Place::Host, _) => {
                        format!("slot {slot} is on this machine, in no network of its container's own")
                    }
                }));
            }
            Err(error @ DockerError::NoNetwork(_)) => {
                let (saw, cure) = split(&error.to_string());
                return vec![Finding::problem(CHECK, saw, cure)];
            }
            Err(error) => {
                let (saw, cure) = split(&error.to_string());
                found.push(Finding::problem(CHECK, saw, cure));
            }
        }
    }
    found
}

/// What is wrong, and what an error says of the cure.
fn split(text: &str) -> (String, String) {
    let (saw, cure) = text.split_once(": ").unwrap_or((text, "docker info says more"));
    (saw.to_owned(), cure.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[tokio::test]
    async fn an_engine_that_cannot_be_asked_is_a_problem() {
        let tmp = tempfile::tempdir().unwrap();
        let socket = tmp.path().join("docker.sock");
        let app = |run: &str| {
            let text = format!(
                "name = \"web\"\nroot = \"/srv/web\"\nnginx = \"unix:/n\"\n[run]\n{run}\n\
                 slots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]"
            );
            App::parse(&text).unwrap()
        };
        let app_in_docker = app(&format!("image = \"web\"\ndocker = {socket:?}"));
        let found = check(&app_in_docker).await;
        assert_eq!((found.len(), found[0].level), (1, Level::Problem), "{found:?}");
        assert!(found[0].cure.as_ref().unwrap().contains("systemctl start docker"), "{found:?}");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let found = check(&app_in_docker).await;
        assert!(found[0].cure.as_ref().unwrap().contains("group docker"), "{found:?}");
        assert!(check(&app("command = [\"x\"]")).await.is_empty());
    }

    #[test]
    fn an_error_has_what_is_wrong_before_what_to_do() {
        let error = DockerError::NoNetwork("web".to_owned()).to_string();
        let (saw, cure) = split(&error);
        assert_eq!(saw, "there is no network \"web\"");
        assert!(cure.starts_with("docker network create"), "{cure}");
    }
}
