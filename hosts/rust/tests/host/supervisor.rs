//! A sidecar that comes back, and answers that go on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use mlzoo::{Backoff, ChatResult, Complete, Embed, Error, Kind, Policy, Supervised, Supervisor};

use crate::{keyed, kill_9, soon, story, AllGone, Place, PATIENCE, STORY};

/// Restarts at once: what waits are there for is tested in virtual time.
fn policy() -> Policy {
    Policy::new("test", "1").backoff(Backoff { first: Duration::ZERO, most: Duration::ZERO }).tries(20)
}

async fn supervised(place: &Place) -> Supervisor {
    soon(Supervisor::start(place.scripted(), policy())).await.expect("it starts")
}

/// Take all pieces, and make sure that each came exactly once.
async fn read_on(answer: &mut Supervised<ChatResult>, text: &mut String) -> Result<(), Error> {
    let mut due = answer.seq().map_or(0, |seq| seq + 1);
    while let Some(delta) = soon(answer.next()).await? {
        assert_eq!(delta.seq, due);
        due += 1;
        text.push_str(&delta.content);
    }
    Ok(())
}

async fn take(answer: &mut Supervised<ChatResult>, pieces: usize) -> String {
    let mut text = String::new();
    for _ in 0..pieces {
        text += &soon(answer.next()).await.expect("nothing goes wrong").expect("a piece").content;
    }
    text
}

#[tokio::test]
async fn a_stream_with_a_key_goes_on_when_the_sidecar_is_killed_in_its_middle() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.chat_stream(&keyed("stops-after-3", "k")).await.expect("it is sent");
    let mut text = take(&mut answer, 3).await;
    let first = mlzoo.pid();
    kill_9(first);
    read_on(&mut answer, &mut text).await.expect("it goes on");
    assert_eq!(text, STORY);
    assert_ne!(mlzoo.pid(), first);
    assert_eq!(soon(answer.result()).await.expect("it ended well").message.content, STORY);
}

#[tokio::test]
async fn pieces_that_were_said_and_not_taken_before_the_kill_come_once() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.chat_stream(&keyed("stops-after-5", "k")).await.expect("it is sent");
    let mut text = take(&mut answer, 1).await;
    mlzoo.ping().await.expect("by now all five pieces have arrived");
    kill_9(mlzoo.pid());
    read_on(&mut answer, &mut text).await.expect("it goes on");
    assert_eq!(text, STORY);
}

#[tokio::test]
async fn a_stream_goes_on_through_any_number_of_deaths_as_long_as_there_is_progress() {
    let place = Place::new();
    let policy = policy().tries(2).stable_after(Duration::ZERO);
    let mlzoo = soon(Supervisor::start(place.scripted(), policy)).await.expect("it starts");
    let mut answer = mlzoo.chat_stream(&keyed("dies-after-1", "k")).await.expect("it is sent");
    let mut text = String::new();
    read_on(&mut answer, &mut text).await.expect("it goes on");
    assert_eq!(text, STORY);
}

#[tokio::test]
async fn a_whole_answer_with_a_key_comes_in_spite_of_deaths() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let answer = soon(mlzoo.chat(&keyed("dies-after-5", "k"))).await.expect("an answer");
    assert_eq!(answer.message.content, STORY);
    let mut complete = Complete::new(STORY);
    complete.options.model = Some("interrupted-after-4".into());
    complete.options.key = Some("c".into());
    assert_eq!(soon(mlzoo.complete(&complete)).await.expect("an answer").text, STORY);
}

#[tokio::test]
async fn several_streams_go_on_side_by_side() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answers = Vec::new();
    for number in 0..8 {
        let chat = keyed(&format!("stops-after-{number}"), &format!("k{number}"));
        answers.push(mlzoo.chat_stream(&chat).await.expect("it is sent"));
    }
    mlzoo.ping().await.expect("an answer");
    kill_9(mlzoo.pid());
    for answer in &mut answers {
        let mut text = String::new();
        read_on(answer, &mut text).await.expect("it goes on");
        assert_eq!(text, STORY);
    }
}

#[tokio::test]
async fn a_stream_goes_on_when_only_the_worker_dies() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let pid = mlzoo.pid();
    let mut answer = mlzoo.chat_stream(&keyed("interrupted-after-4", "k")).await.expect("it is sent");
    let mut text = String::new();
    read_on(&mut answer, &mut text).await.expect("it goes on");
    assert_eq!((text.as_str(), mlzoo.pid()), (STORY, pid));
}

