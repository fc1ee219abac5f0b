//! The connection to a sidecar: which requests wait, one task that writes lines and one that reads them.
//!
//! Knows the envelope of the protocol and no method's params.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver, UnboundedSender};
use tokio::sync::{watch, OwnedSemaphorePermit, Semaphore};

use crate::error::{Death, Error};
use crate::inbox::Inbox;
use crate::lines::{Line, Lines};
use crate::process::Process;
use crate::results::Progress;
use crate::seq::Seqs;
use crate::wire::{parse, request_line, Incoming};

const OUTGOING_LINES: usize = 64; // Requests on their way to a sidecar that does not read; the next one waits.

/// Called with each progress notification.
pub(crate) type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

/// What the tasks of a connection and its users share.
pub(crate) struct Shared {
    calls: Mutex<Calls>,
    /// The queue of lines has no bound of its own: a request takes one of these before it puts its line there. Notes
    /// (cancel) take none: they must not wait, and there is at most one for each request.
    places: Arc<Semaphore>,
    line_bytes: AtomicUsize,
    on_progress: Option<OnProgress>,
    process: Option<Process>,
    closing: watch::Sender<bool>,
    death: watch::Sender<Option<Arc<Death>>>,
}

struct Calls {
    next_id: u64,
    pending: HashMap<u64, Arc<Inbox>>,
    outgoing: Option<UnboundedSender<Outgoing>>,
    /// What each call ends with from now on.
    end: Option<Error>,
}

struct Outgoing {
    line: Vec<u8>,
    place: Option<OwnedSemaphorePermit>,
}

impl Shared {
    /// Serve a connection in two tasks, until it ends.
    pub(crate) fn serve(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        process: Option<Process>,
        line_bytes: usize,
        on_progress: Option<OnProgress>,
    ) -> Arc<Shared> {
        let (outgoing, to_write) = unbounded_channel();
        let calls = Calls { next_id: 1, pending: HashMap::new(), outgoing: Some(outgoing), end: None };
        let (closing, when_closing) = watch::channel(false);
        let shared = Arc::new(Shared {
            calls: Mutex::new(calls),
            places: Arc::new(Semaphore::new(OUTGOING_LINES)),
            line_bytes: AtomicUsize::new(line_bytes),
            on_progress,
            process,
            closing,
            death: watch::channel(None).0,
        });
        tokio::spawn(write_lines(to_write, writer, when_closing.clone()));
        tokio::spawn(read_lines(Arc::clone(&shared), Lines::new(reader, line_bytes), when_closing));
        shared
    }

    /// Send a request and return its id and where its answer will arrive.
    ///
    /// A call that is dropped while it waits has sent nothing. An error says that nothing was sent.
    pub(crate) async fn request<P: Serialize>(
        &self,
        method: &str,
        params: &P,
        seqs: Seqs,
    ) -> Result<(u64, Arc<Inbox>), Error> {
        let id = self.next_id();
        let line = request_line(Some(id), method, params, self.line_bytes.load(Ordering::Relaxed))?;
        let place = Arc::clone(&self.places).acquire_owned().await.ok(); // None: closed, as the next lines find.
        let mut calls = self.calls();
        if let Some(end) = &calls.end {
            return Err(end.clone());
        }
        let Some(outgoing) = &calls.outgoing else { return Err(Error::Closed) };
        let _ = outgoing.send(Outgoing { line, place }); // Without a writer the reader ends soon, and all calls.
        let inbox = Arc::new(Inbox::new(seqs));
        calls.pending.insert(id, Arc::clone(&inbox));
        Ok((id, inbox))
    }

    /// Whether a request still waited; its answer will be ignored.
    pub(crate) fn forget(&self, id: u64) -> bool {
        self.calls().pending.remove(&id).is_some()
    }

    /// Queue a notification. To a sidecar that is gone there is nothing to say.
    pub(crate) fn note<P: Serialize>(&self, method: &str, params: &P) {
        if let (Ok(line), Some(outgoing)) = (request_line(None, method, params, usize::MAX), &self.calls().outgoing) {
            let _ = outgoing.send(Outgoing { line, place: None });
        }
    }

