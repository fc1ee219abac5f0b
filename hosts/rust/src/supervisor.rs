//! A sidecar that comes back: when it dies, another one is started in its place, with backoff.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, Instant};

use crate::backoff::{random, Backoff};
use crate::client::Client;
use crate::error::{Error, Kind};
use crate::launch::Launch;
use crate::params::{Chat, Complete, Embed, Streaming};
use crate::results::{ChatResult, CompleteResult, EmbedResult, Pong, Status};
use crate::supervised::{Asked, Supervised};

const USAGE: i32 = 2; // The exit status of wrong usage or configuration: starting again would end the same way.

/// Called before each restart.
type OnRestart = Arc<dyn Fn(&Error, Duration) + Send + Sync>;

/// When and how often a sidecar is restarted.
#[derive(Clone)]
pub struct Policy {
    name: String,
    version: String,
    pub(crate) backoff: Backoff,
    pub(crate) tries: u32,
    stable_after: Duration,
    start_within: Duration,
    jitter: Arc<dyn Fn() -> f64 + Send + Sync>,
    on_restart: Option<OnRestart>,
}

impl Policy {
    /// Eight tries in a row, 0.1 s to 10 s apart, for a host of this name and version, as the sidecar's log will say.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Policy {
            name: name.into(),
            version: version.into(),
            backoff: Backoff::default(),
            tries: 8,
            stable_after: Duration::from_secs(30),
            start_within: Duration::from_secs(30),
            jitter: Arc::new(random),
            on_restart: None,
        }
    }

    /// How long to wait before each restart.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// After how many restarts in a row to give up; also, after how many resumptions without a new piece a stream ends.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// How long a sidecar must have lived for the count of restarts in a row to begin anew.
    pub fn stable_after(mut self, time: Duration) -> Self {
        self.stable_after = time;
        self
    }

    /// How long a start may take, up to the answer to `initialize`.
    pub fn start_within(mut self, time: Duration) -> Self {
        self.start_within = time;
        self
    }

    /// The source of jitter: numbers in 0..1. 0 makes waits whole, 1 halves them.
    pub fn jitter(mut self, source: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        self.jitter = Arc::new(source);
        self
    }

    /// Hear of each restart: why, and after which wait. The callback must not block.
    pub fn on_restart(mut self, callback: impl Fn(&Error, Duration) + Send + Sync + 'static) -> Self {
        self.on_restart = Some(Arc::new(callback));
        self
    }

    pub(crate) fn wait(&self, tries: u32) -> Duration {
        self.backoff.wait(tries, (self.jitter)())
    }
}

/// A sidecar that comes back. Clones are the same one; any number of tasks may use it.
///
/// A request with a key goes on after a restart, and whoever waits for it notices nothing; one without a key ends with
/// [`Kind::Interrupted`] and its partial text. A call waits while there is no sidecar. When the last clone and the last
/// [`Supervised`] are dropped, the sidecar and its process group are killed.
#[derive(Clone)]
pub struct Supervisor {
    keeper: Arc<Keeper>,
}

struct Keeper {
    phase: Arc<watch::Sender<Phase>>,
    policy: Policy,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Restart no more; return the sidecar that runs, if one does.
    fn close(&self) -> Option<Client> {
        self.task.abort();
        match self.phase.send_replace(Phase::Over(Error::Closed)) {
            Phase::Up(life) => Some(life.client),
            Phase::Down | Phase::Over(_) => None,
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(client) = self.close() {
            client.kill();
        }
    }
}

#[derive(Clone)]
enum Phase {
    Down,
    Up(Life),
    Over(Error),
}

/// One sidecar of the several that follow each other.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) client: Client,
    /// The id of its log. Where that is another one, nothing can be resumed.
    pub(crate) log: Option<String>,
}

impl Supervisor {
    /// Start a sidecar and keep one running. An error of the first start is returned, not retried.
    pub async fn start(launch: Launch, policy: Policy) -> Result<Supervisor, Error> {
        Supervisor::over(move || launch.spawn(), policy).await
    }

    /// Keep a connection up that is made anew each time it ends, such as one to a service.
    pub async fn over(
        mut connect: impl FnMut() -> Result<Client, Error> + Send + 'static,
        policy: Policy,
    ) -> Result<Supervisor, Error> {
        let life = begin(&mut connect, &policy, 0).await?;
        let phase = Arc::new(watch::channel(Phase::Up(life.clone())).0);
        let task = tokio::spawn(keep(connect, policy.clone(), Arc::clone(&phase), life));
        Ok(Supervisor { keeper: Arc::new(Keeper { phase, policy, task }) })
    }

    /// The process id of the sidecar that runs now, if one does.
    pub fn pid(&self) -> Option<u32> {
        match &*self.keeper.phase.borrow() {
            Phase::Up(life) => life.client.pid(),
            Phase::Down | Phase::Over(_) => None,
        }
    }

    /// Hear whether the sidecar answers.
    pub async fn ping(&self) -> Result<(), Error> {
        self.call("ping", &json!({})).await.map(|Pong {}| ())
    }

