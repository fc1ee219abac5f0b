//! When a sidecar is restarted, in virtual time: its connection is a pipe in memory, and no second passes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlzoo::{Backoff, Client, Connection, Error, Policy, Supervisor};
use tokio::io::{split, AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::time::{sleep, Instant};

/// What becomes of one sidecar.
#[derive(Clone, Copy)]
enum Fate {
    /// It answers `initialize` and dies so much later.
    Lives(Duration),
    /// It never answers.
    Mute,
    /// It cannot be started.
    Missing,
}

const AT_ONCE: Fate = Fate::Lives(Duration::ZERO);

async fn live(stream: DuplexStream, fate: Fate) {
    let (reader, mut writer) = split(stream);
    let mut lines = BufReader::new(reader).lines();
    match fate {
        Fate::Lives(time) => {
            lines.next_line().await.expect("it is asked").expect("it is asked");
            let answer = concat!(
                r#"{"jsonrpc":"2.0","id":1,"result":{"protocol_version":"1","server":{"name":"fake","version":"0"},"#,
                r#""capabilities":{"methods":[],"features":[],"providers":[],"devices":[]},"limits":{}}}"#,
                "\n"
            );
            writer.write_all(answer.as_bytes()).await.expect("it is heard");
            sleep(time).await;
        }
        Fate::Mute => while let Ok(Some(_)) = lines.next_line().await {},
        Fate::Missing => unreachable!("it was never started"),
    }
}

/// Starts sidecars, each with its fate; the last fate is that of all that follow.
fn fates(fates: &[Fate]) -> impl FnMut() -> Result<Client, Error> + Send + 'static {
    let mut fates: VecDeque<Fate> = fates.iter().copied().collect();
    move || {
        let fate = if fates.len() > 1 { fates.pop_front() } else { fates.front().copied() };
        let fate = fate.expect("at least one fate");
        if matches!(fate, Fate::Missing) {
            return Err(Error::Spawn(Arc::new(std::io::ErrorKind::NotFound.into())));
        }
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(live(theirs, fate));
        let (reader, writer) = split(ours);
        Ok(Connection::default().over(reader, writer))
    }
}

/// Run until the supervisor gives up; return the waits before each restart, in milliseconds, and how long all took.
async fn waits(of: &[Fate], policy: Policy) -> (Vec<u128>, Duration) {
    let waits: Arc<Mutex<Vec<u128>>> = Arc::default();
    let seen = Arc::clone(&waits);
    let policy = policy.on_restart(move |_, wait| seen.lock().expect("unpoisoned").push(wait.as_millis()));
    let begun = Instant::now();
    let mlzoo = Supervisor::over(fates(of), policy).await.expect("the first one starts");
    while !matches!(mlzoo.ping().await, Err(Error::GaveUp(_))) {}
    let waits = waits.lock().expect("unpoisoned").clone();
    (waits, begun.elapsed())
}

fn policy() -> Policy {
    let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_millis(1000) };
    Policy::new("test", "1").backoff(backoff).tries(6).jitter(|| 0.0)
}

#[tokio::test(start_paused = true)]
async fn each_restart_waits_twice_as_long_up_to_the_longest_until_it_is_given_up() {
    let (waits, took) = waits(&[AT_ONCE], policy()).await;
    assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
    assert!((3500..3600).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn jitter_shortens_the_waits() {
    let (waits, _) = waits(&[AT_ONCE], policy().jitter(|| 0.5)).await;
    assert_eq!(waits, [75, 150, 300, 600, 750, 750]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_lived_long_enough_lets_the_count_begin_anew() {
    let long = Fate::Lives(Duration::from_secs(31));
    let (waits, _) = waits(&[AT_ONCE, AT_ONCE, long, AT_ONCE], policy().tries(3)).await;
    assert_eq!(waits, [100, 200, 100, 200, 400]);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_counts_as_a_death_does() {
    let (waits, _) = waits(&[AT_ONCE, Fate::Missing, AT_ONCE, Fate::Missing], policy().tries(4)).await;
    assert_eq!(waits, [100, 200, 400, 800]);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_does_not_answer_in_time_counts_as_dead() {
    let policy = policy().tries(2).start_within(Duration::from_secs(5));
    let (waits, took) = waits(&[AT_ONCE, Fate::Mute], policy).await;
    assert_eq!(waits, [100, 200]);
    assert_eq!(took.as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_first_sidecar_that_does_not_answer_is_an_error() {
    let error = Supervisor::over(fates(&[Fate::Mute]), policy()).await.expect_err("it is mute");
    assert!(error.to_string().contains("did not answer within 30s"), "{error}");
}
