//! The changes that a worker is asked for: made one at a time, in the order in which they came.
//!
//! A change is answered when its state file is safe, and a disk takes milliseconds for that, or
//! seconds. So that the worker's other requests do not wait meanwhile, such changes are made in a thread
//! that the first of them starts. It tells NGINX's event loop of each that it has made by a byte in a
//! pipe; should it end unasked, the event loop sees the end of the pipe.
//!
//! One at a time, because what excludes others from a change (the lock of a zone, and that of the
//! masters' file) is held by a process, not by a thread.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, PipeReader, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{Builder, JoinHandle};

use nginx_sys::{
    ngx_close_connection, ngx_connection_t, ngx_current_msec, ngx_event_t, ngx_get_connection,
    ngx_handle_read_event, ngx_http_request_t, ngx_http_run_posted_requests, ngx_log_t, ngx_msec_t,
};
use ngx::log::ngx_cycle_log;
use nix::sys::signal::{SigSet, SigmaskHow};
use shunt_api::Problem;
use shunt_switch::service::Reply;

use crate::admin::reply_to_change;
use crate::change::Change;
use crate::conf::MainConf;
use crate::lock::{BUSY, LIMIT};
use crate::wrap::{OK, keep};

/// What comes of a change.
type Outcome = Result<Reply, Problem>;

/// How often to look whether a change takes too long, in milliseconds. The timer is a plain one: a
/// worker that shuts down after a reload finishes its changes.
const INTERVAL: ngx_msec_t = 100;

/// The stack of the thread. Of what a change calls, only the reader of JSON goes deep: 128 levels.
const STACK: usize = 512 << 10;

/// The changes of a worker.
#[derive(Default)]
pub struct Queue {
    writer: Option<Writer>,
    running: Option<Running>,
    waiting: VecDeque<Asked>,
}

/// The change that the writer makes.
struct Running {
    asked: Asked,
    since: ngx_msec_t,
}

/// A change that somebody has asked for.
#[derive(Clone)]
struct Asked {
    change: Arc<Change>,
    caller: Caller,
}

/// Makes a change, now or when those before it are made, and answers its call.
pub fn take(r: &mut ngx_http_request_t, main: &MainConf, change: Change) {
    let is_free = main.queue.borrow().is_free();
    if is_free && !change.needs_disk(main) {
        return make_here(r, main, &change);
    }
    let Some(caller) = Caller::of(r) else {
        let problem = Problem::new(500, "there is no memory for the call");
        return reply_to_change(r, &Err(problem).into());
    };
    let asked = Asked { change: Arc::new(change), caller };
    if !is_free {
        main.queue.borrow_mut().waiting.push_back(asked);
    } else if !start(main, &asked) {
        make_here(r, main, &asked.change);
    }
}

/// Makes a change within its request's handler. NGINX goes on with the request there: it must not end
/// before, so what the answer has posted is left for NGINX to run.
fn make_here(r: &mut ngx_http_request_t, main: &MainConf, change: &Change) {
    let outcome = change.make(main);
    // SAFETY: a request has a connection, which has a log.
    report(unsafe { (*r.connection).log }, change, &outcome);
    reply_to_change(r, &outcome.into());
}

/// Ends a worker's changes with it: the one that is being made is finished, which needs the
/// configuration, and the others are not made.
pub fn leave(main: &MainConf) {
    let Queue { writer, running, .. } = main.queue.take();
    let Some(writer) = writer else { return };
    if let (Some(outcome), Some(Running { asked, .. })) = (writer.end(), running) {
        report(ngx_cycle_log().as_ptr(), &asked.change, &outcome);
    }
}

impl Queue {
    fn is_free(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// The next one, if none is being made.
    fn next(&mut self) -> Option<Asked> {
        if self.running.is_some() { None } else { self.waiting.pop_front() }
    }

    /// The next one, if the one that is being made takes too long.
    fn next_late(&mut self) -> Option<Asked> {
        let since = self.running.as_ref()?.since;
        let is_late = now().wrapping_sub(since) >= LIMIT.as_millis() as ngx_msec_t;
        if is_late { self.waiting.pop_front() } else { None }
    }

    /// Lets the writer make a change; `false` when there is none.
    fn start(&mut self, main: &MainConf, asked: &Asked) -> bool {
        let Some(writer) = &mut self.writer else { return false };
        let away = Away { change: asked.change.clone(), main: Conf(ptr::from_ref(main)) };
        if writer.changes.send(away).is_err() {
            self.writer = None;
            return false;
        }
        writer.pipe.start_timer();
        self.running = Some(Running { asked: asked.clone(), since: now() });
        true
    }

    /// The change that the writer has made, and what has come of it.
    fn made(&mut self) -> Option<(Asked, Outcome)> {
        let writer = self.writer.as_mut()?;
        let outcome = match writer.outcome() {
            Ok(outcome) => outcome,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                self.writer = None;
                Err(Problem::new(500, "the change was broken off, see whether it was made"))
            }
        };
        Some((self.running.take()?.asked, outcome))
    }
}

