//! Requests become lines, lines become what has arrived: the protocol's envelope. Pure, over bytes and values.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, Kind, RpcError};
use crate::results::{Delta, Progress};

/// What version 1 takes in one line, unless it is configured otherwise.
pub(crate) const LINE_BYTES: usize = 16 * 1024 * 1024;
/// How deep version 1 lets values nest.
const DEPTH: usize = 128;
const SHOWN_BYTES: usize = 200; // Of a line that cannot be read, in a message.

/// What a line says, and for which request.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A piece of a stream.
    Piece(u64, Delta),
    /// The end of a request.
    End(u64, Result<Box<RawValue>, Error>),
    /// How far long work is.
    Progress(Progress),
    /// A notification of a kind that this crate does not know: version 1 may grow.
    Ignored,
}

#[derive(Serialize)]
struct Request<'a, P> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    method: &'a str,
    params: &'a P,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct Piece {
    request: u64,
    seq: u64,
    delta: Delta,
}

/// The line of a request; without an id that of a notification.
///
/// A line that the sidecar could not read would not be answered under its id, and its caller would wait for ever: so
/// it is refused here.
pub(crate) fn request_line<P: Serialize>(
    id: Option<u64>,
    method: &str,
    params: &P,
    limit_bytes: usize,
) -> Result<Vec<u8>, Error> {
    let request = Request { jsonrpc: "2.0", id, method, params };
    let mut line = serde_json::to_vec(&request).map_err(|error| Error::Params(error.to_string().into()))?;
    if line.len() > limit_bytes {
        let message = format!("they make a line of {} bytes, and at most {limit_bytes} are taken", line.len());
        return Err(Error::Params(message.into()));
    }
    if depth(&line) > DEPTH {
        return Err(Error::Params(format!("they nest deeper than {DEPTH}").into()));
    }
    line.push(b'\n');
    Ok(line)
}

/// Whether there is a key among a request's params.
pub(crate) fn has_key(params: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        key: Option<&'a RawValue>,
    }
    serde_json::from_str(params.get()).is_ok_and(|Named { key }| key.is_some())
}

/// What a line says, or what is wrong with it.
///
/// An answer without an id is wrong too: it is given to a line that could not be read, and which request of ours stood
/// in that nobody can tell.
pub(crate) fn parse(line: &[u8]) -> Result<Incoming, String> {
    let text = std::str::from_utf8(line).map_err(|_| unreadable(line))?;
    let envelope: Envelope = serde_json::from_str(text).map_err(|_| unreadable(line))?;
    match envelope {
        Envelope { method: Some(method), params, .. } => {
            notification(&method, params.map_or("{}", RawValue::get)).map_err(|_| unreadable(line))
        }
        Envelope { id: Some(id), error: Some(error), .. } => Ok(Incoming::End(id, Err(Error::Rpc(error.into())))),
        Envelope { id: Some(id), result: Some(result), .. } => Ok(Incoming::End(id, Ok(result.to_owned()))),
        // Answers of no known owner are lost; each request that is open hears so under its own id.
        Envelope { error: Some(error), .. } if error.kind() == Kind::OutOfRange => Ok(Incoming::Ignored),
        Envelope { error: Some(error), .. } => Err(format!("it could not read a line of this client: {error}")),
        _ => Err(unreadable(line)),
    }
}

fn notification(method: &str, params: &str) -> serde_json::Result<Incoming> {
    Ok(match method {
        "stream" => {
            let Piece { request, seq, mut delta } = serde_json::from_str(params)?;
            delta.seq = seq;
            Incoming::Piece(request, delta)
        }
        "progress" => Incoming::Progress(serde_json::from_str(params)?),
        _ => Incoming::Ignored,
    })
}

fn unreadable(line: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]);
    format!("this is no message of the protocol: {shown:?}")
}

