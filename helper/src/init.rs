//! A configuration to begin with: the application's file, what NGINX needs for it, and its units.

mod app;
mod nginx;
mod units;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shunt_api::{Address, ReleaseName};

use crate::config::{App, Mistake, Mistakes};
use crate::origin::image::Image;

/// What starts the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runner {
    /// shuntd itself.
    Process,
    /// systemd, by units that are written, too.
    Systemd,
    /// Docker's Engine, in containers of an image.
    Docker,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The application.
    pub name: ReleaseName,
    /// Its folder.
    pub root: PathBuf,
    /// Program and arguments, if they were named.
    pub command: Vec<String>,
    /// The image; of the application's name if there is none.
    pub image: Option<Image>,
    /// Where it listens in a container, if that is not where it is told to.
    pub port: Option<u16>,
    /// Its slots.
    pub slots: Vec<Address>,
    /// Its user.
    pub user: Option<String>,
    /// What starts it.
    pub runner: Runner,
}

/// What cannot be written like this.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A unit's instance is all that its slot may differ in.
    #[error(
        "slots {0} and {1} differ in more than the port or the file's name, which is all that the \
         instances of a unit differ in; name others (--slots), or use --runner process"
    )]
    Slots(Address, Address),
    /// A path that cannot stand in a configuration as it is.
    #[error(
        "{0:?} has a character that cannot stand in NGINX's or systemd's configuration; name another one"
    )]
    Text(String),
    /// What is asked for does not do.
    #[error("what this would write is refused: {}", said(.0))]
    Config(Mistakes),
    /// A file is there.
    #[error("{} is there already; --force overwrites it", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// All that is wrong, without the places in a file that is not there.
fn said(mistakes: &Mistakes) -> String {
    let said = |mistake: &Mistake| match mistake.key.as_str() {
        "" => mistake.what.clone(),
        key => format!("{key}: {}", mistake.what),
    };
    mistakes.0.iter().map(said).collect::<Vec<_>>().join("; ")
}

/// Where files go on a machine.
const APPS: &str = crate::config::DEFAULT_FOLDER;
const NGINX: &str = "/etc/nginx/conf.d";
const UNITS: &str = "/etc/systemd/system";

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl Plan {
    /// The files, each in its place of the machine, or all of them in one folder.
    ///
    /// # Errors
    ///
    /// [`InitError`] for what cannot be written down.
    pub fn files(&self, output: Option<&Path>) -> Result<Vec<File>, InitError> {
        self.check()?;
        let name = &self.name;
        let place = |folder: &str, file: String| output.unwrap_or(Path::new(folder)).join(file);
        // Whether there is such a user yet is none of its business.
        let text = Self { user: None, ..self.clone() }.app();
        App::parse(&text).map_err(InitError::Config)?;
        let app = File { path: place(APPS, format!("{name}.toml")), text: self.app() };
        let nginx = File { path: place(NGINX, format!("{name}.conf")), text: self.nginx() };
        let mut files = vec![app, nginx];
        if self.runner == Runner::Systemd {
            let path = place(UNITS, format!("{name}@.socket"));
            files.push(File { path, text: self.socket_unit()? });
            let path = place(UNITS, format!("{name}@.service"));
            files.push(File { path, text: self.service_unit() });
        }
        Ok(files)
    }

    /// What goes into NGINX's and systemd's files has no word of theirs in it.
    fn check(&self) -> Result<(), InitError> {
        let root = self.root.to_string_lossy();
        let texts = [root.as_ref()].into_iter().chain(self.user.as_deref());
        let strange = |c: char| !c.is_alphanumeric() && !"/._-@+".contains(c);
        match texts.into_iter().find(|text| text.contains(strange)) {
            Some(text) => Err(InitError::Text(text.to_owned())),
            None => Ok(()),
        }
    }

    /// Program and arguments.
    fn program(&self) -> Vec<String> {
        match self.command.is_empty() {
            true => vec!["./server".to_owned()],
            false => self.command.clone(),
        }
    }

    /// What to do with what was written.
    #[must_use]
    pub fn next(&self, files: &[File], user_is_there: bool) -> Vec<String> {
        let (name, root) = (&self.name, self.root.display());
        let mut next = Vec::new();
        let in_place = files
            .iter()
            .all(|file| [APPS, NGINX, UNITS].iter().any(|folder| file.path.starts_with(folder)));
        if !in_place {
            next.push(format!(
                "look at them, then put {name}.toml into {APPS}, {name}.conf into {NGINX}{}",
                match self.runner {
                    Runner::Systemd => format!(", the units into {UNITS}"),
                    Runner::Process | Runner::Docker => String::new(),
                }
            ));
        }
        match &self.user {
            Some(user) if !user_is_there => next.push(format!(
                "useradd --system --home-dir {root} --shell /usr/sbin/nologin {user}"
            )),
            _ => {}
        }
        next.push(format!("install -d {root}"));
        if self.runner == Runner::Systemd {
            next.push("systemctl daemon-reload".to_owned());
        }
        next.push(format!(
            "put your name into server_name in {name}.conf, then: nginx -t && systemctl reload nginx"
        ));
        next.push("shunt check && systemctl reload shuntd".to_owned());
        next.push(format!("shunt doctor {name}"));
        next.push(match self.runner {
            // It is the image's tag, too, unless that stands in the file.
            Runner::Docker => format!("shunt deploy {name} --release v1"),
            Runner::Process | Runner::Systemd => format!("shunt deploy {name} --from ./dist"),
        });
        next
    }
}