/// Starts the next change, and makes those before it that need no thread.
fn go_on(main: &MainConf) {
    loop {
        // Nothing is borrowed while a call is answered: the next one may come with it.
        let next = main.queue.borrow_mut().next();
        let Some(asked) = next else { return };
        if asked.change.needs_disk(main) && start(main, &asked) {
            return;
        }
        // What the system has no thread for is made all the same.
        let outcome = asked.change.make(main);
        asked.answer(outcome);
    }
}

/// Lets the writer make a change; `false` when the system gives no thread, or no connection, for one.
fn start(main: &MainConf, asked: &Asked) -> bool {
    if main.queue.borrow().writer.is_none() {
        // Nothing is borrowed here either: for a connection, NGINX may have others close.
        let Ok(writer) = Writer::start(main) else { return false };
        main.queue.borrow_mut().writer = Some(writer);
    }
    main.queue.borrow_mut().start(main, asked)
}

/// The thread that makes changes.
struct Writer {
    changes: Sender<Away>,
    outcomes: Receiver<Outcome>,
    pipe: Pipe,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(main: &MainConf) -> io::Result<Self> {
        let (reader, mut made) = io::pipe()?;
        let pipe = Pipe::watch(main, reader)?;
        let (changes, asked) = mpsc::channel::<Away>();
        let (answers, outcomes) = mpsc::channel();
        let write = move || {
            for change in asked {
                // Nobody hears it when the worker ends.
                if answers.send(change.make()).is_err() || made.write_all(b".").is_err() {
                    return;
                }
            }
        };
        // Signals are for the thread of the event loop, which they wake up.
        let signals = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let thread = Builder::new().name("shunt changes".to_owned()).stack_size(STACK).spawn(write);
        // It cannot fail: this is what it was.
        let _ = signals.thread_set_mask();
        Ok(Self { changes, outcomes, pipe, thread: thread? })
    }

    /// What has come of the change that was started last, as soon as it is made.
    fn outcome(&mut self) -> Result<Outcome, TryRecvError> {
        self.pipe.empty();
        let outcome = self.outcomes.try_recv()?;
        self.pipe.stop_timer();
        Ok(outcome)
    }

    /// Lets it finish what it is at, and tells what has come of it.
    fn end(self) -> Option<Outcome> {
        drop(self.changes);
        // A panic would have ended the whole process.
        let _ = self.thread.join();
        self.outcomes.try_recv().ok()
    }
}

/// A change on its way into its thread.
struct Away {
    change: Arc<Change>,
    main: Conf,
}

struct Conf(*const MainConf);

// SAFETY: of the configuration, a change reads the zones, the upstreams as the API serves them, and
// the masters. These are written before a worker makes its first change, and not afterwards; the
// zones' memory is made for many processes. The configuration lives until `leave`, which waits for the
// thread.
unsafe impl Send for Conf {}

impl Away {
    fn make(self) -> Outcome {
        // SAFETY: as above.
        self.change.make(unsafe { &*self.main.0 })
    }
}

/// Called by NGINX when the writer has made a change, and now and then before.
unsafe extern "C" fn look(event: *mut ngx_event_t) {
    // SAFETY: NGINX sets an event's `data` to its connection, and `Pipe::watch` that of the connection
    // to the configuration, which lives longer than both.
    let main = unsafe {
        let connection = (*event).data.cast::<ngx_connection_t>();
        &*(*connection).data.cast::<MainConf>()
    };
    // SAFETY: the event lives until its pipe is dropped.
    let is_timer = unsafe { (*event).timedout() != 0 };
    if is_timer {
        // SAFETY: as above; the timer has just expired.
        unsafe {
            (*event).set_timedout(0);
            nginx_sys::ngx_add_timer(event, INTERVAL);
        }
        return refuse_late(main);
    }
    let made = main.queue.borrow_mut().made();
    if let Some((asked, outcome)) = made {
        asked.answer(outcome);
        go_on(main);
    }
}

