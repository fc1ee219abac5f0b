//! What is asked: the params of the methods that this crate names. docs/PROTOCOL.md says what each field means.

use serde::Serialize;
use serde_json::{Map, Value};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text, or a list of parts as OpenAI has them.
    pub content: Value,
    /// Fields beyond these two, such as `tool_call_id`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Message {
    /// A turn of any role.
    pub fn new(role: impl Into<String>, content: impl Into<Value>) -> Self {
        Message { role: role.into(), content: content.into(), more: Map::new() }
    }

    /// What the user says.
    pub fn user(text: impl Into<String>) -> Self {
        Message::new("user", text.into())
    }

    /// What the model said.
    pub fn assistant(text: impl Into<String>) -> Self {
        Message::new("assistant", text.into())
    }

    /// What the model is told beforehand.
    pub fn system(text: impl Into<String>) -> Self {
        Message::new("system", text.into())
    }
}

/// What `chat` and `complete` have in common. What is None is left to the model's own defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Options {
    /// The model's name or an alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Most tokens to generate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Flatness of the distribution; 0 is greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Sample from the likeliest tokens that hold this much probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Sample from this many likeliest tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u64>,
    /// Strings at which the text ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Seed of the draws.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// A string of the host's choosing, unique for ever: a request with it runs exactly once, and survives a crash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Milliseconds that the request may take while the machine is awake and a sidecar runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// `fast` or `exact`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub determinism: Option<String>,
    /// Fields beyond these, such as `min_p`, `logprobs`, `priority` or `response_format`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A conversation that is to be answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Chat {
    /// The turns so far, oldest first.
    pub messages: Vec<Message>,
    /// How.
    #[serde(flatten)]
    pub options: Options,
}

impl Chat {
    /// A conversation that is to be answered with the model's own defaults.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Chat { messages: messages.into_iter().collect(), options: Options::default() }
    }
}

/// A text that is to be continued, without any template.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Complete {
    /// The text.
    pub prompt: String,
    /// How.
    #[serde(flatten)]
    pub options: Options,
}

impl Complete {
    /// A text that is to be continued with the model's own defaults.
    pub fn new(prompt: impl Into<String>) -> Self {
        Complete { prompt: prompt.into(), options: Options::default() }
    }
}

/// Texts that are to become vectors.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Embed {
    /// The texts.
    pub input: Vec<String>,
    /// The model's name or an alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether each vector is scaled to length 1; it is, unless this says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// A string of the host's choosing, unique for ever: a request with it runs exactly once, and survives a crash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Fields beyond these, such as `deadline_ms` or `priority`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Embed {
    /// Texts that are to become vectors of the default model.
    pub fn new<T: Into<String>>(input: impl IntoIterator<Item = T>) -> Self {
        Embed { input: input.into_iter().map(Into::into).collect(), ..Embed::default() }
    }
}

/// Params with the wish that their answer streams.
#[derive(Serialize)]
pub(crate) struct Streaming<'a, P> {
    #[serde(flatten)]
    params: &'a P,
    stream: bool,
}

impl<'a, P> Streaming<'a, P> {
    pub(crate) fn new(params: &'a P) -> Self {
        Streaming { params, stream: true }
    }
}

/// What asks for the rest of a request that has a key.
#[derive(Serialize)]
pub(crate) struct Resume<'a> {
    pub(crate) key: &'a str,
    pub(crate) after: i64,
}

impl<'a> Resume<'a> {
    /// After the last piece that was seen; None: none was.
    pub(crate) fn after(key: &'a str, last: Option<u64>) -> Self {
        let after = last.map_or(-1, |seq| i64::try_from(seq).unwrap_or(i64::MAX));
        Resume { key, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_said_is_sent() {
        let plain = serde_json::to_value(Chat::new([Message::user("Hi")])).expect("JSON");
        assert_eq!(plain, json!({"messages": [{"role": "user", "content": "Hi"}]}));
        let plain = serde_json::to_value(Embed::new(["a", "b"])).expect("JSON");
        assert_eq!(plain, json!({"input": ["a", "b"]}));
    }

    #[test]
    fn options_stand_beside_the_text_as_the_protocol_has_them() {
        let mut complete = Complete::new("Once");
        complete.options.key = Some("k".into());
        complete.options.stop = vec!["END".into()];
        complete.options.more.insert("min_p".into(), json!(0.1));
        let sent = serde_json::to_value(Streaming::new(&complete)).expect("JSON");
        assert_eq!(sent, json!({"prompt": "Once", "key": "k", "stop": ["END"], "min_p": 0.1, "stream": true}));
    }

    #[test]
    fn a_resumption_names_the_last_piece_that_was_seen() {
        assert_eq!(serde_json::to_value(Resume::after("k", None)).expect("JSON"), json!({"key": "k", "after": -1}));
        assert_eq!(serde_json::to_value(Resume::after("k", Some(6))).expect("JSON"), json!({"key": "k", "after": 6}));
    }
}
