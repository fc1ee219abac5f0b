//! One sidecar, without a supervisor.

use std::future::Future;
use std::process::Command;

use mlzoo::{ChatResult, Complete, Connection, Embed, Error, Kind, Launch};
use serde_json::{json, Value};

use crate::{keyed, kill_9, soon, story, AllGone, Place, PATIENCE, STORY};

#[tokio::test]
async fn a_chat_streams_piece_by_piece_and_ends_with_the_whole() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    let mut answer = client.chat_stream(&story("plain")).await.expect("it is sent");
    let (mut text, mut seqs) = (String::new(), Vec::new());
    while let Some(delta) = soon(answer.next()).await.expect("nothing goes wrong") {
        text += &delta.content;
        seqs.push(delta.seq);
    }
    assert_eq!((text.as_str(), answer.seq()), (STORY, Some(13)));
    assert_eq!(seqs, (0..14).collect::<Vec<u64>>());
    assert_eq!(answer.result().await.expect("it ended well").message.content, STORY);
}

#[tokio::test]
async fn whole_answers_come_for_chats_completions_and_embeddings() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    assert_eq!(client.initialize("test", "1").await.expect("an answer").server.name, "scripted");
    client.ping().await.expect("an answer");
    assert_eq!(client.chat(&story("plain")).await.expect("an answer").message.content, STORY);
    assert_eq!(client.complete(&Complete::new("Once upon")).await.expect("an answer").text, "Once upon");
    assert_eq!(client.embed(&Embed::new(["a"])).await.expect("an answer").embeddings, [[0.1, 0.2]]);
}

#[tokio::test]
async fn many_tasks_may_use_one_client() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    let asked: Vec<_> = (0..200)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.complete(&Complete::new(format!("text {number}"))).await })
        })
        .collect();
    for (number, answer) in asked.into_iter().enumerate() {
        let answer = soon(answer).await.expect("it does not panic").expect("an answer");
        assert_eq!(answer.text, format!("text {number}"));
    }
}

#[tokio::test]
async fn an_error_is_typed_and_leaves_the_client_usable() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    let error = client.call::<_, Value>("sing", &json!({})).await.expect_err("no such method");
    assert_eq!(error.rpc().expect("the sidecar's").kind(), Kind::MethodNotFound);
    assert!(!error.retryable());
    client.ping().await.expect("an answer");
}

#[tokio::test]
async fn a_cancelled_stream_ends_with_its_partial_text() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    for chat in [story("stops-after-3"), keyed("stops-after-3", "k")] {
        let mut answer = client.chat_stream(&chat).await.expect("it is sent");
        soon(answer.next()).await.expect("a piece");
        assert!(soon(answer.cancel()).await.expect("an answer"));
        let error = soon(answer.result()).await.expect_err("it was cancelled");
        assert_eq!(
            (error.rpc().expect("the sidecar's").kind(), error.partial()),
            (Kind::Cancelled, Some("The sea is "))
        );
    }
    assert!(!client.cancel(17).await.expect("what is unknown is no error"));
}

#[tokio::test]
async fn a_stream_without_a_key_that_is_dropped_is_cancelled_and_one_that_is_detached_is_not() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    client.chat_stream(&story("stops-after-2")).await.expect("it is sent").detach();
    client.ping().await.expect("an answer");
    assert_eq!(place.read("cancelled"), None);
    let dropped = client.chat_stream(&story("stops-after-2")).await.expect("it is sent");
    let id = dropped.id();
    drop(dropped);
    client.ping().await.expect("an answer");
    assert_eq!(place.read("cancelled"), Some(json!({ "request": id }).to_string()));
}

#[tokio::test]
async fn a_stream_with_a_key_that_is_dropped_runs_on_and_can_be_taken_up_again() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    drop(client.chat_stream(&keyed("stops-after-2", "k")).await.expect("it is sent"));
    client.ping().await.expect("an answer");
    drop(client.resume::<ChatResult>("k", Some(0)).await.expect("it is sent"));
    client.ping().await.expect("an answer");
    assert_eq!(place.read("cancelled"), None);
    let taken_up = client.resume::<ChatResult>("k", Some(0)).await.expect("it is sent");
    assert_eq!(soon(taken_up.result()).await.expect("it ends well").message.content, STORY);
}

#[tokio::test]
async fn a_request_with_a_key_that_nobody_listens_to_is_ended_by_its_key() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    drop(client.chat_stream(&keyed("stops-after-2", "k")).await.expect("it is sent"));
    assert!(soon(client.cancel_key("k")).await.expect("an answer"));
    assert!(!soon(client.cancel_key("k")).await.expect("it has ended"));
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_unless_there_is_a_key_among_its_params() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    drop_once_sent(client.call::<_, Value>("chat", &keyed("stops-after-2", "k"))).await;
    client.ping().await.expect("an answer");
    assert_eq!(place.read("cancelled"), None);
    assert!(soon(client.cancel_key("k")).await.expect("it ran on"));
    drop_once_sent(client.call::<_, Value>("chat", &story("stops-after-2"))).await;
    client.ping().await.expect("an answer");
    assert!(place.read("cancelled").expect("it was cancelled").contains("request"));
}