/// Whoever waits for a disk that does not answer is told so, as other workers' callers are.
fn refuse_late(main: &MainConf) {
    loop {
        let late = main.queue.borrow_mut().next_late();
        let Some(asked) = late else { return };
        asked.answer(Err(Problem::new(503, BUSY)));
    }
}

/// The reading end of a pipe in NGINX's event loop; [`look`] is called when something is in it, and when
/// the other end is closed.
struct Pipe {
    /// NGINX closes it with the connection.
    reader: ManuallyDrop<PipeReader>,
    connection: NonNull<ngx_connection_t>,
}

impl Pipe {
    fn watch(main: &MainConf, reader: PipeReader) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&reader, true)?;
        let log = ngx_cycle_log().as_ptr();
        // SAFETY: NGINX gives a connection with its events, all of whose fields are set, and which are
        // ours until it is closed; it closes the file then.
        unsafe {
            let connection = ngx_get_connection(reader.as_raw_fd(), log);
            let connection = NonNull::new(connection).ok_or(io::ErrorKind::OutOfMemory)?;
            let mut pipe = Self { reader: ManuallyDrop::new(reader), connection };
            let connection = pipe.connection.as_mut();
            connection.data = ptr::from_ref(main).cast_mut().cast();
            connection.log = log;
            let read = &mut *connection.read;
            read.handler = Some(look);
            read.log = log;
            // Not a client's: `worker_shutdown_timeout` does not close it.
            read.set_channel(1);
            if ngx_handle_read_event(read, 0) != OK {
                return Err(io::ErrorKind::Other.into());
            }
            Ok(pipe)
        }
    }

    /// From now on, [`look`] is called now and then, too.
    fn start_timer(&mut self) {
        // SAFETY: the connection is ours until this is dropped.
        unsafe { nginx_sys::ngx_add_timer(self.connection.as_ref().read, INTERVAL) };
    }

    fn stop_timer(&mut self) {
        // SAFETY: as above; an event may be taken out of the tree that is in it.
        unsafe {
            let read = self.connection.as_ref().read;
            if (*read).timer_set() != 0 {
                nginx_sys::ngx_del_timer(read);
            }
        }
    }

    /// Takes out what is in it: a byte at most.
    fn empty(&mut self) {
        // Whatever comes of it, what counts is in the channel.
        let _ = self.reader.read(&mut [0; 8]);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // SAFETY: as above; its timer and its event are taken back with it.
        unsafe { ngx_close_connection(self.connection.as_ptr()) };
    }
}

/// Who is to be answered: nobody any more when the request has ended.
#[derive(Clone)]
struct Caller(Request);

/// Lives in the request's pool, and tells the caller of the request's end.
struct Presence(Request);

/// A request, as long as it lives.
type Request = Rc<Cell<Option<NonNull<ngx_http_request_t>>>>;

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Caller {
    /// `None` when there is no memory.
    fn of(r: &mut ngx_http_request_t) -> Option<Self> {
        let request = Rc::new(Cell::new(Some(NonNull::from(&mut *r))));
        keep(r.pool, Presence(request.clone()))?;
        Some(Self(request))
    }
}

impl Asked {
    /// Only in an event's handler: the request may end here.
    fn answer(&self, outcome: Outcome) {
        let Some(mut request) = self.caller.0.get() else {
            return report(ngx_cycle_log().as_ptr(), &self.change, &outcome);
        };
        // SAFETY: the request lives as long as its presence. A connection outlives its requests, and is
        // told that it is gone.
        unsafe {
            let r = request.as_mut();
            let connection = r.connection;
            report((*connection).log, &self.change, &outcome);
            reply_to_change(r, &outcome.into());
            ngx_http_run_posted_requests(connection);
        }
    }
}

/// Logs what an operator should know though the change was made.
fn report(log: *mut ngx_log_t, change: &Change, outcome: &Outcome) {
    if let Ok(Reply { notice: Some(notice), .. }) = outcome {
        error!(log, "upstream \"{}\": {notice}", change.call.upstream().unwrap_or_default());
    }
}

fn now() -> ngx_msec_t {
    // SAFETY: the global is set by the event loop, in this thread.
    unsafe { ngx_current_msec }
}
