//! The application's file.

use super::{Plan, Runner};
use crate::origin::image::Image;

impl Plan {
    pub(super) fn app(&self) -> String {
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
                    "command = {}         # in the release's folder\n\
                     # It gets its socket as systemd passes one (LISTEN_FDS): docs/runners.md.\n\
                     slots   = {slots}\n{user}",
                    list(self.program())
                )
            }
            Runner::Systemd => format!(
                "runner = \"systemd\"\nunit   = {}                    # {name}@.service, {name}@.socket\n\
                 slots  = {slots}\n",
                quoted(self.name.as_str()),
                name = self.name,
            ),
            Runner::Docker => self.containers(&slots),
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

    /// What makes containers.
    fn containers(&self, slots: &str) -> String {
        let image = self.image.as_ref().map_or(self.name.to_string(), ToString::to_string);
        let (image, chosen) = (toml::Value::from(image), self.image.as_ref());
        let tag = match chosen.is_some_and(Image::is_chosen) {
            true => "",
            false => "   # each deploy names its tag",
        };
        let port = match self.port {
            Some(port) => {
                format!("port   = {port}                      # there it listens in its container")
            }
            None => {
                "# port = 3000                      # if it does not listen at $PORT".to_owned()
            }
        };
        let user = self.user.as_ref().map_or_else(String::new, |user| {
            format!("user   = {}                    # of hooks\n", toml::Value::from(user.as_str()))
        });
        let command = match self.command.is_empty() {
            true => String::new(),
            false => format!("command = {}\n", toml::Value::from(self.command.clone())),
        };
        format!(
            "runner = \"docker\"\nimage  = {image}{tag}\n{port}\n{user}\
             slots  = {slots}   # published by Docker\n{command}\
             # network = \"backend\"              # of what else it needs, as a database\n\
             # env   = {{ APP_ENV = \"production\" }}\n"
        )
    }
}
