//! A thread that runs one session: for tests, tools, and nodes whose ring does not.

use crate::Negotiated;
use crate::device::{Device, Received};
use crate::session::{CloseReason, Out, Session};
use crate::sys;
use lockstep_frontend::{Answer, Request};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// What does the requests.
pub trait Handler: Send {
    /// Does `request`: the answer, or `None` if it will come by `completer`, from any thread.
    fn submit(&mut self, request: Request, completer: &Completer) -> Option<Answer>;

    /// INIT was agreed.
    fn ready(&mut self, agreed: Negotiated) {
        let _ = agreed;
    }
}

/// Why a driver ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The session did.
    #[error("{0}")]
    Closed(CloseReason),
    /// The connection was aborted by hand, through /sys/fs/fuse/connections.
    #[error("the FUSE connection was aborted")]
    Aborted,
    /// It was asked to; requests may be unanswered, and wait for the next server.
    #[error("the driver was stopped")]
    Stopped,
    /// The descriptor failed.
    #[error("/dev/fuse failed: {0}")]
    Failed(#[from] io::Error),
}

/// Brings answers to the driver's thread.
#[derive(Clone, Debug)]
pub struct Completer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Answers are bounded by the session's requests in flight.
    commands: Mutex<Vec<Command>>,
    stop: AtomicBool,
    wake: File,
}

#[derive(Debug)]
enum Command {
    Complete(u64, Answer),
    /// Says when it has been done.
    Grow(u64, mpsc::Sender<()>),
}

impl Completer {
    /// Answers the request `tag`. Nothing happens if the driver has ended.
    pub fn complete(&self, tag: u64, answer: Answer) {
        self.commands().push(Command::Complete(tag, answer));
        self.wake();
    }

    fn commands(&self) -> MutexGuard<'_, Vec<Command>> {
        self.shared.commands.lock().expect("no holder panics")
    }

    fn wake(&self) {
        // Fails only when the counter is full: then the thread is woken anyway.
        let _ = (&self.shared.wake).write(&1_u64.to_ne_bytes());
    }
}

/// A running session.
#[derive(Debug)]
pub struct Driver {
    completer: Completer,
    thread: JoinHandle<Ended>,
}

impl Driver {
    /// Runs `session` over `device` on a thread of its own. `first` is what `Session::resumed`
    /// gave, otherwise empty.
    pub fn spawn(
        device: Device,
        session: Session,
        first: Vec<Out>,
        handler: impl Handler + 'static,
    ) -> io::Result<Self> {
        let wake = File::from(sys::eventfd()?);
        let (commands, stop) = (Mutex::default(), AtomicBool::new(false));
        let completer = Completer {
            shared: Arc::new(Shared {
                commands,
                stop,
                wake,
            }),
        };
        let own = completer.clone();
        let thread = std::thread::Builder::new()
            .name("fuse".to_owned())
            .spawn(move || {
                let queue = VecDeque::from(first);
                let mut runner = Runner {
                    device,
                    session,
                    handler,
                    completer: own,
                    queue,
                };
                runner.run().unwrap_or_else(Ended::Failed)
            })?;
        Ok(Self { completer, thread })
    }

    /// Answers for requests that the handler left open.
    pub fn completer(&self) -> Completer {
        self.completer.clone()
    }

    /// The volume has grown to `size` bytes (R8); returns when the session knows. False if it has
    /// ended.
    pub fn grow(&self, size: u64) -> bool {
        let (done, wait) = mpsc::channel();
        self.completer.commands().push(Command::Grow(size, done));
        self.completer.wake();
        // The thread's end drops the sender only if it took the command: look at the thread too.
        loop {
            match wait.recv_timeout(Duration::from_millis(100)) {
                Ok(()) => return true,
                Err(mpsc::RecvTimeoutError::Timeout) if !self.thread.is_finished() => {}
                Err(_) => return false,
            }
        }
    }

    /// Waits until the session ends, as it does when the mount goes.
    pub fn join(self) -> Ended {
        self.thread.join().expect("the driver does not panic")
    }

    /// Ends the thread without an answer to what is in flight. The connection lives on where
    /// another descriptor of it is open.
    pub fn stop(self) -> Ended {
        self.completer.shared.stop.store(true, Ordering::Relaxed);
        self.completer.wake();
        self.join()
    }
}

struct Runner<H> {
    device: Device,
    session: Session,
    handler: H,
    completer: Completer,
    queue: VecDeque<Out>,
}

impl<H: Handler> Runner<H> {
    fn run(&mut self) -> io::Result<Ended> {
        let mut out = Vec::new();
        loop {
            if let Some(reason) = self.perform()? {
                return Ok(Ended::Closed(reason));
            }
            if self.completer.shared.stop.load(Ordering::Relaxed) {
                return Ok(Ended::Stopped);
            }
            let commands = std::mem::take(&mut *self.completer.commands());
            for command in commands {
                match command {
                    Command::Complete(tag, answer) => self.session.complete(tag, answer, &mut out),
                    Command::Grow(size, done) => {
                        self.session.grown(size);
                        // Whoever asked may have gone.
                        let _ = done.send(());
                    }
                }
            }
            let mut idle = out.is_empty();
            if self.session.wants_more() {
                match self.device.receive()? {
                    Received::Message(message) => {
                        self.session.receive(message, &mut out);
                        idle = false;
                    }
                    Received::Nothing => {}
                    Received::Unmounted => return Ok(Ended::Closed(CloseReason::Unmounted)),
                    Received::Aborted => return Ok(Ended::Aborted),
                }
            }
            self.queue.extend(out.drain(..));
            if idle {
                self.wait()?;
            }
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let wake = &self.completer.shared.wake;
        let wants = [self.session.wants_more(), true];
        let [_, woken] = sys::poll([self.device.as_fd(), wake.as_fd()], wants)?;
        if woken {
            let mut count = [0; 8];
            // Reset before the commands are taken, so that none is left without a wake-up.
            let _ = (&mut &*wake).read(&mut count);
        }
        Ok(())
    }

    fn perform(&mut self) -> io::Result<Option<CloseReason>> {
        while let Some(next) = self.queue.pop_front() {
            match next {
                Out::Send(parts) => {
                    self.device.send(&parts)?;
                }
                Out::Request(request) => {
                    let tag = request.tag;
                    if let Some(answer) = self.handler.submit(request, &self.completer) {
                        let mut more = Vec::new();
                        self.session.complete(tag, answer, &mut more);
                        self.queue.extend(more);
                    }
                }
                Out::Ready(agreed) => self.handler.ready(agreed),
                Out::Close(reason) => return Ok(Some(reason)),
            }
        }
        Ok(None)
    }
}
