//! The table: what breaks, at which step, and what has to come of it.

use super::fault::Fault;
use super::fault::Fault::{
    ClientSlow, DaemonReload, HelperDisk, KillNew, KillOld, KillShuntd, KillWorker, ModuleDisk,
    PowerCut, Reload, Restart, Upgrade,
};

/// At which step of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    Start,
    Health,
    Canary,
    AfterSwitch,
    Guard,
    Drain,
}

use At::{AfterSwitch, Canary, Drain, Guard, Health, Start};

impl At {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Start => "start",
            Health => "health",
            Canary => "canary",
            AfterSwitch => "after-switch",
            Guard => "guard",
            Drain => "drain",
        }
    }

    /// The file in the new release's folder that makes it last.
    pub fn gate(self) -> Option<&'static str> {
        match self {
            Start => Some("starting"),
            Health => Some("sick"),
            AfterSwitch => Some("hooked"),
            Canary | Guard | Drain => None,
        }
    }
}

/// How the deploy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With 0.
    Done,
    /// With 0, and with a warning: the old release runs on until the next deploy.
    OldStays,
    /// With this code, before the switch.
    Refused(i32),
    /// With 5: the old release has all requests again.
    Back,
    /// The next `shuntd` has finished it.
    Finished,
    /// The next `shuntd` has taken it back.
    TakenBack,
}

use End::{Back, Done, Finished, OldStays, Refused, TakenBack};

impl End {
    /// Whether it is the next `shuntd` that tells how.
    pub fn is_told_later(self) -> bool {
        matches!(self, Finished | TakenBack)
    }

    /// Whether the new release serves in the end.
    pub fn is_new(self) -> bool {
        matches!(self, Done | OldStays | Finished)
    }
}

/// Which requests may fail.
#[derive(Debug, Clone, Copy)]
pub enum Loss {
    /// None.
    None,
    /// At most so many, for this reason.
    AtMost(u64, &'static str),
    /// Those of a while, for this reason.
    While(&'static str),
}

use Loss::{AtMost, While};

/// A row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub fault: Fault,
    pub at: At,
    pub end: End,
    pub loss: Loss,
}

impl Row {
    /// The exit code of `shunt deploy`; none where that is cut off, too.
    pub fn code(self) -> Option<i32> {
        match self.end {
            _ if self.fault == PowerCut => None,
            Done | OldStays => Some(0),
            Refused(code) => Some(code),
            Back => Some(5),
            // It has gone before it could tell.
            Finished | TakenBack => Some(8),
        }
    }

    /// When it happens, for the table.
    pub fn at_in_words(self) -> &'static str {
        if self.fault == ClientSlow { "all of them" } else { self.at.name() }
    }
}

const fn row(fault: Fault, at: At, end: End, loss: Loss) -> Row {
    Row { fault, at, end, loss }
}

/// What was on connections of the worker.
const WORKER: Loss = AtMost(8, "what that worker had in flight, as its connections end with it");
/// What the process was answering.
const PROCESS: Loss =
    AtMost(8, "what that process was answering, unless it may be asked twice and another is there");
/// POSTs on connections that were idle.
pub const CLOSING: &str = "`POST` on a kept-open connection that NGINX was closing just then";
const IDLE: Loss = AtMost(4, CLOSING);
const GONE: Loss = While("nobody listens until NGINX is there again");
const OFF: Loss = While("the machine is off");

pub const ROWS: &[Row] = &[
    row(KillWorker, Health, Done, WORKER),
    row(KillWorker, Canary, Done, WORKER),
    row(KillWorker, Guard, Done, WORKER),
    row(KillWorker, Drain, Done, WORKER),
    row(KillShuntd, Start, TakenBack, Loss::None),
    row(KillShuntd, Health, TakenBack, Loss::None),
    row(KillShuntd, Canary, TakenBack, Loss::None),
    row(KillShuntd, AfterSwitch, Finished, Loss::None),
    row(KillShuntd, Guard, Finished, Loss::None),
    row(KillShuntd, Drain, Finished, Loss::None),
    row(KillNew, Start, Refused(4), Loss::None),
    row(KillNew, Health, Refused(4), Loss::None),
    row(KillNew, Canary, Back, PROCESS),
    row(KillNew, Guard, Back, PROCESS),
    row(KillNew, Drain, Done, PROCESS),
    row(KillOld, Health, Done, PROCESS),
    row(KillOld, Canary, Done, PROCESS),
    row(KillOld, Guard, Done, PROCESS),
    row(KillOld, Drain, Done, PROCESS),
    row(Reload, Health, Done, IDLE),
    row(Reload, Canary, Done, IDLE),
    row(Reload, Guard, Done, IDLE),
    row(Reload, Drain, Done, IDLE),
    row(Restart, Health, Done, GONE),
    row(Restart, Canary, Done, GONE),
    row(Restart, Guard, Done, GONE),
    row(Restart, Drain, Done, GONE),
    row(Upgrade, Health, Refused(1), IDLE),
    row(Upgrade, Guard, Done, IDLE),
    row(Upgrade, Drain, Done, IDLE),
    row(DaemonReload, Start, Done, Loss::None),
    row(DaemonReload, Health, Done, Loss::None),
    row(DaemonReload, Guard, Done, Loss::None),
    row(DaemonReload, Drain, Done, Loss::None),
    row(HelperDisk, Health, Refused(1), Loss::None),
    row(HelperDisk, Guard, Done, Loss::None),
    row(ModuleDisk, Health, Refused(1), Loss::None),
    row(ModuleDisk, Guard, OldStays, Loss::None),
    // Which also takes away what the one above has left.
    row(ClientSlow, Drain, Done, Loss::None),
    row(PowerCut, Health, TakenBack, OFF),
    row(PowerCut, Canary, TakenBack, OFF),
    row(PowerCut, Guard, Finished, OFF),
    row(PowerCut, Drain, Finished, OFF),
];