/// Writes all files, or none of them if one is there and may not be overwritten.
///
/// # Errors
///
/// [`InitError`].
pub fn write(files: &[File], force: bool) -> Result<(), InitError> {
    // Also a link that goes nowhere is somebody's.
    if let Some(file) = files.iter().find(|f| !force && f.path.symlink_metadata().is_ok()) {
        return Err(InitError::Exists(file.path.clone()));
    }
    for File { path, text } in files {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).create_new(!force);
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| options.open(path)?.write_all(text.as_bytes()));
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => InitError::Exists(path.clone()),
            _ => InitError::Write { path: path.clone(), error },
        })?;
    }
    Ok(())
}

/// Two ports of this machine that none of these applications has as a slot.
#[must_use]
pub fn free_slots(taken: &[Address]) -> Vec<Address> {
    let port = |port| Address::Ip(([127, 0, 0, 1], port).into());
    let port_of = |slot: &Address| match slot {
        Address::Ip(address) => Some(address.port()),
        Address::Unix(_) => None,
    };
    let is_free = |free: &u16| !taken.iter().any(|slot| port_of(slot) == Some(*free));
    (3001..u16::MAX).filter(is_free).take(2).map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(runner: Runner) -> Plan {
        Plan {
            name: ReleaseName::new("shop").unwrap(),
            root: "/srv/shop".into(),
            command: vec!["./server".to_owned(), "--greet".to_owned(), "a \"b\" $c 5%".to_owned()],
            image: None,
            port: None,
            slots: free_slots(&[]),
            user: None,
            runner,
        }
    }

    #[test]
    fn the_file_is_read_as_it_was_meant() {
        let plan = plan(Runner::Process);
        let files = plan.files(None).unwrap();
        assert_eq!(files[0].path, Path::new("/etc/shunt/apps/shop.toml"));
        let app = App::parse(&files[0].text).unwrap_or_else(|e| panic!("{}{e}", files[0].text));
        assert_eq!((app.name, app.root), (plan.name, plan.root));
        assert_eq!((app.run.slots, app.run.user), (plan.slots, None));
        assert_eq!(app.nginx.to_string(), "unix:/run/shunt-shop.sock");
        for said in ["listen unix:/run/shunt-shop.sock;", "shunt_hold  shop;"] {
            assert!(files[1].text.contains(said), "{said}: {}", files[1].text);
        }
        assert_eq!(files.len(), 2);
        // And with what is proposed.
        let proposed = files[0].text.replace("# [canary]", "[canary]").replace("# steps", "steps");
        let app = App::parse(&proposed).unwrap_or_else(|e| panic!("{proposed}{e}"));
        assert_eq!((app.canary.unwrap().steps.len(), app.guard.time.as_secs()), (1, 30));
    }

    #[test]
    fn containers_are_of_the_image_that_was_named() {
        use crate::config;
        let docker = |plan: &Plan| {
            let text = plan.files(None).unwrap()[0].text.clone();
            let app = App::parse(&text).unwrap_or_else(|e| panic!("{text}{e}"));
            let proposed = text.replace("# network", "network").replace("# env", "env");
            App::parse(&proposed).unwrap_or_else(|e| panic!("{proposed}{e}"));
            let config::Runner::Docker(docker) = app.run.runner else { panic!("{text}") };
            (docker, text)
        };
        let plan = Plan { command: Vec::new(), ..plan(Runner::Docker) };
        let (found, text) = docker(&plan);
        assert_eq!((found.image.to_string().as_str(), found.port), ("shop", None));
        assert!(found.command.is_none() && text.contains("each deploy names its tag"), "{text}");
        let nginx = &plan.files(None).unwrap()[1].text;
        assert!(nginx.contains("\n    shunt_fallback on; "), "{nginx}");
        let last = plan.next(&plan.files(None).unwrap(), true).pop();
        assert_eq!(last.as_deref(), Some("shunt deploy shop --release v1"));
        let (image, command) =
            (Some("r.example/shop:v1".parse().unwrap()), vec!["serve".to_owned()]);
        let (found, text) = docker(&Plan { image, command, port: Some(8080), ..plan });
        assert_eq!(
            (found.image.to_string().as_str(), found.port),
            ("r.example/shop:v1", Some(8080))
        );
        assert!(found.command.is_some() && !text.contains("names its tag"), "{text}");
    }

    #[test]
    fn what_check_would_refuse_is_not_written() {
        let [a, b] = ["127.0.0.1:3001", "unix:/run/b.sock"].map(|slot| slot.parse().unwrap());
        for (runner, slots, said) in [
            (Runner::Docker, [&a, &b], "run: slot unix:/run/b.sock is a file"),
            (Runner::Process, [&a, &a], "run.slots: "),
        ] {
            let plan = Plan { slots: slots.map(Clone::clone).to_vec(), ..plan(runner) };
            let error = plan.files(None).unwrap_err().to_string();
            let expected = format!("what this would write is refused: {said}");
            assert!(error.starts_with(&expected), "{error}");
        }
        // A user is made later.
        let user = Some("shop".to_owned());
        let files = Plan { user, ..plan(Runner::Docker) }.files(None).unwrap();
        assert!(files[0].text.contains("user   = \"shop\""), "{}", files[0].text);
    }

    #[test]
    fn units_have_what_the_slots_differ_in_as_their_instance() {
        let files = plan(Runner::Systemd).files(Some(Path::new("/tmp/x"))).unwrap();
        let names: Vec<_> = files.iter().map(|f| f.path.display().to_string()).collect();
        assert_eq!(names[2..], ["/tmp/x/shop@.socket", "/tmp/x/shop@.service"]);
        assert!(
            files[0].text.contains("runner = \"systemd\"\nunit   = \"shop\""),
            "{}",
            files[0].text
        );
        assert!(files[2].text.contains("\nListenStream=127.0.0.1:%i\n"), "{}", files[2].text);
        let start = "\nExecStart=/srv/shop/slots/%i/server --greet \"a \\\"b\\\" $$c 5%%\"\n";
        assert!(files[3].text.contains(start), "{}", files[3].text);
        for said in ["StartLimitIntervalSec=0", "Environment=PORT=%i"] {
            assert!(files[3].text.contains(said), "{}", files[3].text);
        }
        let sockets = |paths: [&str; 2]| Plan {
            slots: paths.map(|path| path.parse().unwrap()).into(),
            ..plan(Runner::Systemd)
        };
        let files =
            sockets(["unix:/run/shop/a.sock", "unix:/run/shop/b.sock"]).files(None).unwrap();
        assert!(files[2].text.contains("\nListenStream=/run/shop/%i.sock\n"), "{}", files[2].text);
        assert!(!files[3].text.contains("PORT"), "{}", files[3].text);
        let error = sockets(["unix:/run/shop/a.sock", "127.0.0.1:1"]).files(None).unwrap_err();
        assert!(error.to_string().contains("differ in more than the port"), "{error}");
    }

    #[test]
    fn what_would_be_a_directive_is_refused() {
        for root in ["/srv/a b", "/srv/a;", "/srv/{a}", "/srv/a\nb"] {
            let plan = Plan { root: root.into(), ..plan(Runner::Process) };
            assert!(matches!(plan.files(None), Err(InitError::Text(_))), "{root}");
        }
    }

    #[test]
    fn no_file_is_overwritten_unless_one_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let files = plan(Runner::Process).files(Some(folder.path())).unwrap();
        std::fs::write(folder.path().join("shop.conf"), "mine").unwrap();
        let error = write(&files, false).unwrap_err().to_string();
        assert!(error.contains("shop.conf is there already; --force"), "{error}");
        assert!(!folder.path().join("shop.toml").exists(), "none of them, then");
        write(&files, true).unwrap();
        assert_eq!(
            std::fs::read_to_string(folder.path().join("shop.conf")).unwrap(),
            files[1].text
        );
    }

    #[test]
    fn slots_are_not_those_of_another_application() {
        let taken = ["127.0.0.1:3001", "[::1]:3003", "unix:/run/a.sock"];
        let free = free_slots(&taken.map(|slot| slot.parse().unwrap()));
        let free: Vec<_> = free.iter().map(ToString::to_string).collect();
        assert_eq!(free, ["127.0.0.1:3002", "127.0.0.1:3004"]);
    }

    #[test]
    fn what_is_next_is_said_in_order() {
        let mut plan = plan(Runner::Systemd);
        plan.user = Some("shop".to_owned());
        let files = plan.files(None).unwrap();
        let next = plan.next(&files, false);
        assert!(
            next[0].starts_with("useradd ") && next[2] == "systemctl daemon-reload",
            "{next:?}"
        );
        let elsewhere = plan.files(Some(Path::new("/tmp/x"))).unwrap();
        assert!(plan.next(&elsewhere, true)[0].starts_with("look at them"));
    }
}
