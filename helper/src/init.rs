//! A configuration to begin with: the application's file, what NGINX needs for it, and its units.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shunt_api::{Address, ReleaseName};

/// What starts the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runner {
    /// shuntd itself.
    Process,
    /// systemd, by units that are written, too.
    Systemd,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The application.
    pub name: ReleaseName,
    /// Its folder.
    pub root: PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
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

    /// Where NGINX's admin API of this application answers.
    fn api(&self) -> String {
        format!("unix:/run/shunt-{}.sock", self.name)
    }

    fn app(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let list = |texts: Vec<String>| toml::Value::from(texts).to_string();
        let slots = list(self.slots.iter().map(ToString::to_string).collect());
        let run = match self.runner {
            Runner::Process => {
                let user = match &self.user {
                    Some(user) => format!("user    = {}\n", quoted(user)),
                    None => {
                        "# user  = \"\"                      # else that of shuntd\n".to_owned()
                    }
                };
                format!(
                    "command = {}         # in the release's folder\nslots   = {slots}\n{user}",
                    list(self.command.clone())
                )
            }
            Runner::Systemd => format!(
                "runner = \"systemd\"\nunit   = {}                    # {name}@.service, {name}@.socket\n\
                 slots  = {slots}\n",
                quoted(self.name.as_str()),
                name = self.name,
            ),
        };
        format!(
            "# Every section and key: docs/configuration.md. After a change: shunt check, then\n\
             # systemctl reload shuntd.\n\n\
             name  = {name}\n\
             root  = {root}                # releases/, current and log/ are made here\n\
             nginx = {api}    # where shunt_api answers\n\n\
             [run]\n{run}\n\
             [health]\n\
             path = \"/\"                           # better one that knows whether all is well\n\n\
             # [canary]                           # a share of the requests first, watched\n\
             # steps = [{{ share = 0.05, time = \"1m\" }}]\n\n\
             [guard]\n\
             time = \"30s\"                         # watched when it has all; if it turns bad, switched back\n",
            name = quoted(self.name.as_str()),
            root = quoted(&self.root.to_string_lossy()),
            api = quoted(&self.api()),
        )
    }

    fn nginx(&self) -> String {
        let (name, api) = (&self.name, self.api());
        format!(
            r#"# The application "{name}": a switchable upstream. It stands in the http block, as all files in
# conf.d do. The module is loaded at the top of nginx.conf:
#     load_module modules/ngx_http_shunt_module.so;

shunt_zone  {name}:1m  state=/var/lib/nginx/shunt/{name}.json;

upstream {name} {{
    shunt      zone={name};           # a balancing method, if any, goes above this line
    server     127.0.0.1:1 down;    # until the first deploy; better what serves now, if something does
    keepalive  32;                  # below it
}}

# The admin API, which shuntd calls: only root may change something.
server {{
    listen {api};
    access_log off;
    location / {{ shunt_api write=on; }}
}}

server {{
    listen       80;
    server_name  {name}.example;  # yours

    shunt_hold  {name};             # where new requests wait while it is held

    location / {{
        proxy_pass          http://{name};
        proxy_http_version  1.1;
        proxy_set_header    Connection "";
        proxy_set_header    Host $host;
        proxy_set_header    X-Forwarded-For $proxy_add_x_forwarded_for;
        add_header          X-Release $shunt_release always;
    }}

    # WebSockets.
    location /ws {{
        proxy_pass          http://{name};
        proxy_http_version  1.1;
        proxy_set_header    Upgrade $http_upgrade;
        proxy_set_header    Connection upgrade;
        proxy_set_header    Host $host;
    }}
}}
"#
        )
    }

    fn socket_unit(&self) -> Result<String, InitError> {
        let name = &self.name;
        Ok(format!(
            "# A slot of the application \"{name}\". systemd has the socket, so connections wait while the\n\
             # process behind it starts or starts again.\n\n\
             [Unit]\n\
             Description=Socket of {name} in slot %i\n\n\
             [Socket]\n\
             ListenStream={}\n\
             FileDescriptorName=http\n\
             # However often the application crashes, its socket stays open.\n\
             TriggerLimitIntervalSec=0\n\n\
             [Install]\n\
             WantedBy=sockets.target\n",
            self.listen()?
        ))
    }

    /// Where a slot listens, with `%i` in place of what they differ in.
    fn listen(&self) -> Result<String, InitError> {
        let pattern = |slot: &Address| match slot {
            Address::Ip(address) => {
                let text = address.to_string();
                text.rsplit_once(':').map_or(text.clone(), |(ip, _)| format!("{ip}:%i"))
            }
            Address::Unix(path) => {
                let end = path.extension().map(|e| format!(".{}", e.to_string_lossy()));
                let folder = path.parent().unwrap_or(Path::new("/")).display().to_string();
                format!("{}/%i{}", folder.trim_end_matches('/'), end.unwrap_or_default())
            }
        };
        let patterns: Vec<_> = self.slots.iter().map(pattern).collect();
        match patterns.iter().position(|other| *other != patterns[0]) {
            None => Ok(patterns[0].clone()),
            Some(at) => Err(InitError::Slots(self.slots[0].clone(), self.slots[at].clone())),
        }
    }

    fn service_unit(&self) -> String {
        let (name, root) = (&self.name, self.root.display());
        let program = self.command.first().map_or("", String::as_str);
        let program = match program.starts_with('/') {
            true => program.to_owned(),
            false => format!("{root}/slots/%i/{}", program.trim_start_matches("./")),
        };
        // What is special to systemd is said twice (systemd.service(5)).
        let word = |word: &String| match word.contains([' ', '"', '\'', '\\', '$', '%', ';']) {
            false => word.clone(),
            true => {
                let word = word.replace('\\', "\\\\").replace('"', "\\\"");
                format!("\"{}\"", word.replace('$', "$$").replace('%', "%%"))
            }
        };
        let words: Vec<_> =
            [program].into_iter().chain(self.command.iter().skip(1).map(word)).collect();
        let user = match &self.user {
            Some(user) => format!("User={user}\n"),
            None => String::new(),
        };
        let port = match self.slots.first() {
            Some(Address::Ip(_)) => "Environment=PORT=%i\n",
            _ => "",
        };
        format!(
            "# A release of the application \"{name}\" in a slot. It gets its listening socket as descriptor 3\n\
             # (sd_listen_fds(3)). slots/ has a link to the release, which is changed only while nothing\n\
             # runs in the slot.\n\n\
             [Unit]\n\
             Description={name} in slot %i\n\
             Requires={name}@%i.socket\n\
             After={name}@%i.socket network.target\n\
             # Without it a crash loop makes systemd close the socket, and connections fail.\n\
             StartLimitIntervalSec=0\n\n\
             [Service]\n\
             # With an application that tells when it is ready: notify.\n\
             Type=exec\n\
             {user}WorkingDirectory={root}/slots/%i\n\
             ExecStart={}\n\
             {port}Restart=on-failure\n\
             RestartSec=1\n\
             # After SIGTERM it may end what it has begun.\n\
             TimeoutStopSec=30\n",
            words.join(" ")
        )
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
                    Runner::Process => String::new(),
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
        next.push(format!("shunt deploy {name} --from ./dist"));
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
    use crate::config::App;

    fn plan(runner: Runner) -> Plan {
        Plan {
            name: ReleaseName::new("shop").unwrap(),
            root: "/srv/shop".into(),
            command: vec!["./server".to_owned(), "--greet".to_owned(), "a \"b\" $c 5%".to_owned()],
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