#[tokio::test]
async fn a_request_that_was_not_recorded_before_the_death_is_sent_again() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let answer = soon(mlzoo.chat(&keyed("dies-deaf", "k"))).await.expect("an answer");
    assert_eq!(answer.message.content, STORY);
    assert!(place.read("died").is_some());
}

#[tokio::test]
async fn what_a_leaving_sidecar_refuses_the_next_one_takes_with_a_key_or_without() {
    for chat in [story("leaves"), keyed("leaves", "k")] {
        let place = Place::new();
        let mlzoo = supervised(&place).await;
        assert_eq!(soon(mlzoo.chat(&chat)).await.expect("an answer").message.content, STORY);
        assert!(place.read("died").is_some());
    }
}

#[tokio::test]
async fn a_stream_without_a_key_ends_with_its_partial_text() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.chat_stream(&story("stops-after-3")).await.expect("it is sent");
    let said = take(&mut answer, 3).await;
    kill_9(mlzoo.pid());
    for _ in 0..2 {
        let error = soon(answer.next()).await.expect_err("it is interrupted, and stays so");
        let interrupted = error.rpc().expect("the error of a sidecar");
        assert_eq!((interrupted.kind(), interrupted.code), (Kind::Interrupted, 1008));
        assert_eq!((interrupted.partial(), &interrupted.data["seq"]), (Some(said.as_str()), &2.into()));
        assert!(interrupted.retryable() && !interrupted.resumable());
    }
    soon(mlzoo.ping()).await.expect("the next sidecar answers");
}

#[tokio::test]
async fn a_piece_that_comes_twice_or_is_missing_is_an_error_and_never_shown() {
    for fault in ["repeats", "skips"] {
        let place = Place::new();
        let mlzoo = supervised(&place).await;
        let mut answer = mlzoo.chat_stream(&keyed(fault, "k")).await.expect("it is sent");
        let mut text = take(&mut answer, 2).await;
        kill_9(mlzoo.pid());
        let error = read_on(&mut answer, &mut text).await.expect_err("the protocol is broken");
        assert!(matches!(error, Error::Protocol(_)), "{error}");
        assert_eq!(text, "The sea ");
    }
}

#[tokio::test]
async fn a_request_that_kills_each_sidecar_is_given_up_and_can_be_resumed_later() {
    let place = Place::new();
    let launch = place.scripted();
    let mlzoo = soon(Supervisor::start(launch, policy().tries(3))).await.expect("it starts");
    let error = soon(mlzoo.chat(&keyed("dies-after-0", "k"))).await.expect_err("it cannot be answered");
    let interrupted = error.rpc().expect("the error of a sidecar");
    assert_eq!((interrupted.kind(), interrupted.partial()), (Kind::Interrupted, Some("")));
    assert!(interrupted.resumable());
    assert!(matches!(soon(mlzoo.ping()).await, Err(Error::GaveUp(_))));
}

#[tokio::test]
async fn a_stream_that_no_resumption_brings_further_ends_while_the_sidecar_goes_on() {
    for fault in ["dies-after-0", "interrupted-after-0"] {
        let place = Place::new();
        let policy = policy().tries(3).stable_after(Duration::ZERO);
        let mlzoo = soon(Supervisor::start(place.scripted(), policy)).await.expect("it starts");
        let error = soon(mlzoo.chat(&keyed(fault, "k"))).await.expect_err("it cannot be answered");
        assert!(error.rpc().expect("the error of a sidecar").resumable());
        soon(mlzoo.ping()).await.expect("an answer");
    }
}

#[tokio::test]
async fn nothing_is_resumed_from_another_log() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.chat_stream(&keyed("stops-after-2", "k")).await.expect("it is sent");
    take(&mut answer, 2).await;
    std::fs::write(place.log().join("id"), "log-2").expect("the log is reset");
    kill_9(mlzoo.pid());
    let error = soon(answer.next()).await.expect_err("it is interrupted");
    assert!(error.to_string().contains("another log"), "{error}");
    assert_eq!((error.partial(), error.rpc().map(mlzoo::RpcError::resumable)), (Some("The sea "), Some(false)));
}

#[tokio::test]
async fn calls_wait_for_the_sidecar_that_comes() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let dead = mlzoo.pid();
    kill_9(dead);
    while mlzoo.pid() == dead {
        tokio::task::yield_now().await;
    }
    assert_eq!(soon(mlzoo.embed(&Embed::new(["a"]))).await.expect("an answer").embeddings.len(), 1);
}

