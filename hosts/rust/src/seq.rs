//! The numbers of a stream's pieces: each exactly once, in order, from wherever the stream begins.

/// Which piece comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seqs {
    next: u64,
}

impl Seqs {
    /// A stream from its beginning.
    pub(crate) const START: Seqs = Seqs { next: 0 };

    /// A stream that goes on after the last piece that was seen; None: none was.
    pub(crate) fn after(last: Option<u64>) -> Self {
        Seqs { next: last.map_or(0, |seq| seq + 1) }
    }

    /// Take a piece in, or say what is wrong with its number.
    pub(crate) fn accept(&mut self, seq: u64) -> Result<(), String> {
        if seq != self.next {
            let wrong = if seq < self.next { "came twice" } else { "came too early" };
            return Err(format!("piece {seq} of a stream {wrong}: piece {} was due", self.next));
        }
        self.next += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_from_zero_without_a_gap() {
        let mut seqs = Seqs::START;
        assert!((0..100).all(|seq| seqs.accept(seq).is_ok()));
    }

    #[test]
    fn a_resumed_stream_goes_on_after_the_last_piece_that_was_seen() {
        let mut seqs = Seqs::after(Some(6));
        assert_eq!(seqs.accept(7), Ok(()));
        assert_eq!(Seqs::after(None), Seqs::START);
    }

    #[test]
    fn a_piece_that_comes_twice_is_an_error() {
        let mut seqs = Seqs::after(Some(6));
        assert_eq!(seqs.accept(6), Err("piece 6 of a stream came twice: piece 7 was due".into()));
    }

    #[test]
    fn a_missing_piece_is_an_error() {
        let mut seqs = Seqs::START;
        assert_eq!(seqs.accept(1), Err("piece 1 of a stream came too early: piece 0 was due".into()));
    }
}