    /// Let the sidecar read to the end of stdin; new requests are refused.
    pub(crate) fn finish(&self) {
        self.calls().outgoing = None;
    }

    /// End the connection, and the process and all of its group, at once.
    pub(crate) fn kill(&self) {
        self.end_calls(Error::Closed);
        if let Some(process) = &self.process {
            process.kill();
        }
        self.closing.send_replace(true);
    }

    /// Wait until the sidecar is gone.
    pub(crate) async fn gone(&self) -> Arc<Death> {
        let mut death = self.death.subscribe();
        loop {
            if let Some(death) = death.borrow_and_update().as_ref() {
                return Arc::clone(death);
            }
            if death.changed().await.is_err() {
                return Arc::default(); // The sender is a field of self.
            }
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    pub(crate) fn limit_lines(&self, line_bytes: usize) {
        self.line_bytes.store(line_bytes, Ordering::Relaxed);
    }

    fn next_id(&self) -> u64 {
        let mut calls = self.calls();
        calls.next_id += 1;
        calls.next_id - 1
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        // Nothing panics under this lock, so what is behind it is whole.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bring what has come to whom it is for. What is for nobody comes late, after a cancel, and is dropped.
    fn deliver(&self, line: &[u8]) -> Result<(), String> {
        match parse(line)? {
            Incoming::Piece(id, piece) => {
                if let Some(inbox) = self.calls().pending.get(&id) {
                    inbox.put(piece);
                }
            }
            Incoming::End(id, end) => {
                if let Some(inbox) = self.calls().pending.remove(&id) {
                    inbox.end(end);
                }
            }
            Incoming::Progress(progress) => {
                if let Some(on_progress) = &self.on_progress {
                    on_progress(&progress);
                }
            }
            Incoming::Ignored => {}
        }
        Ok(())
    }

    fn end_calls(&self, end: Error) {
        let mut calls = self.calls();
        let end = calls.end.get_or_insert(end).clone();
        calls.outgoing = None;
        self.places.close();
        for (_, inbox) in calls.pending.drain() {
            inbox.end(Err(end.clone()));
        }
    }
}

async fn write_lines(
    mut lines: UnboundedReceiver<Outgoing>,
    mut writer: impl AsyncWrite + Unpin,
    mut closing: watch::Receiver<bool>,
) {
    let write = async {
        while let Some(Outgoing { line, place }) = lines.recv().await {
            if writer.write_all(&line).await.is_err() || writer.flush().await.is_err() {
                return; // It is about to leave. Whoever waits for an answer hears of that from the reader.
            }
            drop(place);
        }
        let _ = writer.shutdown().await;
    };
    tokio::select! {
        () = write => {}
        _ = closing.changed() => {}
    }
}

async fn read_lines<R: AsyncRead + Unpin>(
    shared: Arc<Shared>,
    mut lines: Lines<R>,
    mut closing: watch::Receiver<bool>,
) {
    let violation = tokio::select! {
        violation = deliver_lines(&shared, &mut lines) => violation,
        _ = closing.changed() => None,
    };
    let mut death = Death { violation, ..Death::default() };
    if let Some(process) = &shared.process {
        if death.violation.is_some() {
            process.kill(); // Nothing after it can be trusted.
        }
        death.status = process.end().await;
        death.stderr = process.stderr_tail();
    }
    let death = Arc::new(death);
    shared.end_calls(Error::Died(Arc::clone(&death)));
    shared.death.send_replace(Some(death));
}

/// Read to the end, or to what is no message of the protocol.
async fn deliver_lines<R: AsyncRead + Unpin>(shared: &Shared, lines: &mut Lines<R>) -> Option<String> {
    loop {
        let delivered = match lines.next().await {
            Ok(Some(Line::Whole(line))) if line.is_empty() => Ok(()),
            Ok(Some(Line::Whole(line))) => shared.deliver(&line),
            Ok(Some(Line::TooLong(_, size))) => Err(format!("it wrote a line of {size} bytes")),
            // What stands unterminated at the end is of a line that the sidecar died in.
            Ok(Some(Line::Torn(_)) | None) | Err(_) => return None,
        };
        if let Err(violation) = delivered {
            return Some(violation);
        }
    }
}