#[tokio::test]
async fn a_detached_answer_is_taken_up_by_the_next_run_of_the_host() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.chat_stream(&keyed("stops-after-4", "k")).await.expect("it is sent");
    let mut text = take(&mut answer, 2).await;
    let seen = answer.seq();
    answer.detach();
    soon(mlzoo.shutdown(PATIENCE)).await;
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.resume("k", seen).await.expect("it is sent");
    read_on(&mut answer, &mut text).await.expect("it goes on");
    assert_eq!(text, STORY);
}

#[tokio::test]
async fn an_answer_that_is_dropped_runs_on_if_it_has_a_key_and_is_cancelled_if_it_has_none() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.chat_stream(&keyed("stops-after-2", "k")).await.expect("it is sent");
    take(&mut answer, 2).await;
    drop(answer);
    mlzoo.ping().await.expect("an answer");
    assert_eq!(place.read("cancelled"), None);
    let answer = mlzoo.resume::<ChatResult>("k", Some(1)).await.expect("it is sent");
    assert_eq!(soon(answer.result()).await.expect("it ends well").message.content, STORY);
    assert!(!soon(mlzoo.cancel_key("none")).await.expect("what is unknown is no error"));
    drop(mlzoo.chat_stream(&story("stops-after-2")).await.expect("it is sent"));
    mlzoo.ping().await.expect("an answer");
    assert!(place.read("cancelled").expect("it was cancelled").contains("request"));
}

#[tokio::test]
async fn an_answer_with_a_key_can_be_cancelled() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.chat_stream(&keyed("stops-after-2", "k")).await.expect("it is sent");
    take(&mut answer, 2).await;
    assert!(soon(answer.cancel()).await.expect("an answer"));
    let error = soon(answer.next()).await.expect_err("it was cancelled");
    assert_eq!((error.rpc().expect("the sidecar's").kind(), error.partial()), (Kind::Cancelled, Some("The sea ")));
}

#[tokio::test]
async fn a_call_that_is_dropped_while_its_answer_is_taken_up_again_loses_nothing() {
    let place = Place::new();
    let mlzoo = supervised(&place).await;
    let mut answer = mlzoo.chat_stream(&keyed("stops-after-3", "k")).await.expect("it is sent");
    let mut text = take(&mut answer, 3).await;
    kill_9(mlzoo.pid());
    loop {
        // As in a select!: whichever comes first, and the rest is dropped wherever it stands.
        let next = tokio::select! {
            biased;
            next = answer.next() => next.expect("it goes on"),
            () = tokio::task::yield_now() => continue,
        };
        match next {
            Some(delta) => text += &delta.content,
            None => break,
        }
    }
    assert_eq!(text, STORY);
    assert_eq!(place.read("cancelled"), None);
}

#[tokio::test]
async fn a_sidecar_that_refuses_its_settings_is_not_restarted() {
    let place = Place::new();
    let launches = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&launches);
    let launch = place.scripted();
    let connect = move || match count.fetch_add(1, Ordering::Relaxed) {
        0 => launch.spawn(),
        _ => launch.clone().argument("limits.nonsense=1").spawn(),
    };
    let mlzoo = soon(Supervisor::over(connect, policy())).await.expect("it starts");
    kill_9(mlzoo.pid());
    let error = soon(mlzoo.ping()).await.expect_err("there is no sidecar");
    let error = match error {
        Error::Rpc(_) => soon(mlzoo.ping()).await.expect_err("the one that was asked has just died"),
        error => error,
    };
    assert!(matches!(&error, Error::GaveUp(_)) && error.to_string().contains("limits.nonsense"), "{error}");
    assert_eq!(launches.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_error_of_the_first_start_is_returned() {
    let place = Place::new();
    let launch = place.scripted().argument("limits.nonsense=1");
    let error = soon(Supervisor::start(launch, policy())).await.expect_err("it cannot start");
    assert!(error.to_string().contains("limits.nonsense"), "{error}");
}

#[tokio::test]
async fn dropping_the_supervisor_kills_the_sidecar_and_shutting_it_down_lets_it_leave() {
    let place = Place::new();
    let (launch, gone) = AllGone::watch(place.scripted());
    let mlzoo = soon(Supervisor::start(launch, policy())).await.expect("it starts");
    soon(mlzoo.chat(&story("forks"))).await.expect("an answer");
    drop(mlzoo);
    soon(gone.wait()).await;
    let mlzoo = supervised(&place).await;
    soon(mlzoo.shutdown(PATIENCE)).await;
    assert!(matches!(soon(mlzoo.ping()).await, Err(Error::Closed)));
    assert_eq!(mlzoo.pid(), None);
}
