//! What is answered. Version 1 may grow: fields that this crate does not know are ignored, words are strings.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

/// Defines structs of an answer: plain data, to be read and never to be made by a host.
macro_rules! answers {
    ($($(#[$about:meta])* $name:ident { $($(#[$field_about:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_about])* pub $field: $type,)*
        }
    )*};
}

answers! {
    /// A piece of an answer: each field concatenates to the same one of the whole.
    Delta {
        /// The stream's own number of this piece; of several that were joined, since they waited long, the last one's.
        #[serde(skip)]
        seq: u64,
        /// Text.
        #[serde(default)]
        content: String,
        /// Thoughts, where the model shows them.
        #[serde(default)]
        reasoning: String,
        /// Pieces of tool calls.
        #[serde(default)]
        tool_calls: Vec<ToolCallDelta>,
        /// The log-probabilities of this piece's tokens, where they were asked for.
        #[serde(default)]
        logprobs: Vec<TokenLogprob>,
    }

    /// A piece of a tool call: those of one index concatenate to it.
    ToolCallDelta {
        /// Which call.
        index: u64,
        /// Its id.
        id: Option<String>,
        /// The tool's name.
        name: Option<String>,
        /// JSON, as far as the model has written it.
        arguments: Option<String>,
    }

    /// A token and its log-probability under the unmodified distribution.
    TokenLogprob {
        /// The token's text.
        token: String,
        /// Its log-probability.
        logprob: f64,
        /// Its likeliest rivals, where they were asked for.
        #[serde(default)]
        top: Vec<TopLogprob>,
    }

    /// A token that might have been chosen.
    TopLogprob {
        /// The token's text.
        token: String,
        /// Its log-probability.
        logprob: f64,
    }

    /// How far long work is that a request waits for.
    Progress {
        /// The request's id on this connection: [`crate::Stream::id`].
        request: u64,
        /// The model that the work is about.
        #[serde(default)]
        model: String,
        /// What is done: `weights`, `prefill`, ...
        stage: String,
        /// So much is done
        done: u64,
        /// of so much; 0 where that is not known,
        total: u64,
        /// in this unit.
        unit: String,
        /// For people.
        #[serde(default)]
        message: String,
    }

    /// The assistant's turn.
    AnswerMessage {
        /// `assistant`.
        role: String,
        /// The whole text.
        content: String,
        /// The whole thoughts, where the model shows them.
        reasoning: Option<String>,
        /// The calls that the model wants made.
        #[serde(default)]
        tool_calls: Vec<ToolCall>,
    }

    /// A call that the model wants made.
    ToolCall {
        /// Its id.
        id: String,
        /// The tool's name.
        name: String,
        /// JSON, as the model wrote it.
        arguments: String,
    }

    /// Tokens that a request took.
    Usage {
        /// Of the prompt.
        prompt_tokens: u64,
        /// Of the answer.
        completion_tokens: u64,
        /// Of both.
        total_tokens: u64,
        /// Of the prompt, and not read again.
        #[serde(default)]
        cached_tokens: u64,
    }

    /// Where the time went, in milliseconds.
    Timing {
        /// From arrival to a place in the batch.
        queue_ms: u64,
        /// From arrival to the first token.
        ttft_ms: u64,
        /// From arrival to the end.
        total_ms: u64,
    }

    /// The answer to a conversation.
    ChatResult {
        /// The request's name in the log.
        id: String,
        /// The model that answered.
        model: String,
        /// Where it ran.
        device: String,
        /// Why that was a slower device than the best, where it was.
        degraded: Option<String>,
        /// The answer.
        message: AnswerMessage,
        /// `stop`, `length`, `tool_calls` or `content_filter`.
        finish_reason: String,
        /// Tokens.
        usage: Usage,
        /// The seed that was used.
        seed: Option<u64>,
        /// How the answer went on after an interruption, where there was one: `exact` or `prefill`.
        resumed: Option<String>,
        /// The conversation that it belongs to, where it belongs to one.
        conversation: Option<String>,
        /// Times.
        timing: Option<Timing>,
    }

    /// The continuation of a text.
    CompleteResult {
        /// The request's name in the log.
        id: String,
        /// The model that answered.
        model: String,
        /// Where it ran.
        device: String,
        /// Why that was a slower device than the best, where it was.
        degraded: Option<String>,
        /// The text.
        text: String,
        /// `stop`, `length` or `content_filter`.
        finish_reason: String,
        /// Tokens.
        usage: Usage,
        /// The seed that was used.
        seed: Option<u64>,
        /// How the answer went on after an interruption, where there was one: `exact` or `prefill`.
        resumed: Option<String>,
        /// Times.
        timing: Option<Timing>,
    }

    /// Vectors, in the order of the texts.
    EmbedResult {
        /// The model that made them.
        model: String,
        /// The vectors, to the last bit as they were computed.
        embeddings: Vec<Vec<f32>>,
        /// Tokens.
        usage: EmbedUsage,
    }

    /// Tokens that embedding took.
    EmbedUsage {
        /// Of the texts.
        prompt_tokens: u64,
        /// The same.
        total_tokens: u64,
    }

    /// What `initialize` agreed on.
    Initialized {
        /// The version of the protocol that is spoken.
        protocol_version: String,
        /// The sidecar.
        server: Server,
        /// What it can do.
        capabilities: Capabilities,
        /// Its limits by name.
        limits: HashMap<String, f64>,
        /// Its log; None where it cannot be used.
        log: Option<LogPlace>,
        /// The connection's name in the log.
        #[serde(default)]
        connection: String,
    }

    /// The sidecar.
    Server {
        /// What it is called.
        name: String,
        /// Its version.
        version: String,
    }

    /// What a sidecar can do.
    Capabilities {
        /// Its methods.
        methods: Vec<String>,
        /// Its features.
        features: Vec<String>,
        /// Who can answer.
        providers: Vec<String>,
        /// The devices that it has.
        devices: Vec<String>,
    }

    /// Which log a sidecar writes. Another id means that old cursors and keys are worth nothing.
    LogPlace {
        /// Its id.
        id: String,
        /// The version of its format.
        format: u64,
        /// The first log_seq that is kept.
        oldest: u64,
        /// The last log_seq there is.
        last: u64,
    }

    /// The answer to `ping`, `shutdown` and others: nothing.
    Pong {}

    /// What a person would ask first.
    Status {
        /// The sidecar's version.
        version: String,
        /// Its process id.
        pid: u32,
        /// How long it has been running, in milliseconds.
        uptime_ms: u64,
        /// How many requests there are.
        requests: RequestCounts,
        /// How the log is.
        log: LogStatus,
        /// Its models.
        #[serde(default)]
        models: Vec<Value>,
        /// Its devices.
        #[serde(default)]
        devices: Vec<Value>,
        /// Its actors.
        #[serde(default)]
        actors: Vec<Value>,
    }

    /// How many requests there are.
    RequestCounts {
        /// Waiting for a place.
        queued: u64,
        /// Running.
        running: u64,
        /// Waiting for whoever asked to come back.
        #[serde(default)]
        suspended: u64,
    }

    /// How the log is.
    LogStatus {
        /// Its id; None where it cannot be used.
        id: Option<String>,
        /// The last log_seq there is.
        last: Option<u64>,
        /// Its size.
        bytes: u64,
        /// What it may grow to.
        budget_bytes: u64,
        /// Why it cannot be used.
        unusable: Option<LogProblem>,
    }

    /// Why a log cannot be used, and the way on.
    LogProblem {
        /// `locked`, `newer`, `damaged`, `unwritable` or `failed`.
        reason: String,
        /// What to do.
        remedy: String,
        /// Where it is.
        path: String,
    }
}