/// What a call sends it sends when it is first polled, where nothing else waits to be written.
async fn drop_once_sent<T>(call: impl Future<Output = T>) {
    tokio::select! {
        biased;
        _ = call => panic!("it is not answered"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn a_stream_that_ended_is_not_cancelled_when_it_is_dropped() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    let mut answer = client.chat_stream(&story("plain")).await.expect("it is sent");
    while soon(answer.next()).await.expect("nothing goes wrong").is_some() {}
    drop(answer);
    client.ping().await.expect("an answer");
    assert_eq!(place.read("cancelled"), None);
}

#[tokio::test]
async fn what_waits_when_the_sidecar_is_killed_ends_with_its_death() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    let mut answer = client.chat_stream(&story("stops-after-2")).await.expect("it is sent");
    soon(answer.next()).await.expect("a piece");
    client.ping().await.expect("by now the other piece has arrived");
    kill_9(client.pid());
    soon(answer.next()).await.expect("what was said is not lost");
    let error = soon(answer.next()).await.expect_err("it is dead");
    assert!(matches!(&error, Error::Died(_)) && error.to_string().contains("signal: 9"), "{error}");
    assert!(matches!(client.ping().await, Err(Error::Died(_))));
    assert_eq!(client.pid(), None);
}

#[tokio::test]
async fn dropping_the_client_kills_the_whole_process_group() {
    let place = Place::new();
    let (launch, gone) = AllGone::watch(place.scripted());
    let client = launch.spawn().expect("it starts");
    drop(launch);
    let child = soon(client.chat(&story("forks"))).await.expect("an answer").message.content;
    assert!(child.parse::<u32>().is_ok());
    drop(client);
    soon(gone.wait()).await; // The child, which would live for 1000 seconds, holds stderr as the sidecar does.
}

#[tokio::test]
async fn killing_the_client_kills_the_whole_process_group_and_ends_what_waits() {
    let place = Place::new();
    let (launch, gone) = AllGone::watch(place.scripted());
    let client = launch.spawn().expect("it starts");
    drop(launch);
    soon(client.chat(&story("forks"))).await.expect("an answer");
    let answer = client.chat_stream(&story("stops-after-1")).await.expect("it is sent");
    client.kill();
    assert!(matches!(soon(answer.result()).await, Err(Error::Closed)));
    assert!(matches!(client.ping().await, Err(Error::Closed)));
    soon(gone.wait()).await;
}

#[test]
fn the_end_of_the_runtime_kills_the_whole_process_group() {
    let place = Place::new();
    let held = place.log().join("held");
    std::fs::create_dir_all(place.log()).expect("the log can be made");
    assert!(Command::new("mkfifo").arg(&held).status().expect("there is a mkfifo").success());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(std::fs::read(held))); // Ends when nobody holds the pipe any more.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(async {
        let client = place.scripted().spawn().expect("it starts");
        soon(client.chat(&story("forks"))).await.expect("an answer");
        client
    });
    assert!(receiver.try_recv().is_err());
    runtime.block_on(async move {
        let task = tokio::spawn(async move { client.gone().await });
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
    });
    drop(runtime);
    assert!(receiver.recv_timeout(PATIENCE).expect("nobody is left").expect("it can be read").is_empty());
}

#[tokio::test]
async fn a_sidecar_that_prints_to_stdout_is_killed_and_quoted() {
    let place = Place::new();
    let client = place.scripted().spawn().expect("it starts");
    let error = soon(client.chat(&story("babbles"))).await.expect_err("no protocol");
    assert!(error.to_string().contains("Loading checkpoint shards"), "{error}");
    assert!(soon(client.gone()).await.violation.is_some());
}

#[tokio::test]
async fn a_line_that_is_too_long_is_not_held_in_memory() {
    let place = Place::new();
    let launch = place.scripted().connection(Connection::default().line_bytes(65_536));
    let client = launch.spawn().expect("it starts");
    let error = soon(client.chat(&story("roars"))).await.expect_err("no protocol");
    assert!(error.to_string().contains("a line of 65537 bytes"), "{error}");
}

#[tokio::test]
async fn stderr_is_drained_and_its_end_kept() {
    let place = Place::new();
    let (launch, gone) = AllGone::watch(place.scripted());
    let client = launch.spawn().expect("it starts");
    drop(launch);
    soon(client.chat(&story("screams"))).await.expect("4 MiB on stderr stop nobody");
    let status = soon(client.shutdown(PATIENCE)).await;
    assert!(status.expect("it has left").success());
    assert_eq!(soon(gone.wait()).await.len(), 4096);
    let death = client.gone().await;
    assert_eq!((death.stderr.len(), death.stderr[0].len()), (50, 1023));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_the_hosts_fault() {
    let error = Launch::new("/there/is/no/such/program").spawn().expect_err("no program");
    assert!(matches!(error, Error::Spawn(_)));
}

#[tokio::test]
async fn a_sidecar_that_refuses_its_settings_says_so() {
    let place = Place::new();
    let client = place.scripted().argument("limits.nonsense=1").spawn().expect("it starts");
    let death = soon(client.gone()).await;
    assert_eq!(death.status.and_then(|status| status.code()), Some(2));
    assert_eq!(death.stderr, ["there is no setting limits.nonsense=1"]);
    assert!(matches!(client.ping().await, Err(Error::Died(_))));
}