/// How deep the values of a line nest.
fn depth(line: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Value};

    fn line(id: Option<u64>, params: &Value) -> Result<Vec<u8>, Error> {
        request_line(id, "chat", params, 1000)
    }

    #[test]
    fn a_request_is_one_line_of_json_rpc() {
        let request = line(Some(7), &json!({"text": "one\ntwo"})).expect("it can be sent");
        let expected = r#"{"jsonrpc":"2.0","id":7,"method":"chat","params":{"text":"one\ntwo"}}"#.to_string() + "\n";
        assert_eq!(String::from_utf8(request).expect("text"), expected);
        let note = line(None, &json!({})).expect("it can be sent");
        assert_eq!(note, b"{\"jsonrpc\":\"2.0\",\"method\":\"chat\",\"params\":{}}\n");
    }

    #[test]
    fn a_key_is_one_where_it_is_said_and_not_null() {
        let with = |params: Value| has_key(&serde_json::value::to_raw_value(&params).expect("JSON"));
        assert!(with(json!({"text": {"key": null}, "key": "k"})));
        assert!(!with(json!({"text": {"key": "k"}})) && !with(json!({"key": null})));
    }

    #[test]
    fn params_that_the_sidecar_could_not_read_are_refused_here() {
        let nested = |depth: usize| (0..depth).fold(json!("[[[\\\"{{{"), |inner, _| json!([inner]));
        assert!(line(Some(1), &nested(DEPTH - 1)).is_ok());
        let error = line(Some(1), &nested(DEPTH)).expect_err("too deep");
        assert!(matches!(&error, Error::Params(message) if message.contains("deeper than 128")), "{error}");
        let error = line(Some(1), &json!("x".repeat(1000))).expect_err("too long");
        assert!(matches!(&error, Error::Params(message) if message.contains("at most 1000")), "{error}");
    }

    #[test]
    fn results_errors_and_pieces_find_their_request() {
        let Ok(Incoming::End(1, Ok(result))) = parse(br#"{"jsonrpc":"2.0","id":1,"result":{"a":[1, 2]}}"#) else {
            panic!("a result")
        };
        assert_eq!(result.get(), r#"{"a":[1, 2]}"#);
        let Ok(Incoming::End(2, Err(error))) = parse(br#"{"id":2,"error":{"code":1003,"message":"no such"}}"#) else {
            panic!("an error")
        };
        assert_eq!(error.rpc().expect("the sidecar's").code, 1003);
        let piece = br#"{"method":"stream","params":{"request":3,"seq":4,"delta":{"content":"\u00e9\ud83d\ude00"}}}"#;
        let Ok(Incoming::Piece(3, delta)) = parse(piece) else { panic!("a piece") };
        assert_eq!((delta.seq, delta.content.as_str()), (4, "é😀"));
    }

    #[test]
    fn notifications_of_a_later_version_are_ignored() {
        assert!(matches!(parse(br#"{"method":"weather","params":{"sun":1}}"#), Ok(Incoming::Ignored)));
        assert!(matches!(parse(br#"{"method":"weather"}"#), Ok(Incoming::Ignored)));
    }

    #[test]
    fn what_is_no_message_of_the_protocol_is_said_to_be_none() {
        let strange: [&[u8]; 8] = [
            b"Loading weights...",
            b"",
            b"[]",
            b"{}",
            b"\xff",
            br#"{"id":1}"#,
            br#"{"id":"one","result":{}}"#,
            br#"{"method":"stream","params":{"request":1}}"#,
        ];
        for line in strange {
            assert!(parse(line).expect_err("no message").contains("no message of the protocol"));
        }
        let unattributed = br#"{"id":null,"error":{"code":-32700,"message":"this is no JSON"}}"#;
        assert!(parse(unattributed).expect_err("nobody's answer").contains("could not read a line"));
        let lost = br#"{"id":null,"error":{"code":1013,"message":"answers are gone","data":{"retryable":false}}}"#;
        assert!(matches!(parse(lost), Ok(Incoming::Ignored)));
    }
}