impl Delta {
    /// Add what follows: text and lists concatenate.
    pub(crate) fn join(&mut self, mut next: Delta) {
        self.seq = next.seq;
        self.content.push_str(&next.content);
        self.reasoning.push_str(&next.reasoning);
        self.tool_calls.append(&mut next.tool_calls);
        self.logprobs.append(&mut next.logprobs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_are_the_numbers_that_were_computed_to_the_last_bit() {
        let numbers = [0.1_f32, 1.0 / 3.0, -2.718_281_7, 1.175_494_4e-38, f32::MAX, 8.589_973e9];
        let text = format!(
            r#"{{"model":"m","embeddings":[{}],"usage":{{"prompt_tokens":1,"total_tokens":1}},"new":1}}"#,
            serde_json::to_string(&numbers).expect("numbers are JSON")
        );
        let result: EmbedResult = serde_json::from_str(&text).expect("a result");
        assert_eq!(result.embeddings, [numbers]);
    }

    #[test]
    fn an_answer_may_have_fields_and_words_of_a_later_version() {
        let result: ChatResult = serde_json::from_str(
            r#"{"id":"r","model":"m","device":"npu:7","finish_reason":"bored","mood":1,
                "message":{"role":"assistant","content":"Hi","gestures":[]},
                "usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3,"wasted_tokens":9}}"#,
        )
        .expect("a result");
        assert_eq!((result.finish_reason.as_str(), result.message.content.as_str()), ("bored", "Hi"));
        assert_eq!(result.usage.cached_tokens, 0);
    }

    #[test]
    fn joined_pieces_say_what_they_said_in_turn() {
        let mut first: Delta =
            serde_json::from_str(r#"{"content":"a","logprobs":[{"token":"a","logprob":-1}]}"#).expect("a delta");
        let second = Delta { seq: 8, content: "b".into(), reasoning: "hm".into(), ..Delta::default() };
        first.join(second);
        assert_eq!((first.seq, first.content.as_str(), first.reasoning.as_str()), (8, "ab", "hm"));
        assert_eq!(first.logprobs.len(), 1);
    }
}
