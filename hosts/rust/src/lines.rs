//! Lines of bounded length out of a stream of bytes. Knows nothing of what they say.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

const CHUNK_BYTES: usize = 64 * 1024;

/// A line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A whole line.
    Whole(Vec<u8>),
    /// A line that is over the limit: its beginning, and how long it was. The rest was never held in memory.
    TooLong(Vec<u8>, usize),
    /// What stood unterminated at the end.
    Torn(Vec<u8>),
}

/// Reads lines; `\r\n` ends one too.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    limit_bytes: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(reader: R, limit_bytes: usize) -> Self {
        Lines { reader: BufReader::with_capacity(CHUNK_BYTES, reader), limit_bytes }
    }

    /// The next line; None at the end. What a dropped call had read is lost.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        let mut kept = Vec::new();
        let mut size = 0;
        loop {
            let available = self.reader.fill_buf().await?;
            let newline = available.iter().position(|&byte| byte == b'\n');
            let piece = &available[..newline.unwrap_or(available.len())];
            let room = self.limit_bytes.saturating_sub(kept.len());
            kept.extend_from_slice(&piece[..piece.len().min(room)]);
            size += piece.len();
            let at_end = available.is_empty();
            let used = piece.len() + usize::from(newline.is_some());
            self.reader.consume(used);
            if newline.is_some() {
                return Ok(Some(finished(kept, size)));
            }
            if at_end {
                return Ok((size > 0).then_some(Line::Torn(kept)));
            }
        }
    }
}

fn finished(mut kept: Vec<u8>, size: usize) -> Line {
    if size > kept.len() {
        return Line::TooLong(kept, size);
    }
    if kept.last() == Some(&b'\r') {
        kept.pop();
    }
    Line::Whole(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(bytes: &[u8], limit: usize) -> Vec<Line> {
        let mut lines = Lines::new(bytes, limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.expect("memory can be read") {
            all.push(line);
        }
        all
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.into())
    }

    #[tokio::test]
    async fn lines_end_with_a_newline_of_either_kind() {
        assert_eq!(lines(b"one\ntwo\r\n\nthree\n", 9).await, ["one", "two", "", "three"].map(whole));
    }

    #[tokio::test]
    async fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
        assert_eq!(lines(b"1234\n12345\n1\n", 4).await, [whole("1234"), Line::TooLong("1234".into(), 5), whole("1")]);
    }

    #[tokio::test]
    async fn what_stands_unterminated_at_the_end_is_told_apart() {
        assert_eq!(lines(b"one\ntw", 9).await, [whole("one"), Line::Torn("tw".into())]);
    }

    #[tokio::test]
    async fn a_line_that_never_ends_takes_no_more_memory_than_the_limit() {
        let endless = vec![b'x'; 5 * CHUNK_BYTES];
        let found = lines(&[&endless[..], b"\nnext\n"].concat(), 10).await;
        assert_eq!(found, [Line::TooLong(vec![b'x'; 10], endless.len()), whole("next")]);
    }

    #[tokio::test]
    async fn lines_come_whole_wherever_reads_cut_them() {
        let (mut end, reader) = tokio::io::duplex(3);
        let writer = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut end, b"a long line\nand one more\n").await.expect("it is read");
        });
        let mut lines = Lines::new(reader, 99);
        assert_eq!(lines.next().await.expect("no error"), Some(whole("a long line")));
        assert_eq!(lines.next().await.expect("no error"), Some(whole("and one more")));
        assert_eq!(lines.next().await.expect("no error"), None);
        writer.await.expect("the writer is well");
    }
}
