//! The units of an application that systemd runs.

use std::path::Path;

use shunt_api::Address;

use super::{InitError, Plan};

impl Plan {
    pub(super) fn socket_unit(&self) -> Result<String, InitError> {
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

    pub(super) fn service_unit(&self) -> String {
        let (name, root) = (&self.name, self.root.display());
        let command = self.program();
        let program = command.first().map_or("", String::as_str);
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
        let words: Vec<_> = [program].into_iter().chain(command.iter().skip(1).map(word)).collect();
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
}
