//! What breaks, and how it is mended.

use shunt_tests::docker::site::Site;
use shunt_tests::until;

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillWorker,
    KillShuntd,
    KillNew,
    KillOld,
    Reload,
    Restart,
    Upgrade,
    DaemonReload,
    ClientSlow,
    HelperDisk,
    ModuleDisk,
    PowerCut,
}

/// Where the helper and the module keep their states.
const HELPER: &str = "/var/lib/shunt";
const MODULE: &str = "/var/lib/nginx/shunt";

/// Gives a folder a disk of its own, as small as this.
const OWN_DISK: &str = r#"
cp -a "$folder" "$folder.was"
mount -t tmpfs -o "size=1m,mode=$(stat -c %a "$folder"),uid=$(id -u "$(stat -c %U "$folder")")" tmpfs "$folder"
cp -a "$folder.was/." "$folder/"
"#;

/// Takes it away again.
const NO_DISK: &str = r#"
rm -rf "$folder.was"
cp -a "$folder" "$folder.was"
umount "$folder"
cp -a "$folder.was/." "$folder/"
rm -rf "$folder.was"
"#;

impl Fault {
    /// In the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillWorker => "`kill -9` of an NGINX worker",
            Self::KillShuntd => "`kill -9` of `shuntd`",
            Self::KillNew => "`kill -9` of the new release",
            Self::KillOld => "`kill -9` of the old release",
            Self::Reload => "NGINX is reloaded",
            Self::Restart => "NGINX is restarted",
            Self::Upgrade => "NGINX is upgraded in place (`USR2`, `QUIT`)",
            Self::DaemonReload => "`systemctl daemon-reload`",
            Self::ClientSlow => "the network to NGINX is slow: 100 ms each way",
            Self::HelperDisk => "the disk of `shuntd`'s state is full",
            Self::ModuleDisk => "the disk of the module's state is full",
            Self::PowerCut => "the machine is cut off and started again",
        }
    }

    /// What has to be done before anything breaks, and before there is load.
    pub fn prepare(self, site: &Site) {
        match self {
            Self::HelperDisk => disk(site, HELPER, OWN_DISK, "shuntd.socket shuntd.service"),
            Self::ModuleDisk => disk(site, MODULE, OWN_DISK, "nginx.service"),
            _ => return,
        }
        site.wait_until_idle();
    }

    /// It breaks.
    pub fn strike(self, site: &Site, old: &str, new: &str) {
        let server = &site.server;
        match self {
            Self::KillWorker => {
                let before = workers(site);
                server.sh("kill -KILL \"$(pgrep -f 'nginx: worker process$' | head -n 1)\"");
                until("another worker", || {
                    let now = workers(site);
                    (now != before && now.len() == before.len()).then_some(())
                });
            }
            Self::KillShuntd => {
                server.run(&["systemctl", "kill", "--signal=KILL", "shuntd.service"]);
            }
            Self::KillNew => kill(site, new),
            Self::KillOld => kill(site, old),
            Self::Reload => {
                let before = workers(site);
                server.run(&["systemctl", "reload", "nginx.service"]);
                until("other workers", || {
                    let now = workers(site);
                    (now.len() == before.len() && now.iter().all(|pid| !before.contains(pid)))
                        .then_some(())
                });
            }
            Self::Restart => {
                server.run(&["systemctl", "restart", "nginx.service"]);
            }
            Self::Upgrade => {
                server.sh("kill -USR2 \"$(cat /run/nginx.pid)\"");
                until("the new one", || {
                    let both =
                        ["test", "-s", "/run/nginx.pid", "-a", "-s", "/run/nginx.pid.oldbin"];
                    (server.try_run(&both).code == 0).then_some(())
                });
                server.sh("kill -QUIT \"$(cat /run/nginx.pid.oldbin)\"");
            }
            Self::DaemonReload => {
                server.run(&["systemctl", "daemon-reload"]);
            }
            // It was so from the beginning.
            Self::ClientSlow => {}
            Self::HelperDisk => fill(site, HELPER),
            Self::ModuleDisk => {
                fill(site, MODULE);
                // The last block of the file would still take some changes; so it has to be written
                // whole.
                server.run(&["touch", &format!("{MODULE}/state.json")]);
            }
            Self::PowerCut => {
                server.cut_off();
                server.power_on();
                server.wait_until_booted();
            }
        }
    }

    /// What somebody has to do when the deploy has ended.
    pub fn mend(self, site: &Site) {
        match self {
            Self::HelperDisk => {
                site.server.run(&["rm", &format!("{HELPER}/filler")]);
            }
            Self::ModuleDisk => {
                site.server.run(&["rm", &format!("{MODULE}/filler")]);
            }
            Self::Upgrade => until("one NGINX", || {
                let masters = site.server.run(&["pgrep", "-c", "-f", "nginx: master"]);
                (masters.trim() == "1").then_some(())
            }),
            _ => {}
        }
    }

    /// Takes away what was prepared, when there is no load any more.
    pub fn tidy(self, site: &Site) {
        match self {
            Self::HelperDisk => disk(site, HELPER, NO_DISK, "shuntd.socket shuntd.service"),
            Self::ModuleDisk => disk(site, MODULE, NO_DISK, "nginx.service"),
            _ => {}
        }
    }
}

/// The workers that take connections.
fn workers(site: &Site) -> Vec<String> {
    let output = site.server.try_run(&["pgrep", "-f", "nginx: worker process$"]);
    output.stdout.lines().map(ToOwned::to_owned).collect()
}

/// Kills a release in its slot, as soon as it runs there.
fn kill(site: &Site, release: &str) {
    until("its process is killed", || {
        let killed = site.server.try_run(&[
            "bash",
            "-c",
            "for port in 3001 3002; do
                 [ \"$(readlink /srv/web/slots/$port)\" = ../releases/$0 ] || continue
                 pid=$(systemctl show --value --property=MainPID web@$port.service)
                 [ \"$pid\" -ne 0 ] && kill -KILL \"$pid\"
                 exit
             done
             exit 1",
            release,
        ]);
        (killed.code == 0).then_some(())
    });
}

fn disk(site: &Site, folder: &str, how: &str, units: &str) {
    site.server
        .sh(&format!("folder={folder}\nsystemctl stop {units}\n{how}\nsystemctl start {units}"));
}

/// Fills a disk to the last byte.
fn fill(site: &Site, folder: &str) {
    site.server.sh(&format!(
        "if cat /dev/zero >{folder}/filler 2>/dev/null; then exit 1; fi
         [ \"$(df --output=avail {folder} | tail -n 1)\" -eq 0 ]"
    ));
}