    /// Hear what a person would ask first.
    pub async fn status(&self) -> Result<Status, Error> {
        self.call("status", &json!({})).await
    }

    /// Have a conversation answered.
    pub async fn chat(&self, chat: &Chat) -> Result<ChatResult, Error> {
        self.ask("chat", chat, chat.options.key.as_deref()).await?.result().await
    }

    /// Have a conversation answered piece by piece.
    pub async fn chat_stream(&self, chat: &Chat) -> Result<Supervised<ChatResult>, Error> {
        self.ask("chat", &Streaming::new(chat), chat.options.key.as_deref()).await
    }

    /// Have a text continued.
    pub async fn complete(&self, complete: &Complete) -> Result<CompleteResult, Error> {
        self.ask("complete", complete, complete.options.key.as_deref()).await?.result().await
    }

    /// Have a text continued piece by piece.
    pub async fn complete_stream(&self, complete: &Complete) -> Result<Supervised<CompleteResult>, Error> {
        self.ask("complete", &Streaming::new(complete), complete.options.key.as_deref()).await
    }

    /// Have texts made vectors.
    pub async fn embed(&self, embed: &Embed) -> Result<EmbedResult, Error> {
        self.ask("embed", embed, embed.key.as_deref()).await?.result().await
    }

    /// Take up a request that has a key, after the last piece that was seen; see [`Client::resume`].
    pub async fn resume<R>(&self, key: &str, after: Option<u64>) -> Result<Supervised<R>, Error> {
        Supervised::open(self.clone(), Asked::before(key, after)).await
    }

    /// Have a request of any connection end with its partial text; false where it had ended.
    pub async fn cancel_key(&self, key: &str) -> Result<bool, Error> {
        self.life(0).await?.client.cancel_key(key).await
    }

    /// Call any method.
    pub async fn call<P: Serialize, R: DeserializeOwned>(&self, method: &str, params: &P) -> Result<R, Error> {
        self.ask(method, params, None).await?.result().await
    }

    /// Let the sidecar finish what runs, then leave; kill it where that takes longer. It does not come back.
    pub async fn shutdown(&self, within: Duration) {
        if let Some(client) = self.keeper.close() {
            client.shutdown(within).await;
        }
    }

    /// The sidecar that runs, of this number or a later one; waits for it.
    pub(crate) async fn life(&self, at_least: u64) -> Result<Life, Error> {
        let mut phase = self.keeper.phase.subscribe();
        loop {
            match &*phase.borrow_and_update() {
                Phase::Up(life) if life.number >= at_least => return Ok(life.clone()),
                Phase::Over(error) => return Err(error.clone()),
                Phase::Up(_) | Phase::Down => {}
            }
            phase.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.keeper.policy
    }

    async fn ask<P: Serialize, R>(&self, method: &str, params: &P, key: Option<&str>) -> Result<Supervised<R>, Error> {
        Supervised::open(self.clone(), Asked::now(method, params, key)?).await
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("pid", &self.pid()).finish()
    }
}

/// Start a sidecar and make sure that it is one.
async fn begin(
    connect: &mut impl FnMut() -> Result<Client, Error>,
    policy: &Policy,
    number: u64,
) -> Result<Life, Error> {
    let client = connect()?;
    match timeout(policy.start_within, client.initialize(&policy.name, &policy.version)).await {
        Ok(initialized) => {
            let log = initialized?.log.map(|log| log.id);
            Ok(Life { number, client, log })
        }
        Err(_) => Err(Error::protocol(format!("it did not answer within {:?}", policy.start_within))),
    }
}

/// Restart whatever dies, until that is hopeless.
async fn keep(
    mut connect: impl FnMut() -> Result<Client, Error>,
    policy: Policy,
    phase: Arc<watch::Sender<Phase>>,
    mut life: Life,
) {
    let mut tries = 0;
    loop {
        let since = Instant::now();
        let mut failure = Error::Died(life.client.gone().await);
        phase.send_replace(Phase::Down);
        if since.elapsed() >= policy.stable_after {
            tries = 0;
        }
        let number = life.number + 1;
        life = loop {
            if tries >= policy.tries || is_hopeless(&failure) {
                phase.send_replace(Phase::Over(Error::GaveUp(Arc::new(failure))));
                return;
            }
            let wait = policy.wait(tries);
            if let Some(on_restart) = &policy.on_restart {
                on_restart(&failure, wait);
            }
            sleep(wait).await;
            tries += 1;
            match begin(&mut connect, &policy, number).await {
                Ok(life) => break life,
                Err(error) => failure = error,
            }
        };
        phase.send_replace(Phase::Up(life.clone()));
    }
}

/// Whether another start would end the same way.
fn is_hopeless(failure: &Error) -> bool {
    match failure {
        Error::Died(death) => death.status.and_then(|status| status.code()) == Some(USAGE),
        Error::Rpc(error) => !error.retryable() && error.kind() != Kind::ShuttingDown,
        _ => false,
    }
}
